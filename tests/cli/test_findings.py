"""What `wsworker check` looks at."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cli.conftest import Place
from tests.master.forks import become_nobody, in_child, needs_root, proc_status, set_capabilities
from wsworker import configfile
from wsworker.cli.findings import (
    Finding,
    address_findings,
    app_finding,
    app_findings,
    backlog_findings,
    broker_findings,
    config_finding,
    control_findings,
    files_findings,
    log_findings,
    pidfile_findings,
    root_findings,
    rundir_findings,
    secret_findings,
    tls_findings,
    unwritable,
    unwritable_folder,
    user_findings,
    worker_of,
)
from wsworker.cli.rights import Worker
from wsworker.config import Config
from wsworker.master.preconditions import CANNOT_BECOME
from wsworker.master.process import CAP_KILL
from wsworker.master.rundir import paths


def loaded(place: Place, text: str = "", **environ: str) -> configfile.Loaded:
    """Load the test's config file with more lines."""
    place.config.write_text(f"app: app\n{text}")
    return configfile.load(Path("config.yaml"), environ, {})


def test_where_keys_are_from(place: Place) -> None:
    """Keys of the environment are counted apart."""
    assert "1 key" == config_finding(loaded(place)).facts
    assert "2 keys (1 from environment)" == config_finding(loaded(place, WSWORKER_WORKERS="2")).facts


