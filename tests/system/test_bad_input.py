"""Bad input at the command line: each mistake is one sentence that names the thing, the place and the next step.

In none of these cases anything hangs, a process stays, or a traceback of wsworker's own is printed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import pytest

from tests.system.conftest import MakeDaemon
from tests.system.daemon import HELLO, Daemon, Outcome

NOBODY = 65534


def start(daemon: Daemon, *flags: str) -> Outcome:
    """Return how a start ended that must fail, after what is the same for each such start was checked."""
    outcome = daemon.cli("start", *flags)
    outcome.check_tone()
    assert "" == outcome.out
    assert outcome.code != 0
    assert outcome.err.count("Traceback") <= 1, outcome.err
    assert not daemon.processes()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", daemon.port))
    return outcome


# The config file


def test_no_config_file(make_daemon: MakeDaemon) -> None:
    """Without a config file every command says where it looked, and exits 78."""
    daemon = make_daemon()
    daemon.config.unlink()
    for command in ("start", "stop", "reload", "status", "check"):
        outcome = daemon.cli(command)
        assert (78, "") == (outcome.code, outcome.out)
        assert outcome.err.startswith("config.yaml: error: "), outcome.err
        outcome.check_tone()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "config.yaml:1:1: error: app is missing; add `app: module`", id="empty"),
        pytest.param("app: app\nwrokers: 4\n", "config.yaml:2:1: error: unknown key 'wrokers'; did you mean", id="key"),
        pytest.param("app: app\nworkers: many\n", "config.yaml:2:10: error: workers must be ", id="type"),
        pytest.param(
            "app: app\nloop: auto\nloop: asyncio\n", "config.yaml:3:1: error: duplicate key 'loop' (first on line 2)",
            id="twice",
        ),
        pytest.param("app: app\nuser: no-such-user\n", "config.yaml:2:7: error: ", id="user"),
        pytest.param("app: [\n", "config.yaml:2:1: error: ", id="yaml"),
        pytest.param("a: \x00", "config.yaml:1:4: error: ", id="control character"),
    ],
)  # fmt: skip
def test_a_bad_config(make_daemon: MakeDaemon, text: str, said: str) -> None:
    """A mistake in the config is shown as file:line:column, and exits 78."""
    daemon = make_daemon()
    daemon.config.write_text(text)
    started = start(daemon)
    assert 78 == started.code
    assert said in started.err


def test_all_mistakes_at_once(make_daemon: MakeDaemon) -> None:
    """Every mistake has its line, source and caret, and the last line counts them; --json has them too."""
    daemon = make_daemon()
    daemon.config.write_text("app: app\nwrokers: 4\nlisten: 70000\n")
    started = start(daemon)
    assert (
        "config.yaml:2:1: error: unknown key 'wrokers'; did you mean 'workers'?\n  wrokers: 4\n  ^^^^^^^\n"
        in started.err
    )
    assert "config.yaml:3:9: error: " in started.err
    assert started.err.endswith("wsworker: 2 errors in config.yaml\n")
    # `check` says the same
    assert (78, "", started.err) == daemon.cli("check")
    error = daemon.cli("start", "--json").document()["error"]
    assert ("config_invalid", "config.yaml", 2, 1) == (error["code"], error["file"], error["line"], error["column"])
    assert [2, 3] == [problem["line"] for problem in error["problems"]]


def test_an_unknown_variable(make_daemon: MakeDaemon) -> None:
    """A misspelt WSWORKER_ variable is an error and not silently nothing."""
    daemon = make_daemon()
    daemon.environ["WSWORKER_WROKERS"] = "4"
    started = start(daemon)
    assert 78 == started.code
    assert "WSWORKER_WROKERS" in started.err


@pytest.mark.parametrize("arguments", [("--no-such-option",), ("surplus",)])
def test_a_wrong_command_line(make_daemon: MakeDaemon, arguments: tuple[str, ...]) -> None:
    """What the command line does not know is a usage error: 2, one line."""
    outcome = make_daemon().cli("start", *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith("error: ")
    assert 1 == outcome.err.count("\n")


# The app

KNOCK = """
import socket
from pathlib import Path

with socket.socket() as knock:
    Path("knock.txt").write_text(str(knock.connect_ex(("127.0.0.1", {port}))))
