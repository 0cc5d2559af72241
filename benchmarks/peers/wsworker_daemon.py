"""wsworker itself: the whole daemon, a master and one worker, as a user would start it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.server import HOST, Server

APP = """
def on_message(connection, data):
    connection.send(data)
"""

# Pings are off at every server: the load client knows only echoes.
CONFIG = """
name: benchmark
app: echo_app
listen: {host}:{port}
workers: 1
websocket: {{ping_interval: 0}}
log: {{level: warning}}
"""


def arguments(port: int, folder: Path) -> list[str]:
    """Write the app and its configuration."""
    (folder / "echo_app.py").write_text(APP)
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(host=HOST, port=port))
    return ["-m", "wsworker", "start", "-c", str(config)]


SERVER = Server("wsworker", (), arguments)
