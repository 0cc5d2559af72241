"""What only the system can say of a configuration: does that user exist, is the folder there, what lies in it.

Also whether the library is installed that a setting needs, which comes with an extra. Asked last, of values that are
right as text. Nothing is opened or imported: a look at names and paths is enough.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from wsworker import brokers, values
from wsworker.brokers import Adapter, BrokerUrl

FOLDERS: Final = ("app_dir", "http.static")
FILES: Final = ("tls.certfile", "tls.keyfile", "tls.ca_certs")
LIBRARIES: Final[Mapping[Adapter, str | None]] = {"redis": "redis", "nats": None}
"""The package that an adapter needs; its module has the same name, and our extra that of the adapter."""


def objections(raw: Mapping[str, object], file: Path) -> Iterator[tuple[str, str]]:
    """Yield a key and a sentence for each value that this system contradicts.

    raw: by key, values as the YAML reader made them, those that are given and right as text; file: the config file,
    absolute.
    """
    for key, lookup in _ACCOUNTS.items():
        name = raw.get(key)
        if isinstance(name, str) and not _exists(lookup, name):
            yield key, f"unknown {key} {values.shown(name)}; create it, or remove `{key}`"
    for key in FOLDERS:
        folder = raw.get(key)
        if not isinstance(folder, str):
            continue
        full = values.path(folder, str(file.parent))
        if not os.path.isdir(full):
            yield key, f"no directory {full}; create it or correct {key}"
        elif key == "http.static":
            yield from ((key, sentence) for sentence in _site_objections(raw, full, file))
    for key in FILES:
        path = raw.get(key)
        if isinstance(path, str) and _is_missing(full := values.path(path, str(file.parent))):
            yield key, f"{key}: there is no file {full}; create it, or correct the path"
    if isinstance(url := raw.get("bus.url"), str):
        yield from (("bus.url", sentence) for sentence in _broker_objections(brokers.parse(url)))


def _broker_objections(url: BrokerUrl) -> Iterator[str]:
    """Object to a broker whose library is not installed, or to files that its URL names and that are not there."""
    library = LIBRARIES[url.kind.adapter]
    if library is not None and not _is_installed(library):
        yield f'bus.url needs the package {library}: pip install "wsworker[{url.kind.adapter}]"'
    for path in filter(_is_missing, url.files):
        yield f"bus.url: there is no file {path}; create it, or correct the path"


def _is_installed(library: str) -> bool:
    found = importlib.util.find_spec(library)
    # a folder of that name, and nothing in it that could be imported, has a specification without a place
    return found is not None and found.origin is not None


def file_of(app: str, app_dir: str) -> str:
    """Return the file that an app would be imported from out of app_dir, as Python looks for it; it need not exist.

    app: a dotted module, with or without its attribute.
    """
    module = os.path.join(app_dir, *app.partition(":")[0].split("."))
    package = os.path.join(module, "__init__.py")
    return package if os.path.exists(package) else f"{module}.py"


def _site_objections(raw: Mapping[str, object], site: str, file: Path) -> Iterator[str]:
    """Object to a folder of files for everybody that holds files which are for nobody. site: absolute."""
    for what, path in _private_files(raw, file):
        if _is_below(path, site):
            yield f"{site} holds {what}, {path}, which must not be served; give the files a folder of their own"
            return


def _private_files(raw: Mapping[str, object], file: Path) -> Iterator[tuple[str, str]]:
    """Yield what a client must never be sent, in words and as an absolute path that need not exist."""
    folder = str(file.parent)
    yield "this config file", str(file)
    app_dir = values.path(str(raw.get("app_dir", ".")), folder)
    yield "app_dir", app_dir
    yield "the app", file_of(str(raw.get("app", "")), app_dir)
    for key in ("tls.keyfile", "tls.certfile", "log.file"):
        if isinstance(path := raw.get(key), str):
            yield key, values.path(path, folder)


def _is_missing(path: str) -> bool:
    """Whether nothing is there; what cannot be seen may be there, and is for the one who reads it to judge."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_below(path: str, folder: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath((real, root)) == root


_ACCOUNTS: Final[Mapping[str, Callable[[str], object]]] = {"user": pwd.getpwnam, "group": grp.getgrnam}


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True