def test_an_address_in_use(place: Place) -> None:
    """It is an error, unless it is this service's own, or most probably so."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = loaded(place, f"listen: {address}\n")
        (failed,) = address_findings(config, None)
        (of_another,) = address_findings(config, 1)
        (perhaps_ours,) = address_findings(config, 0)
    assert ("listen", "failed") == (failed.what, failed.verdict)
    assert "address in use by this service itself" in failed.facts
    assert "config.yaml:2:9" in failed.facts
    assert failed == of_another
    expected = f"{address} is in use, most probably by this service, which runs"
    assert Finding("listen", "warning", expected) == perhaps_ours


def test_the_address_of_this_service(place: Place) -> None:
    """Where the master has it, all is well."""
    code = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        address = f"127.0.0.1:{holder.stdout.readline().strip()}"
        (found,) = address_findings(loaded(place, f"listen: {address}\n"), holder.pid)
        holder.communicate("")
    assert Finding("listen", "ok", f"{address} is this service's, which runs") == found


def test_an_address_of_another_machine(place: Place) -> None:
    """Whatever runs, an address that cannot be had is an error."""
    found = [*address_findings(loaded(place, "listen: 192.0.2.1:2346\n"), 0)]
    assert ["failed"] == [one.verdict for one in found]


def test_open_files(place: Place) -> None:
    """A worker needs a descriptor for each connection, and some more."""
    config = loaded(place)
    assert [("ok", "open-file limit 10064 >= 10000 connections + 64 in each worker")] == [
        (one.verdict, one.facts) for one in files_findings(config, 10064)
    ]
    assert "ok" == next(files_findings(config, resource.RLIM_INFINITY)).verdict
    short = next(files_findings(config, 10063))
    assert ("warning", True) == (short.verdict, short.facts.startswith("open-file limit 10063 is below 10000 "))
    short = next(files_findings(loaded(place, "worker_connections: 20000\n"), 10064))
    assert short.facts.startswith("config.yaml:2:21: open-file limit 10064 is below 20000 ")


def test_backlog(place: Place) -> None:
    """The kernel cuts a backlog in silence, so we say it."""
    config = loaded(place, "backlog: 8192\n")
    assert [] == [*backlog_findings(config, 8192)]
    expected = "config.yaml:2:10: backlog 8192 is above net.core.somaxconn 4096; the kernel will use 4096"
    assert [Finding("backlog", "warning", expected)] == [*backlog_findings(config, 4096)]


def test_certificates(place: Place) -> None:
    """Good files are a row, an expired certificate is a warning, and what cannot be used an error with its place."""
    assert [] == [*tls_findings(loaded(place))]
    authority = Authority(place.folder)
    pair = authority.issue("one")
    section = "tls:\n  keyfile: one.key\n  certfile: one.crt\n"
    assert [Finding("tls", "ok", f"{pair.certfile}, TLS 1.2 or newer")] == [*tls_findings(loaded(place, section))]
    authority.expired("one")
    (warned,) = tls_findings(loaded(place, section))
    text = f"config.yaml:4:13: clients will not take the certificate in {pair.certfile}: certificate has expired"
    assert ("tls", "warning", True) == (warned.what, warned.verdict, warned.facts.startswith(text))
    pair.keyfile.write_text("nothing")
    (failed,) = tls_findings(loaded(place, section))
    text = f"config.yaml:3:12: tls.keyfile: {pair.keyfile} holds no private key in PEM form; name one that does"
    assert Finding("tls", "failed", text) == failed


def test_the_place_of_the_app(place: Place) -> None:
    """An app that is not there is told with the place of the setting and what is there instead."""
    place.config.write_text("name: cli-test\napp: hello\n")
    loaded_config = configfile.load(Path("config.yaml"), {}, {})
    (failed,) = app_findings(loaded_config, by_root=False)
    expected = (
        f"cannot import app 'hello' (config.yaml:2:6): no module 'hello' in {place.folder}; "
        "found app.py. Did you mean 'app'?"
    )
    assert Finding("app", "failed", expected) == failed


def test_code_that_everybody_can_change(place: Place) -> None:
    """The first path that others can write to is told, whoever asks."""
    config = loaded(place)
    assert ["ok"] == [one.verdict for one in app_findings(config, by_root=False)]
    (place.folder / "app.py").chmod(0o666)
    warned, _ = app_findings(config, by_root=False)
    file = place.folder / "app.py"
    expected = f"config.yaml:1:6: everybody can change {file}, which workers run; use `chmod o-w {file}`"
    assert Finding("rights", "warning", expected) == warned
    place.folder.chmod(0o777)
    warned, _ = app_findings(config, by_root=False)
    assert warned.facts.endswith(f"use `chmod o-w {place.folder}`")


def test_what_others_can_change_is_told_before_it_is_run(place: Place) -> None:
    """The warning is there while nothing of the app has been imported."""
    (place.folder / "app.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    (place.folder / "app.py").chmod(0o666)
    found = app_findings(loaded(place), by_root=os.geteuid() == 0)
    assert "rights" == next(found).what
    assert not (place.folder / "imported").exists()
    assert "app" == next(found).what
    assert (place.folder / "imported").exists()


def test_an_app_from_elsewhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is imported from is looked at, if that is not the folder of the app."""
    other = place.folder / "lib"
    other.mkdir()
    file = (place.folder / "app.py").rename(other / "app.py")
    monkeypatch.syspath_prepend(str(other))
    assert ["ok"] == [one.verdict for one in app_findings(loaded(place), by_root=False)]
    file.chmod(0o666)
    _, warned = app_findings(loaded(place), by_root=False)
    assert f"everybody can change {file}, which" in warned.facts


