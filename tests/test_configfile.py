"""The config file, the environment and flags: what wins, and every problem with its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.master.forks import become_nobody, in_child
from wsworker import config, configfile
from wsworker.brokers import parse
from wsworker.config import KEYS, Config, ListenAddress
from wsworker.configfile import Loaded, Peek, PeekedBus, find, load, objection, peek, peek_bus
from wsworker.errors import ConfigError, Problem

GOLDEN = Path(__file__).parent / "golden_config"
SHIPPED = Path(__file__).parent.parent / "config"
LOG_VARIABLES = ("WSWORKER_LOG__LEVEL", "WSWORKER_LOG__FORMAT", "WSWORKER_LOG__FILE", "WSWORKER_LOG__ACCESS")
NO_FLAGS: Mapping[str, tuple[str, str]] = {}
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder named hello, which is the working directory."""
    made = tmp_path / "hello"
    made.mkdir()
    monkeypatch.chdir(made)
    monkeypatch.setattr(configfile, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")
    return made


def loaded_from(
    text: str, environ: Mapping[str, str] | None = None, flags: Mapping[str, tuple[str, str]] = NO_FLAGS
) -> Loaded:
    """Load this text as config.yaml in the working directory."""
    path = Path("config.yaml")
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {}, flags)


def problems_of(
    text: str, environ: Mapping[str, str] | None = None, flags: Mapping[str, tuple[str, str]] = NO_FLAGS
) -> list[str]:
    """Load this text and return the first line of each problem."""
    with pytest.raises(ConfigError) as caught:
        loaded_from(text, environ, flags)
    assert caught.value.file == "config.yaml"
    return [str(problem).partition("\n")[0] for problem in caught.value.problems]


