"""The rules of the architecture, checked in the source: imports, public names and private names.

docs/design.rst gives the reasons.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "proxyprotocol"
SOURCE = Path(__file__).parent.parent.parent / PACKAGE

# The layers from the bottom up, each with its modules and subpackages in order. A module may import those before it. A
# new module needs a place here first.
LAYERS = {
    "values": ("errors", "typing", "checksum", "_wire", "tlv", "result"),
    "codecs": ("codec", "v1", "v2", "spp", "noop", "detect", "version"),
    "decisions": ("parser", "policy", "messages", "receiver", "sender", "datagram"),
    "files": ("release", "trustfile", "options", "metrics"),
    "sockets": ("_adapters", "build", "sock"),
    "adapters": ("reader", "asyncio", "twisted", "sync", "dnsbl"),
    "integrations": ("integrations",),
    "programs": ("server", "run", "cli", "__main__"),
}
ORDER = [unit for units in LAYERS.values() for unit in units]
LAYER_OF = {unit: layer for layer, units in LAYERS.items() for unit in units}
CORE = ("values", "codecs", "decisions")

IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "subprocess", "threading"),
    *("http", "importlib", "socketserver", "ssl", "urllib"),
    *("datetime", "logging", "random", "time"),
    *("twisted", "zope"),
}
# Constants, types and the text of addresses. None of them touches a socket, a file or the environment.
ALLOWED_NAMES = {
    "socket": re.compile(r"AF_[A-Z0-9]+|SOCK_[A-Z]+|AddressFamily|SocketKind|inet_pton|inet_ntop|inet_ntoa"),
    "os": re.compile(r"fsencode|fsdecode|PathLike"),
}
SOCKET_IO = {
    *("accept", "bind", "connect", "connect_ex", "listen"),
    *("recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendfile", "sendmsg", "sendto"),
}


class Module(NamedTuple):
    name: str  # dotted, from the package down: "twisted.wrapper"; "" is the package itself
    path: Path
    tree: ast.Module

    @property
    def unit(self) -> str:
        return self.name.split(".")[0]

    @property
    def full_name(self) -> str:
        return f"{PACKAGE}.{self.name}".rstrip(".")

    @property
    def public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


def read_modules() -> list[Module]:
    modules = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        name = "" if name == "__init__" else name.removesuffix(".__init__")
        modules.append(Module(name, path, ast.parse(path.read_text(), str(path))))
    return modules


MODULES = read_modules()
BY_NAME = {module.name: module for module in MODULES}
PURE = [module for module in MODULES if LAYER_OF.get(module.unit) in CORE]
PUBLIC = [module for module in MODULES if module.public]
# An integration can be imported only where its server is installed, as all are for `make test`.
ABSENT = [m for m in PUBLIC if m.unit != m.name and m.unit == "integrations" and not find_spec(m.path.stem)]
# eventlet changes a process that imports it: the resolver of names, and it warns of each fork. tests/servers use all
# names of its integration, in processes of their own.
IMPORTABLE = [module for module in PUBLIC if module not in (*ABSENT, BY_NAME["integrations.eventlet"])]


def named(modules: list[Module]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", modules, ids=[module.full_name for module in modules])


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Return every node that can run. Code for type checkers cannot."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            for alternative in getattr(child, "orelse", []):
                yield alternative
                yield from executed(alternative)
        else:
            yield child
            yield from executed(child)


def imports(module: Module, nodes: Iterable[ast.AST] | None = None) -> Iterator[tuple[str, str | None]]:
    """Return a module's imports, with those in functions and for type checkers: (absolute module, name or None)."""
    package = module.full_name if module.path.name == "__init__.py" else module.full_name.rpartition(".")[0]
    for node in ast.walk(module.tree) if nodes is None else nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            yield from ((source, alias.name) for alias in node.names)


def imported_modules(module: Module) -> Iterator[str]:
    """Return the project's modules that a module imports, named as in `Module.name`."""
    for source, name in imports(module):
        if source.split(".")[0] != PACKAGE:
            continue
        inner = source[len(PACKAGE) + 1 :]
        submodule = ".".join(filter(None, (inner, name)))
        yield submodule if submodule in BY_NAME else inner


def test_the_walk_finds_the_package() -> None:
    assert {"", "tlv", "v2"} <= BY_NAME.keys()
    assert "_wire.spec" in set(imported_modules(BY_NAME["v2"]))


def test_every_file_has_its_layer() -> None:
    assert {module.unit for module in MODULES} - {""} <= LAYER_OF.keys(), "place it in LAYERS, and in docs/design.rst"