def test_an_app_with_a_thread(place: Place) -> None:
    """It may run for ever: that is no mistake, and no time is lost by it."""
    with (place.folder / "app.py").open("a") as file:
        file.write("import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    assert "ok" == app_finding(loaded(place)).verdict


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_code_that_workers_can_change(place: Place) -> None:
    """Where root starts, the code belongs neither to the user of the workers nor to anybody else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = (place.folder / "app.py").rename(folder / "app.py")
        config = loaded(place, f"app_dir: {folder}\nuser: nobody\n")
        assert ["ok"] == [one.verdict for one in app_findings(config, by_root=True)]
        os.chown(file, worker_of(config.config).uid, -1)
        warned, imported = app_findings(config, by_root=True)
        assert "workers run as nobody, who owns " in warned.facts
        assert "ok" == imported.verdict
        warned, _ = app_findings(loaded(place, f"app_dir: {folder}\n"), by_root=True)
        assert "not only root can change " in warned.facts


@needs_root
def test_code_that_the_user_cannot_read(place: Place) -> None:
    """It is imported as the user that workers become, so it is found here and not at the start."""
    config = loaded(place, "user: nobody\n")
    place.folder.chmod(0o700)
    (failed,) = app_findings(config, by_root=True)
    assert ("app", "failed") == (failed.what, failed.verdict)


@needs_root
def test_root_that_cannot_end_its_workers(place: Place) -> None:
    """Without CAP_KILL it does not start, and nothing is imported."""

    def finding() -> str:
        set_capabilities(~(1 << CAP_KILL) & int(proc_status("self", "CapPrm"), 16))
        return app_finding(loaded(place, "user: nobody\n")).facts

    sentence = "ending workers of another user needs CAP_KILL; add it, or remove `user` and `group`"
    assert sentence == in_child(finding)


def test_whom_workers_run_as() -> None:
    """Without `user` root stays root; with it, groups are those of the user, `group` in place of the primary one."""
    assert Worker("root", 0, frozenset({0})) == worker_of(Config(app="app"))
    nobody = worker_of(Config(app="app", user="nobody"))
    assert ("nobody", True) == (nobody.name, nobody.uid > 0)
    assert frozenset({0}) == worker_of(Config(app="app", user="nobody", group="root")).groups
    groups = {one.pw_name: os.getgrouplist(one.pw_name, 0) for one in pwd.getpwall()}
    name = max(groups, key=lambda name: len(groups[name]))
    assert frozenset(groups[name]) == worker_of(Config(app="app", user=name, group="root")).groups


def test_the_address_of_operators(place: Place) -> None:
    """It is tried like the others, and told by its own key."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = loaded(place, f"listen: unix:own.ws\nadmin:\n  listen: 127.0.0.1:{port}\n")
        free, failed = address_findings(config, None)
    assert ("listen", "ok") == (free.what, free.verdict)
    assert ("admin", "failed") == (failed.what, failed.verdict)
    assert failed.facts.startswith(f"cannot listen on 127.0.0.1:{port}: address in use")
    assert failed.facts.endswith("change `admin.listen` (config.yaml:4:11)")


def test_the_log_file(place: Place) -> None:
    """It is there and writable, or its folder is; otherwise the reason stands behind its place."""
    assert [] == [*log_findings(loaded(place))]
    file = place.folder / "hello.log"
    config = loaded(place, "log:\n  file: hello.log\n")
    assert [Finding("log", "ok", f"{file} can be written")] == [*log_findings(config)]
    assert not file.exists()
    file.mkdir()
    (failed,) = log_findings(config)
    sentence = f"cannot write the log file {file}: it is a directory; change `log.file` or make it writable"
    assert Finding("log", "failed", f"config.yaml:3:9: {sentence}") == failed


def test_the_pid_file(place: Place) -> None:
    """A start does without it, so it is only a warning."""
    assert [] == [*pidfile_findings(loaded(place))]
    assert [] == [*pidfile_findings(loaded(place, "pidfile: hello.pid\n"))]
    (warned,) = pidfile_findings(loaded(place, "pidfile: run/hello.pid\n"))
    sentence = (
        f"cannot write the pid file {place.folder}/run/hello.pid: there is no directory {place.folder}/run; "
        "the service would run without it"
    )
    assert Finding("pidfile", "warning", f"config.yaml:2:10: {sentence}") == warned


def test_what_can_be_written(tmp_path: Path) -> None:
    """Nothing is made or changed to find out."""
    (tmp_path / "file").touch()
    assert unwritable(tmp_path / "file") is None
    assert unwritable(tmp_path / "new") is None
    assert "it is a directory" == unwritable(tmp_path)
    assert f"there is no directory {tmp_path}/gone" == unwritable(tmp_path / "gone" / "new")
    assert f"{tmp_path}/file is not a directory" == unwritable_folder(tmp_path / "file")
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels of symbolic links" == unwritable(tmp_path / "loop")
    assert ["file", "loop"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_permission(tmp_path: Path) -> None:
    """The answer is that of the user who asks."""
    (tmp_path / "file").touch(mode=0o400)
    assert "no permission to write it" == unwritable(tmp_path / "file")
    tmp_path.chmod(0o500)
    assert f"no permission to write in {tmp_path}" == unwritable_folder(tmp_path)


def test_becoming_somebody_else(place: Place) -> None:
    """It takes root, as a start would say in the same words; oneself is no other."""

    def findings() -> list[list[str]]:
        os.chdir("/")
        if os.geteuid() == 0:
            become_nobody()
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        own = Config(app="app", user=user, group=group)
        found = []
        for config in (own, Config(app="app", user="root"), Config(app="app", group="root")):
            one = configfile.Loaded(config, place.config, "config.yaml", {})
            found += [[one.what, one.verdict, one.facts] for one in user_findings(one)]
        return found

    expected = [[key, "failed", f"default: {CANNOT_BECOME}"] for key in ("user", "group")]
    assert expected == in_child(findings)
    if os.geteuid() == 0:
        assert [] == [*user_findings(loaded(place, "user: nobody\n"))]


def test_workers_that_would_be_root(place: Place) -> None:
    """A warning, in the words of a start, which has it each time."""
    expected = Finding("user", "warning", "workers run as root; set `user` in config.yaml")
    assert [expected] == [*root_findings(loaded(place), 0)]
    assert [] == [*root_findings(loaded(place), 1000)]


def test_a_password_that_everybody_can_read(place: Place) -> None:
    """One in a file that others may read is told, with its place; one in the environment has no such file."""
    url = "redis://:secret@127.0.0.1"

    def told(mode: int, text: str = "", **environ: str) -> list[str]:
        config = loaded(place, text, **environ)
        place.config.chmod(mode)
        return [one.facts for one in secret_findings(config)]

    (facts,) = told(0o644, f"bus:\n  url: {url}\n")
    assert facts.startswith("config.yaml:3:8: a password stands in bus.url, and everybody may read this file (0644); ")
    assert "secret" not in facts
    assert [] == told(0o640, f"bus:\n  url: {url}\n")
    assert [] == told(0o644, "bus:\n  url: redis://127.0.0.1\n")
    assert [] == told(0o644, WSWORKER_BUS__URL=url)
    assert [] == told(0o644)


@needs_root
def test_files_of_a_broker_that_workers_cannot_read(place: Place) -> None:
    """A key for root alone is none for workers that are somebody else by the time when they load it."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        key = Path(folder) / "key.pem"
        key.touch(0o600)
        text = f"bus:\n  url: tls://127.0.0.1?cert={key}&key={key}\n"
        assert [] == [*broker_findings(loaded(place, text), by_root=True)]
        (finding,) = broker_findings(loaded(place, f"{text}user: nobody\n"), by_root=True)
    sentence = f"workers run as nobody, who cannot read {key}; give nobody the right to"
    assert f"config.yaml:3:8: {sentence}" == finding.facts
    assert [] == [*broker_findings(loaded(place, "user: nobody\n"), by_root=True)]


def test_files_of_a_broker_that_we_cannot_read(place: Place) -> None:
    """Without root workers are who asks."""
    Path("ca.pem").touch()
    config = loaded(place, f"bus:\n  url: tls://127.0.0.1?ca={place.folder}/ca.pem\n")
    assert [] == [*broker_findings(config, by_root=False)]


def test_a_run_directory_that_cannot_be_had(place: Place) -> None:
    """What a start would say is said, and nothing is made; one that is there and ours, or can be made, is fine."""
    at = place.paths
    assert [] == [*rundir_findings(at)]
    assert not at.folder.exists()
    at.folder.mkdir(mode=0o777)
    at.folder.chmod(0o777)
    sentence = f"run directory {at.folder}: others can write to it; run `chmod 700 {at.folder}`"
    assert [Finding("run directory", "failed", sentence)] == [*rundir_findings(at)]
    at.folder.chmod(0o700)
    assert [] == [*rundir_findings(at)]
    at.folder.rmdir()
    cure = "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    at.folder.symlink_to(place.folder)
    assert [f"run directory {at.folder}: it is a symbolic link; {cure}"] == [one.facts for one in rundir_findings(at)]
    at.folder.unlink()
    at.folder.touch()
    assert [f"run directory {at.folder}: it is not a directory; {cure}"] == [one.facts for one in rundir_findings(at)]
    below = paths("x", "auto", {"RUNTIME_DIRECTORY": str(at.folder / "below")}, 0)
    assert [f"run directory {below.folder}: Not a directory; {cure}"] == [one.facts for one in rundir_findings(below)]
    of_the_kernel = paths("x", "auto", {"RUNTIME_DIRECTORY": "/proc/1/none/wsworker"}, 0)
    assert ["failed"] == [one.verdict for one in rundir_findings(of_the_kernel)] or os.geteuid() == 0


def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The folder that would have to be written in is named."""

    def facts() -> list[str]:
        if os.geteuid() == 0:
            os.chdir("/")
            become_nobody()
        at = paths("x", "auto", {"RUNTIME_DIRECTORY": "/usr/wsworker/hello"}, 0)
        return [one.facts for one in rundir_findings(at)]

    cure = "remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    assert [f"run directory /usr/wsworker/hello: no permission to write in /usr; {cure}"] == in_child(facts)


def test_the_control_socket(place: Place) -> None:
    """In its place there may be a socket, whoever left it, and nothing else; its folder is there."""
    config = loaded(place, "control_socket: own/x.sock\n")
    at = paths("x", config.config.control_socket, os.environ, os.geteuid())
    folder = place.folder / "own"
    (missing,) = control_findings(config, at)
    sentence = (
        f"cannot make the control socket {folder}/x.sock: there is no directory {folder}; change `control_socket`"
    )
    assert Finding("control socket", "failed", f"config.yaml:2:17: {sentence}") == missing
    folder.mkdir()
    assert [] == [*control_findings(config, at)]
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(at.socket))
    assert [] == [*control_findings(config, at)]
    at.socket.unlink()
    at.socket.touch()
    (failed,) = control_findings(config, at)
    sentence = f"{folder}/x.sock is in the place of the control socket; remove it, or change `control_socket`"
    assert Finding("control socket", "failed", f"config.yaml:2:17: {sentence}") == failed


@pytest.mark.parametrize(
    ("mode", "folder", "own", "told"),
    [
        ("0660", "/run/user/1/wsworker", "", True),
        ("0600", "/run/user/1/wsworker", "", False),
        ("0660", "/run/wsworker/hello", "", False),
        ("0660", "/run/user/1/wsworker", "control_socket: x.sock\n", False),
    ],
)
def test_a_group_that_would_find_nothing(place: Place, mode: str, folder: str, own: str, told: bool) -> None:
    """Commands of other users look below /run/wsworker, and where control_socket is."""
    config = loaded(place, f'control_socket_mode: "{mode}"\n{own}')
    at = paths("x", config.config.control_socket, {"RUNTIME_DIRECTORY": folder}, 0)
    found = [one.facts for one in control_findings(config, at)]
    assert told == bool(found)
    if told:
        sentence = f"control_socket_mode 0660 has no effect: commands of other users do not look into {folder}; set "
        assert found[0].startswith(f"config.yaml:2:22: {sentence}")


def test_the_length_of_the_path() -> None:
    """The path of the control socket has 107 bytes at most, and what makes it shorter is named."""
    folder = "/" + "x" * 91
    assert [] == [*rundir_findings(paths("ninechars", "auto", {"RUNTIME_DIRECTORY": folder}, 0))]
    (failed,) = rundir_findings(paths("ninechars", "auto", {"RUNTIME_DIRECTORY": f"{folder}x"}, 0))
    sentence = "has 108 bytes, a socket may have 107; set `control_socket` to a shorter one"
    assert Finding("run directory", "failed", f"the path {folder}x/ninechars.sock {sentence}") == failed