# Golden files


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_golden(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad file gives exactly the text that lies beside it."""
    if path.stem in ("unclosed_bracket", "surrogate") and not yaml.__with_libyaml__:
        pytest.skip("the wording is that of libyaml, which this PyYAML is built without")
    monkeypatch.chdir(GOLDEN)
    with pytest.raises(ConfigError) as caught:
        load(Path(path.name), {}, NO_FLAGS)
    assert path.with_suffix(".txt").read_text(encoding="utf-8") == f"{caught.value}\n"


def test_golden_files_are_complete() -> None:
    """No bad file lacks its text, and no text its file."""
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == {path.stem for path in GOLDEN.glob("*.txt")}
    assert len(list(GOLDEN.glob("*.yaml"))) >= 40


# The files that are shipped


def test_config_yaml_holds_every_default(tmp_path: Path) -> None:
    """config/config.yaml has every key, in the order of the models, with its default."""
    text = (SHIPPED / "config.yaml").read_text(encoding="utf-8")
    plain = yaml.load(text, Loader=yaml.BaseLoader)
    keys = [
        f"{name}.{key}" if isinstance(value, dict) else name
        for name, value in plain.items()
        for key in (value if isinstance(value, dict) else [name])
    ]
    assert list(KEYS) == keys
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "bare.yaml").write_text("app: app\n", encoding="utf-8")
    complete = load(tmp_path / "config.yaml", {}, NO_FLAGS).config
    bare = load(tmp_path / "bare.yaml", {}, NO_FLAGS).config
    for key in KEYS:
        assert config.value_of(bare, key) == config.value_of(complete, key), key


# Which file


def test_find_takes_the_first_of_four(folder: Path) -> None:
    """-c wins over the variable, that over ./config.yaml, and that over the system's file."""
    system = configfile.SYSTEM_FILE
    system.parent.mkdir()
    system.touch()
    assert system == find(None, {})
    Path("config.yaml").touch()
    assert Path("config.yaml") == find(None, {"WSWORKER_CONFIG": ""})
    assert Path("x.yaml") == find(None, {"WSWORKER_CONFIG": "x.yaml"})
    assert Path("y.yaml") == find("y.yaml", {"WSWORKER_CONFIG": "x.yaml"})
    # who names nothing means something, and not the next one
    assert Path() == find("", {"WSWORKER_CONFIG": "x.yaml"})


def test_find_what_cannot_be_seen(folder: Path, tmp_path: Path) -> None:
    """In a folder that is closed to us there may be a file: it is taken, and reading it says what is wrong."""

    def found() -> list[str]:
        closed = tmp_path / "etc"
        closed.mkdir(mode=0)
        if os.geteuid() == 0:
            become_nobody()
        configfile.SYSTEM_FILE = closed / "config.yaml"  # type: ignore[misc]  # this process ends
        os.chdir("/")
        path = find(None, {})
        with pytest.raises(ConfigError) as caught:
            peek(path, {})
        return [str(path.relative_to(closed)), caught.value.problems[0].message]

    assert ["config.yaml", "no permission to read it; change its rights, or run as a user who may"] == in_child(found)


def test_find_nothing(folder: Path) -> None:
    """Without any file the message names both places and the next step."""
    with pytest.raises(ConfigError) as caught:
        find(None, {})
    (problem,) = caught.value.problems
    assert str(problem) == (
        f"config.yaml: error: no such file, and no {configfile.SYSTEM_FILE}; "
        "name your config file with -c FILE or in WSWORKER_CONFIG"
    )


def test_a_file_that_is_not_there(folder: Path) -> None:
    """It is one sentence, for load and for peek."""
    for read in (lambda path: load(path, {}, NO_FLAGS), lambda path: peek(path, {})):
        with pytest.raises(ConfigError, match=r"none.yaml: error: no such file; create it, or name another with -c"):
            read(Path("none.yaml"))


# Precedence and places


def test_precedence(folder: Path) -> None:
    """A flag wins over the environment, that over the file, and that over the default."""
    text = "app: hello\nworkers: 2\nbacklog: 2\nboot_timeout: 2\n"
    environ = {"WSWORKER_WORKERS": "3", "WSWORKER_BACKLOG": "3", "PATH": "/bin"}
    loaded = loaded_from(text, environ, {"workers": ("-w", "4")})
    made = loaded.config
    assert (4, 3, 2.0, 30.0) == (made.workers, made.backlog, made.boot_timeout, made.worker_timeout)
    assert loaded.place("workers") == "flag -w"
    assert loaded.place("backlog") == "environment WSWORKER_BACKLOG"
    assert loaded.place("boot_timeout") == "config.yaml:4:15"
    assert loaded.place("worker_timeout") == "default"
    assert (folder / "config.yaml", "config.yaml") == (loaded.path, loaded.shown)


def test_environment_is_yaml(folder: Path) -> None:
    """A variable may hold a list, and a section's key has two underscores."""
    environ = {
        "WSWORKER_APP": "hello",
        "WSWORKER_LISTEN": "[127.0.0.1:80, '[::1]:80']",
        "WSWORKER_LOG__LEVEL": "debug",
        "WSWORKER_USER": "",
        "WSWORKER_CONFIG": "elsewhere.yaml",
        "WSWORKER_TEST_REQUIRE": "all",
    }
    loaded = loaded_from("", environ)
    assert loaded.config.listen == (ListenAddress("127.0.0.1", 80), ListenAddress("::1", 80))
    assert loaded.config.log.level == "debug"
    assert loaded.config.user is None


def test_wrong_variables_and_flags(folder: Path) -> None:
    """Problems of variables and flags have their name as place and stand behind those of the file."""
    environ = {
        "WSWORKER_WROKERS": "4",
        "WSWORKER_DAEMON": "1",
        "WSWORKER_LOG": "{level: debug}",
        "WSWORKER_LOG_LEVEL": "debug",
        "WSWORKER_log__file": "x",
        "WSWORKER_BACKLOG": "many",
        "WSWORKER_LISTEN": "[::]:80",
        "WSWORKER_USER": "&x nobody-of-that-name",
    }
    flags = {"workers": ("-w", "x"), "log.level": ("--log-level", "'")}
    no_anchor = "an anchor (&) is not supported; remove it, or quote a value that starts with &"
    assert problems_of("app: hello\nworker_connections: 0\n", environ, flags) == [
        "config.yaml:2:21: error: worker_connections must be a number from 1 to 1000000, not 0",
        "environment WSWORKER_DAEMON: error: unknown variable; use `wsworker start -d`",
        'environment WSWORKER_LISTEN: error: an IPv6 address needs quotes in YAML: "[::]:2346"',
        f"environment WSWORKER_LOG: error: unknown variable; this section has {', '.join(LOG_VARIABLES)}",
        "environment WSWORKER_LOG_LEVEL: error: unknown variable; did you mean WSWORKER_LOG__LEVEL?",
        f"environment WSWORKER_USER: error: {no_anchor}",
        "environment WSWORKER_WROKERS: error: unknown variable; did you mean WSWORKER_WORKERS?",
        "environment WSWORKER_log__file: error: unknown variable; did you mean WSWORKER_LOG__FILE?",
        "flag --log-level: error: this quote is never closed; close it, or quote the whole value with the other kind",
        "flag -w: error: workers must be a number from 1 to 256, or auto, not 'x'",
        "environment WSWORKER_BACKLOG: error: backlog must be a number from 1 to 65535, not 'many'",
        "environment WSWORKER_USER: error: unknown user 'nobody-of-that-name'; create it, or remove `user`",
    ]


def test_service_links(folder: Path) -> None:
    """What Kubernetes sets for a Service called wsworker is one problem, with the line that ends it."""
    environ = {
        "WSWORKER_PORT": "tcp://10.0.0.1:2346",
        "WSWORKER_SERVICE_HOST": "10.0.0.1",
        "WSWORKER_PORT_2346_TCP": "tcp://10.0.0.1:2346",
    }
    because = "because a Service is called wsworker; write `enableServiceLinks: false` into the spec of the pod"
    assert problems_of("app: hello\n", environ) == [
        f"environment WSWORKER_PORT: error: set by Kubernetes, and 2 more, {because}"
    ]
    assert problems_of("app: hello\n", {"WSWORKER_SERVICE_HOST": "10.0.0.1"}) == [
        f"environment WSWORKER_SERVICE_HOST: error: set by Kubernetes, {because}"
    ]
    assert problems_of("app: hello\n", {"WSWORKER_PORT": "80"}) == [
        "environment WSWORKER_PORT: error: unknown variable; did you mean WSWORKER_LISTEN?"
    ]


@pytest.mark.parametrize(
    "written",
    ["*hunter2", "&hunter2 x", "!hunter2 x", "!hunter2!x y", "!<hunter2> x", "hunter2", "{hunter2: 1}", "[hunter2]"],
)
def test_no_password_is_shown(folder: Path, written: str) -> None:
    """However it is written, and wherever: no sentence quotes it, and stars stand for it in the line below."""
    for text in (f"url: {written}", f"? url\n  : {written}", f'? "url" # ours\n  : {written}'):
        Path("config.yaml").write_text(f"app: hello\nbus:\n  {text}\n", encoding="utf-8")
        for read in (lambda: load(Path("config.yaml"), {}, {}), lambda: peek_bus(Path("config.yaml"), {})):
            with pytest.raises(ConfigError) as told:
                read()
            assert [] == [problem for problem in told.value.problems if "hunter2" in repr(problem)]
    problems = problems_of("app: hello\n", {"WSWORKER_BUS__URL": written})
    assert [] == [problem for problem in problems if "hunter2" in problem]
    assert 1 <= len(problems)


def test_a_url_without_a_secret_is_shown(folder: Path) -> None:
    """For a look beside the hint; with one it is not, however the key is written."""
    for written, shown in (("'redis://h:0'", "'redis://h:0'"), ("'hunter2'", "'********"), ("hunter2", "*******")):
        Path("config.yaml").write_text(f'app: hello\nbus:\n  "u\\x72l": {written}\n', encoding="utf-8")
        for read in (lambda: load(Path("config.yaml"), {}, {}), lambda: peek_bus(Path("config.yaml"), {})):
            with pytest.raises(ConfigError) as told:
                read()
            assert [f'  "u\\x72l": {shown}'] == [problem.excerpt for problem in told.value.problems]


@pytest.mark.parametrize("key", ["passwd", "auth", "pwd", "password"])
def test_no_password_of_a_key_that_does_not_exist(folder: Path, key: str) -> None:
    """Which somebody has made up, or brought along."""
    Path("config.yaml").write_text(f"app: hello\nbus:\n  {key}: hunter2\n", encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        load(Path("config.yaml"), {}, {})
    assert [f"  {key}: *******"] == [problem.excerpt for problem in told.value.problems]


def test_web_concurrency(folder: Path) -> None:
    """WEB_CONCURRENCY takes the place of the default, and of nothing else."""
    environ = {"WEB_CONCURRENCY": "3"}
    loaded = loaded_from("app: hello\n", environ)
    assert (3, "environment WEB_CONCURRENCY") == (loaded.config.workers, loaded.place("workers"))
    assert loaded_from("app: hello\nworkers: 2\n", environ).config.workers == 2
    assert loaded_from("app: hello\n", environ | {"WSWORKER_WORKERS": "5"}).config.workers == 5
    assert loaded_from("app: hello\n", {"WEB_CONCURRENCY": ""}).config.workers == 1
    assert problems_of("app: hello\n", {"WEB_CONCURRENCY": "many"}) == [
        "environment WEB_CONCURRENCY: error: workers must be a number from 1 to 256, or auto, not 'many'"
    ]


def test_a_spoilt_value_is_one_problem(folder: Path) -> None:
    """What cannot be read is told once: not as missing, wrong or unknown too, however deep it is."""
    assert problems_of("app: *x\n") == [
        "config.yaml:1:6: error: an alias (*) is not supported; write the value, or quote the *"
    ]
    assert len(problems_of("app: hello\nlisten: [*x]\n")) == 1
    assert len(problems_of("app: hello\nlisten: {a: *x}\n")) == 1
    assert len(problems_of("app: hello\nlog: *x\n")) == 1
    assert len(problems_of("app: hello\nuser: *x\nname: *y\n")) == 2
    assert len(problems_of("!!map {app: hello}\n")) == 1


@pytest.mark.parametrize("text", ["", "---\n", "null\n", "log:\nwebsocket: null\n"])
def test_nothing_in_the_file(folder: Path, text: str) -> None:
    """A file may leave everything to the environment, and a section may be empty."""
    assert loaded_from(text, {"WSWORKER_APP": "hello"}).config.log.level == "info"


# What the file's folder gives


def test_paths_start_at_the_folder_of_the_file(folder: Path) -> None:
    """Relative paths are those of the file, wherever the command is run."""
    Path("app").mkdir()
    loaded = loaded_from("app: hello\napp_dir: app\npidfile: x.pid\nlisten: unix:x.ws\nlog: {file: x.log}\n")
    made = loaded.config
    assert (f"{folder}/app", f"{folder}/x.pid", f"{folder}/x.log") == (made.app_dir, made.pidfile, made.log.file)
    assert (ListenAddress("", 0, f"{folder}/x.ws"),) == made.listen


@pytest.mark.parametrize("name", ["", "name:\n", "name: null\n", 'name: ""\n'])
def test_default_name(folder: Path, name: str) -> None:
    """The name is that of the folder, if none is given."""
    assert loaded_from(f"app: hello\n{name}").config.name == "hello"


def test_default_name_of_a_path_with_dots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the folder is called, whichever way the path leads there, and clients ask for the same name."""
    Path("config.yaml").write_text("app: hello\n")
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    for path in (Path("../config.yaml"), Path("./../../hello/config.yaml")):
        loaded = load(path, {}, NO_FLAGS)
        assert ("hello", folder / "config.yaml", str(path)) == (loaded.config.name, loaded.path, loaded.shown)
        assert "hello" == peek(path, {}).name


def test_default_name_that_cannot_be(folder: Path) -> None:
    """A folder whose name is none asks for one."""
    Path("my app").mkdir()
    path = Path("my app/config.yaml")
    path.write_text("app: hello\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {}, NO_FLAGS)
    message = (
        "name must be 1 to 64 letters, digits or . _ - that start with a letter, a digit or _, not 'my app', "
        "the name of this folder; set `name`"
    )
    assert (Problem("my app/config.yaml", 1, 1, message),) == caught.value.problems


def test_existing_accounts(folder: Path) -> None:
    """A user and a group that exist are taken."""
    made = loaded_from("app: hello\nuser: root\ngroup: root\n").config
    assert ("root", "root") == (made.user, made.group)


def test_places_of_what_the_system_contradicts(folder: Path) -> None:
    """A folder that is not there is told with the place of its value, whatever source that has."""
    assert problems_of("app: hello\nhttp:\n  static: public\n") == [
        f"config.yaml:3:11: error: no directory {folder}/public; create it or correct http.static"
    ]
    assert problems_of("app: hello\n", {"WSWORKER_HTTP__STATIC": "public"}) == [
        f"environment WSWORKER_HTTP__STATIC: error: no directory {folder}/public; create it or correct http.static"
    ]


# Peek


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app: hello\n",
        "name: other\ncontrol_socket: x.sock\n",
        "name: null\ncontrol_socket: /run/x.sock\n",
        "name: 'x'\ncontrol_socket: auto\n",
    ],
)
@pytest.mark.parametrize(
    "environ", [{}, {"WSWORKER_NAME": "third", "WSWORKER_CONTROL_SOCKET": "../y.sock"}, {"WSWORKER_NAME": ""}]
)
def test_peek_agrees_with_load(folder: Path, text: str, environ: dict[str, str]) -> None:
    """A client finds the socket of the master that this file would start."""
    made = loaded_from(text, environ | {"WSWORKER_APP": "hello"}).config
    assert Peek(made.name, made.control_socket) == peek(Path("config.yaml"), environ)


def test_peek_ignores_what_is_wrong_elsewhere(folder: Path) -> None:
    """A running service can be asked for its status while its file is being edited."""
    Path("config.yaml").write_text("wrokers: 4\nname: x\nname: y\nlog: &x 5\n", encoding="utf-8")
    assert Peek("x", "auto") == peek(Path("config.yaml"), {})
    Path("config.yaml").write_text("- 1\n", encoding="utf-8")
    assert Peek("hello", "auto") == peek(Path("config.yaml"), {})


def test_peek_reads_what_stands_above_broken_syntax(folder: Path) -> None:
    """There the name is, mostly; without one above, that of the folder may not be meant."""
    Path("config.yaml").write_text("name: x\napp: 'hello\nlisten: 1\n", encoding="utf-8")
    assert Peek("x", "auto") == peek(Path("config.yaml"), {})
    Path("config.yaml").write_text("app: 'hello\nname: x\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml:1:6: error: this quote is never closed"):
        peek(Path("config.yaml"), {})
    assert Peek("z", "auto") == peek(Path("config.yaml"), {"WSWORKER_NAME": "z"})


def test_peek_tells_broken_syntax(folder: Path) -> None:
    """A file that cannot be read as YAML names no socket."""
    Path("config.yaml").write_text("name: 'x\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml:1:7: error: this quote is never closed"):
        peek(Path("config.yaml"), {})


def test_peek_loads_no_models(folder: Path) -> None:
    """A client pays for YAML only: pydantic alone would double its time."""
    Path("config.yaml").write_text("app: hello\n", encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from wsworker.configfile import find, peek\n"
        "print(peek(find(None, {}), {}).name, 'pydantic' in sys.modules, 'wsworker.config' in sys.modules)"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(configfile.__file__).parent.parent)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert run.stdout == "hello False False\n"


# Any text

WORDS = st.sampled_from(
    [*KEYS, *config.SECTIONS, "maxsize", "max_size", "level", "127.0.0.1:80", "1MiB", "30s", "auto", "0o27"]
)
MARKS = st.sampled_from([*list(":-[]{}#&*!|>'\"%@?,~<é\u2028\ufeff\x1b\x00"), ": ", "\n", "\n  ", "\t", "- ", "\\e"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.one_of(WORDS, MARKS), max_size=30).map("".join))


@given(text=TEXTS)
@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
def test_any_text(folder: Path, text: str) -> None:
    """Any file gives a Config, or problems that each have a line and a column of the file."""
    path = Path("config.yaml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        loaded = load(path, {}, NO_FLAGS)
    except ConfigError as error:
        problems = error.problems
    else:
        assert isinstance(loaded.config, Config)
        return
    assert problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message
        assert problem.excerpt.replace("\t", "").isprintable()
    assert sorted(problems, key=lambda problem: problem.line) == list(problems)


@given(text=TEXTS, key=st.sampled_from(sorted(KEYS)))
@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
def test_any_value(folder: Path, text: str, key: str) -> None:
    """Any value of a variable gives a Config, or problems that name the variable and no line."""
    path = Path("config.yaml")
    path.write_text("app: hello\n", encoding="utf-8")
    variable = "WSWORKER_" + key.upper().replace(".", "__")
    try:
        loaded = load(path, {variable: text}, NO_FLAGS)
    except ConfigError as error:
        for problem in error.problems:
            assert (f"environment {variable}", 0, 0) == (problem.place, problem.line, problem.column)
    else:
        assert loaded.place(key) == f"environment {variable}"


# Two services of one name


def test_an_objection_to_another_file(folder: Path) -> None:
    """It names the file that the service runs with, and what to do; the same file is fine by any of its paths."""
    own, other = folder / "config.yaml", folder / "other.yaml"
    own.touch()
    other.touch()
    linked, hard = folder / "linked.yaml", folder / "hard.yaml"
    linked.symlink_to(own)
    hard.hardlink_to(own)
    expected = f"chat runs with {own}; give this one its own `name`, or name that file with -c"
    assert expected == objection(str(other), str(own), "chat")
    assert expected == objection("/nul\0", str(own), "chat")
    for asked in (own, hard):
        assert "" == objection(str(asked), str(own), "chat")
    assert "" == objection(str(own), str(linked), "chat")


def test_no_objection_where_nobody_can_tell(folder: Path) -> None:
    """No file was read, the one of the service was moved, or that of the caller is in another container."""
    own, other = folder / "config.yaml", folder / "other.yaml"
    other.touch()
    assert "" == objection(str(other), str(own), "chat")
    own.touch()
    assert "" == objection("", str(own), "chat")
    assert "" == objection(str(folder / "not_there.yaml"), str(own), "chat")


@pytest.mark.parametrize(
    "text",
    [
        "bus:\n  url: redis://h\n",
        "bus:\n  url: 'nats://ada:x%2Fy@h,i:1'\n  prefix: 'chat:'\n  max_message: 2MiB\n",
        "bus:\n  url: redis://h\n  max_message: 4096\n  prefix: null\n",
        "bus:\n  url: redis://h\nwrokers: 4\n",
    ],
)
@pytest.mark.parametrize(
    "environ",
    [{}, {"WSWORKER_BUS__URL": "redis://:x@i", "WSWORKER_BUS__PREFIX": "y:", "WSWORKER_BUS__MAX_MESSAGE": "9"}],
)
def test_peek_bus_agrees_with_load(folder: Path, text: str, environ: dict[str, str]) -> None:
    """A program publishes where the service of this file would listen; what is wrong elsewhere is not its matter."""
    Path("config.yaml").write_text(text, encoding="utf-8")
    peeked = peek_bus(Path("config.yaml"), environ)
    made = loaded_from(text.replace("wrokers", "workers").replace("prefix: null", ""), environ | {"WSWORKER_APP": "h"})
    bus = made.config.bus
    assert (bus.url, bus.prefix, bus.max_message) == (parse(peeked.url), peeked.prefix, peeked.max_message)


@pytest.mark.parametrize("written", ["chat:", "'chat:'", "a:chat:"])
def test_a_prefix_in_a_variable(folder: Path, written: str) -> None:
    """It needs no quotes, as in any other variable of a shell, though YAML would see a mapping; it may have them."""
    environ = {"WSWORKER_APP": "x", "WSWORKER_BUS__PREFIX": written, "WSWORKER_BUS__URL": "redis://h"}
    assert written.strip("'") == loaded_from("", environ).config.bus.prefix == peek_bus(None, environ).prefix


def test_peek_bus_without_a_file(folder: Path) -> None:
    """The environment may have it all."""
    assert PeekedBus("redis://h", "wsworker:", 1024**2) == peek_bus(None, {"WSWORKER_BUS__URL": "redis://h"})


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("app: x\n", {}, "config.yaml: error: bus.url: no broker is set, so there is none to publish at; name it with"),
        ("bus:\n", {}, "config.yaml: error: bus.url: no broker is set"),
        ("bus:\n  url: null\n", {}, "config.yaml:2:8: error: bus.url: no broker is set"),
        ("bus:\n  url: [1]\n", {}, "config.yaml:2:8: error: bus.url is a single value"),
        ("bus:\n  url: http://ada:geheim@h\n", {}, "config.yaml:2:8: error: bus.url: it begins with one of redis://"),
        (
            "bus:\n  url: redis://h\n  prefix: x\n",
            {},
            "config.yaml:3:11: error: bus.prefix must be words with a colon behind each, such as chat:, not 'x';",
        ),
        ("bus:\n  url: redis://h\n  max_message: 1MB\n", {}, "config.yaml:3:16: error: bus.max_message: use MiB"),
        ("bus: 'x\n", {}, "config.yaml:1:6: error: this quote is never closed"),
        ("", {"WSWORKER_BUS__URL": "http://ada:geheim@h"}, "environment WSWORKER_BUS__URL: error: bus.url: it begins"),
        (
            "bus:\n  url: redis://h\n",
            {"WSWORKER_BUS__PREFIX": "'chat:"},
            "environment WSWORKER_BUS__PREFIX: error: this quote is never closed",
        ),
        ("", {"WSWORKER_BUS__URL": ""}, "environment WSWORKER_BUS__URL: error: bus.url: no broker is set"),
    ],
)
def test_peek_bus_of_what_is_wrong(folder: Path, text: str, environ: dict[str, str], said: str) -> None:
    """It is told with its place, and no password."""
    Path("config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as told:
        peek_bus(Path("config.yaml"), environ)
    assert said in str(told.value)
    assert "geheim" not in str(told.value)