@named([module for module in MODULES if module.unit])
def test_imports_run_downward_only(module: Module) -> None:
    for imported in imported_modules(module):
        unit = imported.split(".")[0]
        assert unit, f"{module.full_name} imports the package's front door, which stands above it"
        if unit != module.unit:
            assert ORDER.index(unit) < ORDER.index(module.unit), f"{module.full_name} imports {imported}, above it"


@named([module for module in MODULES if LAYER_OF.get(module.unit) == "adapters"])
def test_adapters_never_import_one_another(module: Module) -> None:
    units = {imported.split(".")[0] for imported in imported_modules(module)} - {module.unit}
    assert not [unit for unit in units if LAYER_OF[unit] == "adapters"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    # Imports for type checkers count, and so do those of a subpackage's own __init__.
    graph = {module.name: set(imported_modules(module)) - {module.name} for module in MODULES}
    TopologicalSorter(graph).prepare()


@named(PURE)
def test_the_core_uses_no_clock_no_socket_and_no_log(module: Module) -> None:
    roots = {source.split(".")[0] for source, _ in imports(module, executed(module.tree))}
    assert not roots & IMPURE


@named(PURE)
def test_the_core_uses_only_constants_and_text_of_socket_and_os(module: Module) -> None:
    for source, name in imports(module, executed(module.tree)):
        if source in ALLOWED_NAMES and name is not None:
            assert ALLOWED_NAMES[source].fullmatch(name), f"from {source} import {name}"
    nodes = list(executed(module.tree))
    aliases = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names if alias.asname]
    assert not ALLOWED_NAMES.keys() & aliases, "this test would not find its uses under another name"
    used = [node for node in nodes if isinstance(node, ast.Name) and node.id in ALLOWED_NAMES]
    allowed = [root for root, attribute in attributes_used(nodes) if ALLOWED_NAMES[root.id].fullmatch(attribute)]
    unknown = [ast.unparse(node) + f", line {node.lineno}" for node in used if node not in allowed]
    assert not unknown, "used for a name that is not allowed"


# The private names of other projects that a module needs. The reason stands beside each use.
FOREIGN = {
    "asyncio.server": {"_make_socket_transport"},
    "asyncio.tls": {"_stream_reader"},
    "asyncio.transport": {"_FlowControlMixin"},
    "cli.encode": {"_ArgumentGroup"},
    "integrations.aiosmtpd": {"_factory_invoker"},
    "integrations.daphne": {"_conn"},
    "integrations.gevent": {"_handle"},
    "integrations.gunicorn": {"_serve"},
    "reader": {"_buffer"},
    "run._site.sitecustomize": {"_exit"},
    "run.guard": {"_accept", "_getframe"},
    "run.logs": {"_temporaryObserver"},
    "server.main": {"_exit"},
    "sync": {"_socket"},
    "twisted.client": {"_wrappedProtocol"},
    "twisted.factory": {"_wrapper"},
    "twisted.server": {"_wrapper"},
    "twisted.tls": {"_aborted", "_handshakeDone", "_reason"},
    "twisted.tls_endpoints": {
        *("_reactor", "_port", "_backlog", "_interface", "_host", "_timeout", "_bindAddress"),
        *("_sslContextFactory", "_wrappedEndpoint", "_wrapperFactory"),
    },
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(module: Module) -> Iterator[str]:
    """Return every name that a module defines or assigns: as a name, as an attribute of self, or in __slots__."""
    for node in ast.walk(module.tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                yield from ast.literal_eval(value)


@named(MODULES)
def test_no_module_uses_the_private_names_of_another(module: Module) -> None:
    own = {*own_names(module), *FOREIGN.get(module.name, ()), "_replace"}  # a named tuple's, which is public
    taken = [
        f"from {source} import {name}"
        for source, name in imports(module)
        for part in (*source.split("."), name or "")
        if is_private(part) and part not in own and not (source.startswith(PACKAGE) and is_folder(part))
    ]
    used = [
        f"{ast.unparse(node)}, line {node.lineno}"
        for node, name in names_used(module)
        if is_private(name) and name not in own
    ]
    assert taken + used == []


def is_folder(name: str) -> bool:
    return any(path.is_dir() for path in SOURCE.rglob(name))


def names_used(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Return the attributes that a module uses, also those by ``getattr`` and its kin."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(attr=name):
                yield node, name
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr"),
                args=[_, ast.Constant(value=str(name)), *_],
            ):
                yield node, name


def test_every_foreign_name_is_used() -> None:
    used = {module.name: {name for _, name in names_used(module)} for module in MODULES}
    taken = {
        module.name: {part for source, name in imports(module) for part in (*source.split("."), name)}
        for module in MODULES
    }
    stale = {module: names - used[module] - taken[module] for module, names in FOREIGN.items()}
    assert [module for module, names in stale.items() if names] == []


def attributes_used(nodes: list[ast.AST]) -> Iterator[tuple[ast.Name, str]]:
    """Return the uses of socket and os, such as `socket.AF_INET` or `getattr(socket, "AF_UNIX", None)`."""
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id=root) as name, attr=attribute) if root in ALLOWED_NAMES:
                yield name, attribute
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"),
                args=[ast.Name(id=root) as name, ast.Constant(value=str(attribute)), *_],
            ) if root in ALLOWED_NAMES:
                yield name, attribute


