"""wsworker itself: the whole daemon, a master and one worker, as a user would start it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.server import HOST, Server

APP = """
def on_message(connection, data):
    connection.send(data)
"""

CONFIG = """
name: benchmark
app: echo_app
listen: {host}:{port}
workers: 1
loop: {loop}
websocket: {{ping_interval: {ping_interval}}}
log: {{level: warning}}
"""


def daemon(name: str, loop: str = "uvloop", ping_interval: str = "0") -> Server:
    """Return the daemon with some settings."""

    def arguments(port: int, folder: Path) -> list[str]:
        (folder / "echo_app.py").write_text(APP)
        config = folder / "config.yaml"
        config.write_text(CONFIG.format(host=HOST, port=port, loop=loop, ping_interval=ping_interval))
        return ["-m", "wsworker", "start", "-c", str(config)]

    return Server(name, (), arguments)


# Pings are off, as at every server: the load knows only echoes.
SERVER = daemon("wsworker")

# An idle connection has its heart beat, as it would have by default, but none of the pings falls into the measurement.
IDLE = daemon("wsworker", ping_interval="1h")
IDLE_ASYNCIO = daemon("wsworker asyncio", loop="asyncio", ping_interval="1h")