"""
"""Looks from within the import whether the port listens already: the number of ECONNREFUSED is expected."""


@pytest.mark.parametrize(
    ("app", "said"),
    [
        pytest.param(None, "no module 'app' in ", id="missing"),
        pytest.param("def on_message(connection, data)\n    pass\n", "SyntaxError: expected ':'", id="syntax"),
        pytest.param(
            "import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'", id="missing import"
        ),
        pytest.param("raise RuntimeError('not today')\n", "RuntimeError: not today", id="raises"),
        pytest.param("x = 1\n", "has no callback; define at least one", id="no callback"),
        pytest.param("def onMessage(connection, data): pass\n", "did you mean 'on_message'?", id="misspelt"),
        pytest.param("def on_message(connection): pass\n", "on_message takes (connection)", id="signature"),
        pytest.param("import sys\nsys.exit(0)\n", "SystemExit", id="exits"),
    ],
)
def test_an_app_that_cannot_be_loaded(make_daemon: MakeDaemon, app: str | None, said: str) -> None:
    """An app that cannot be loaded is exit 78, with the user's own traceback once, and the port has never listened."""
    daemon = make_daemon(workers=2)
    if app is None:
        (daemon.folder / "app.py").unlink()
    else:
        daemon.write_app(KNOCK.format(port=daemon.port) + app)
    outcome = start(daemon)
    assert 78 == outcome.code
    assert said in outcome.err
    assert 1 == outcome.err.count("\nerror: ")
    knocked = daemon.folder / "knock.txt"
    if knocked.exists():
        assert "111" == knocked.read_text()
    assert 3 == daemon.cli("status").code


def test_the_background_tells_what_is_wrong(make_daemon: MakeDaemon) -> None:
    """`start -d` ends as the foreground does: exit 78 and the user's traceback on standard error."""
    daemon = make_daemon("import no_such_module\n", log={"file": "log.txt"})
    outcome = start(daemon, "-d")
    assert 78 == outcome.code
    assert "ModuleNotFoundError: No module named 'no_such_module'" in outcome.err
    assert "app_invalid" == daemon.cli("start", "-d", "--json").document()["error"]["code"]


def test_a_worker_start_that_raises(make_daemon: MakeDaemon) -> None:
    """on_worker_start that raises at the first start is exit 1, with the user's traceback."""
    daemon = make_daemon(HELLO + "def on_worker_start(worker):\n    raise OSError('no database')\n", workers=2)
    outcome = start(daemon)
    assert 1 == outcome.code
    assert "OSError: no database" in outcome.err
    assert 'app.py", line ' in outcome.err


def test_a_worker_start_that_never_ends(make_daemon: MakeDaemon) -> None:
    """on_worker_start that hangs is given boot_timeout; then the start has failed."""
    daemon = make_daemon(
        HELLO + "import time\ndef on_worker_start(worker):\n    time.sleep(600)\n", boot_timeout="500ms"
    )
    outcome = start(daemon)
    assert 1 == outcome.code
    assert "boot_timeout" in outcome.err


# The port


@pytest.mark.parametrize("reuse_port", [False, True], ids=["plain", "SO_REUSEPORT"])
def test_a_port_in_use(make_daemon: MakeDaemon, reuse_port: bool) -> None:
    """A port that another program listens on, also one that would share it: exit 1 at once, and it is named."""
    daemon = make_daemon()
    with socket.socket() as other:
        if reuse_port:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", daemon.port))
        other.listen()
        outcome = daemon.cli("start", seconds=15)
    outcome.check_tone()
    assert 1 == outcome.code
    assert f"error: cannot listen on 127.0.0.1:{daemon.port}: address in use by pid {os.getpid()} (" in outcome.err
    assert f"; change `listen` ({daemon.place('listen')})\n" in outcome.err
    assert not daemon.processes()


def test_a_port_of_another_service(make_daemon: MakeDaemon) -> None:
    """Two services on one port: the second start fails and names the master of the first, which serves on."""
    one = make_daemon().start()
    two = make_daemon(listen=f"127.0.0.1:{one.port}")
    outcome = two.cli("start")
    assert 1 == outcome.code
    assert f"address in use by pid {one.master} (" in outcome.err
    assert "hello tom" == one.echo("tom")