@named([module for module in MODULES if LAYER_OF.get(module.unit) == "sockets"])
def test_the_sockets_layer_neither_reads_nor_writes(module: Module) -> None:
    called = {
        node.func.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & SOCKET_IO


def test_the_front_door_defines_nothing() -> None:
    door = BY_NAME[""]
    docstring, *body = door.tree.body
    assert isinstance(docstring, ast.Expr)
    lazy = next(node for node in body if is_type_checking(node))
    body.remove(lazy)
    assert ast.unparse(lazy) == (
        "if TYPE_CHECKING:\n    __version__: str\n"
        "else:\n    from proxyprotocol.release import get_attribute as __getattr__"
    )
    for node in body:
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_all or isinstance(node, ast.ImportFrom), ast.unparse(node)
    assert all(LAYER_OF[imported] in CORE for imported in imported_modules(door) if imported != "release")


def test_importing_the_package_loads_no_event_loop_no_tls_and_no_dependency() -> None:
    # -S leaves out site-packages, so that Python cannot find any dependency, and nothing is loaded before.
    program = f"""if True:
        import sys
        before = set(sys.modules)
        import {PACKAGE}
        print(*sorted(name for name in set(sys.modules) - before if "." not in name))
    """
    command = [sys.executable, "-S", "-E", "-c", program]
    run = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, check=True)
    brought = set(run.stdout.split())
    assert PACKAGE in brought
    assert not brought & {"asyncio", "ssl", "twisted", "crc32c", "logging"}


def declared(module: Module) -> list[str]:
    for node in module.tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    pytest.fail(f"{module.full_name} declares no __all__")


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Return the statements of a module, with those in an `if` or a `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try) and not is_type_checking(node):
            yield from top_level([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)])


def defined(module: Module) -> Iterator[str]:
    for node in top_level(module.tree.body):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


@named(IMPORTABLE)
def test_every_public_module_declares_its_names(module: Module) -> None:
    names = declared(module)
    assert len(names) == len(set(names))
    imported = importlib.import_module(module.full_name)
    assert [name for name in names if not hasattr(imported, name)] == []


@named(PUBLIC)
def test_every_name_is_declared_or_has_an_underscore(module: Module) -> None:
    public = {name for name in defined(module) if not name.startswith("_")}
    assert public <= set(declared(module))


def undocumented(module: Module) -> Iterator[str]:
    if ast.get_docstring(module.tree) is None:
        yield "the module"
    imported = importlib.import_module(module.full_name)
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not is_overload(node):
            yield node.name
        if isinstance(node, ast.ClassDef):
            bases = getattr(getattr(imported, node.name), "__mro__", ())
            yield from (f"{node.name}.{name}" for name in undocumented_methods(node, bases))


def undocumented_methods(node: ast.ClassDef, bases: tuple[type, ...]) -> Iterator[str]:
    """Return the methods without a docstring. An override needs none: documentation tools show the one of its base."""
    for method in node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.name.startswith("_"):
            continue
        inherited = any(getattr(base.__dict__.get(method.name), "__doc__", None) for base in bases)
        if ast.get_docstring(method) is None and not inherited and not is_overload(method):
            yield method.name


def is_overload(node: ast.AST) -> bool:
    return any(ast.unparse(d).endswith(("overload", ".setter")) for d in getattr(node, "decorator_list", []))


@named(IMPORTABLE)
def test_every_public_name_is_documented(module: Module) -> None:
    assert list(undocumented(module)) == []


@named([module for module in PUBLIC if module.unit == module.name != ""])
def test_every_public_module_has_its_place_in_the_documentation(module: Module, project_root: Path) -> None:
    assert f".. automodule:: {module.full_name}\n" in (project_root / "docs" / "api.rst").read_text()


@named([module for module in MODULES if module.name != "run._site.sitecustomize"])  # older Pythons read it too
def test_annotations_are_never_evaluated(module: Module) -> None:
    assert ("__future__", "annotations") in set(imports(module))
