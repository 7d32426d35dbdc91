"""The code uses five private names of asyncio and none of uvloop; a comment beside each use says why."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyprotocol

PACKAGE = Path(proxyprotocol.__file__).parent
FILES = [
    *sorted((PACKAGE / "asyncio").glob("*.py")),
    *sorted((PACKAGE / "integrations").glob("*.py")),
    *(PACKAGE / "sync.py", PACKAGE / "reader.py"),
]
LIBRARIES = ("asyncio", "uvloop")

PRIVATE = re.compile(r"_[A-Za-z]\w*")  # one underscore; names with two belong to the language
# the names of servers that we integrate: of aiosmtpd's controllers, and of Twisted's channels of HTTP/2
SERVERS = {"_factory_invoker", "_conn"}
# asyncio and uvloop look up these names on transports, protocols and loops. An object with such a name claims to be one
# of theirs.
LOOKED_UP = {"_start_tls_compatible", "_sendfile_compatible"}


def imported(tree: ast.AST) -> Iterator[str]:
    """The imports from a library's inner modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.startswith(tuple(f"{x}." for x in LIBRARIES)))
            case ast.ImportFrom(module=str(module), level=0, names=names) if module.split(".")[0] in LIBRARIES:
                for alias in names:
                    if not is_public(module, alias.name):
                        yield f"{module}.{alias.name}"


def is_public(module: str, name: str) -> bool:
    return not name.startswith("_") and (module == "uvloop" or name in asyncio.__all__)


def own_names(tree: ast.AST) -> Iterator[str]:
    """The private names that the code defines itself."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case ast.ImportFrom(names=names, level=level, module=module):
                if level or (module or "").split(".")[0] == "proxyprotocol":
                    yield from (alias.asname or alias.name for alias in names)
            case ast.Import(names=names):
                yield from (alias.asname for alias in names if alias.asname)


def looked_up(tree: ast.AST) -> Iterator[str]:
    """The private names that the code looks up, as attributes or as strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)) if PRIVATE.fullmatch(name):
                yield name


def borrowed(tree: ast.AST) -> Iterator[str]:
    """The methods that the code takes from a library's class, such as ``asyncio.BaseEventLoop.start_tls``."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id=library), attr=holder), attr=name) if (
                library in LIBRARIES
            ):
                yield f"{library}.{holder}.{name}"


def foreign_names(trees: list[ast.AST]) -> set[str]:
    """Every private name of a library that the code uses or mimics."""
    own = {name for tree in trees for name in own_names(tree)}
    asked = {name for tree in trees for name in looked_up(tree)}
    inner = {name for tree in trees for find in (imported, borrowed) for name in find(tree)}
    known_by = {name.rpartition(".")[2] for name in inner}
    return inner | (asked - own - known_by) | (own & LOOKED_UP)


def test_five_names_of_asyncio_s_own_are_used() -> None:
    trees: list[ast.AST] = [ast.parse(path.read_text(), str(path)) for path in FILES]

    assert foreign_names(trees) == SERVERS | {
        "asyncio.sslproto.SSLProtocol",
        "asyncio.transports._FlowControlMixin",
        "_buffer",
        "_make_socket_transport",
        "_stream_reader",
    }


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from asyncio.sslproto import SSLProtocol", "asyncio.sslproto.SSLProtocol"),
        ("from asyncio import _get_running_loop", "asyncio._get_running_loop"),
        ("from uvloop.loop import Loop", "uvloop.loop.Loop"),
        ("import asyncio.sslproto", "asyncio.sslproto"),
        ("asyncio.BaseEventLoop.start_tls(loop, transport)", "asyncio.BaseEventLoop.start_tls"),
        ("asyncio.transports._FlowControlMixin", "asyncio.transports._FlowControlMixin"),
        ("from asyncio import transports as t\nt._FlowControlMixin", "_FlowControlMixin"),
        ("upper = tls._app_transport", "_app_transport"),
        ("getattr(transport, '_paused', False)", "_paused"),
        ("class A(asyncio.Transport):\n    _start_tls_compatible = True", "_start_tls_compatible"),
        ("self._sendfile_compatible = 1", "_sendfile_compatible"),
    ],
)
def test_every_way_to_use_another_private_name_is_found(source: str, name: str) -> None:
    assert name in foreign_names([ast.parse(source)])


@pytest.mark.parametrize(
    "source",
    [
        "from asyncio import Transport",
        "import asyncio",
        "import uvloop\nuvloop.new_event_loop()",
        "self._loop = asyncio.get_running_loop()\nself._loop.time()",
        "self.__dict__",
    ],
)
def test_public_names_and_our_own_are_not_reported(source: str) -> None:
    assert foreign_names([ast.parse(source)]) == set()