def test_a_port_below_1024(make_daemon: MakeDaemon, require: Callable[[str], str]) -> None:
    """A port that needs a privilege, without it: exit 1, and the sentence says what is needed."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 1:
            pytest.skip("on this machine every user may listen on every port")
    daemon = make_daemon(listen="127.0.0.1:1")
    command = [sys.executable, "-m", "wsworker", "start", "-c", "config.yaml"]
    if os.geteuid() == 0:
        # root without the capability: another user could not read a checkout or an interpreter below /root
        command = [require("setpriv"), "--bounding-set", "-net_bind_service", *command]
    done = subprocess.run(
        command, cwd=daemon.folder, env=daemon.environ, capture_output=True, text=True, timeout=30, check=False
    )
    Outcome(done.returncode, done.stdout, done.stderr).check_tone()
    assert 1 == done.returncode, done.stderr
    assert "error: cannot listen on 127.0.0.1:1: permission denied: ports below " in done.stderr
    assert "need root or CAP_NET_BIND_SERVICE" in done.stderr


def test_an_address_of_another_machine(make_daemon: MakeDaemon) -> None:
    """An address that this machine does not have is said to be none of its own."""
    outcome = start(make_daemon(listen="192.0.2.1:2346"))
    assert 1 == outcome.code
    assert "error: cannot listen on 192.0.2.1:2346: no such address on this machine" in outcome.err


# What runs, and what does not


def test_already_running(make_daemon: MakeDaemon) -> None:
    """A second start of the same config: exit 1, with the pid of the one that runs, which serves on."""
    daemon = make_daemon(log={"file": "log.txt"}).start()
    master = daemon.master
    for flags in ((), ("-d",)):
        outcome = daemon.cli("start", *flags)
        outcome.check_tone()
        assert (1, "") == (outcome.code, outcome.out)
        said = f"error: {daemon.name} is already running (pid {master}); use `wsworker reload` or `wsworker restart`\n"
        assert said == outcome.err
    assert (master, "hello tom") == (daemon.master, daemon.echo("tom"))


def test_not_running(make_daemon: MakeDaemon) -> None:
    """Without a service: stop and reload exit 7 and name the socket, status exits 3; --json has the code."""
    daemon = make_daemon()
    said = f"error: {daemon.name} is not running (no socket at {daemon.run_dir}/{daemon.name}.sock); "
    for command in ("stop", "reload"):
        outcome = daemon.cli(command)
        outcome.check_tone()
        assert (7, "") == (outcome.code, outcome.out)
        assert outcome.err.startswith(said)
    shown = daemon.cli("status")
    assert (3, "") == (shown.code, shown.err)
    assert shown.out.startswith(f"{daemon.name}  stopped  ")
    assert "not_running" == daemon.cli("stop", "--json").document()["error"]["code"]
    assert "stopped" == daemon.cli("status", "--json").document()["state"]


def test_what_a_dead_master_left(make_daemon: MakeDaemon) -> None:
    """Leftovers of a killed master: status exits 1, stop and reload 7; the next start replaces them."""
    daemon = make_daemon().start()
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.wait_gone()
    shown = daemon.cli("status")
    assert (1, "") == (shown.code, shown.err)
    assert shown.out.startswith(f"{daemon.name}  dead  its master died; start it again with `wsworker start`, which ")
    assert [7, 7] == [daemon.cli(command).code for command in ("stop", "reload")]
    assert "hello tom" == daemon.start().echo("tom")


def test_a_pid_file_proves_nothing(make_daemon: MakeDaemon) -> None:
    """A pid file that names a living stranger keeps nobody from starting, and the stranger from nothing."""
    daemon = make_daemon()
    daemon.run_dir.mkdir(mode=0o700)
    (daemon.run_dir / f"{daemon.name}.pid").write_text(f"{os.getpid()} 1\n")
    assert 7 == daemon.cli("stop").code
    assert "hello tom" == daemon.start().echo("tom")


# The run directory


def test_a_run_directory_of_somebody_else(make_daemon: MakeDaemon) -> None:
    """A run directory that belongs to another user is not used, not even by clients."""
    daemon = make_daemon()
    daemon.run_dir.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(daemon.run_dir, NOBODY, NOBODY)
        folder, owner = str(daemon.run_dir), NOBODY
    else:
        folder, owner = "/usr", 0
        daemon.environ["RUNTIME_DIRECTORY"] = folder
    outcome = start(daemon)
    assert 1 == outcome.code
    assert f"error: run directory {folder}: it belongs to uid {owner}, wsworker runs as {os.geteuid()}; " in outcome.err
    assert [7, 3] == [daemon.cli(command).code for command in ("stop", "status")]


def test_a_run_directory_that_is_none(make_daemon: MakeDaemon) -> None:
    """A link, a file, or a directory that all may write to, in its place: exit 1, with what to do."""
    daemon = make_daemon()
    daemon.run_dir.symlink_to(daemon.folder)
    assert "it is a symbolic link; " in start(daemon).err
    daemon.run_dir.unlink()
    daemon.run_dir.touch()
    assert "it is not a directory; " in start(daemon).err
    daemon.run_dir.unlink()
    daemon.run_dir.mkdir()
    daemon.run_dir.chmod(0o777)
    assert f"others can write to it; run `chmod 700 {daemon.run_dir}`" in start(daemon).err


# The control socket


def test_garbage_at_the_control_socket(make_daemon: MakeDaemon) -> None:
    """What is no command closes that connection and changes nothing."""
    daemon = make_daemon().start()
    before = daemon.workers
    for rubbish in (b"\xff\x00\n", b"{}\n", b'{"command": "dance"}\n', b"x" * 100_000):
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.settimeout(10)
            sock.connect(str(daemon.run_dir / f"{daemon.name}.sock"))
            try:
                sock.sendall(rubbish)
                while sock.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
    assert before == daemon.workers
    assert "Traceback" not in daemon.log
