"""What happens in a server's interpreter: integrations are switched on when their server is imported."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import logging
import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, NoReturn

import wrapt

from proxyprotocol._adapters.settings import startup_failure
from proxyprotocol.run.guard import watch
from proxyprotocol.run.logs import show_logs
from proxyprotocol.run.programs import watch_exec
from proxyprotocol.run.table import INTEGRATIONS, NATIVE, SOCKETS, Integration, Native

__all__ = ["run_next", "switch_on"]

_log = logging.getLogger("proxyprotocol.run")


def switch_on() -> None:
    """Prepare this process, before it runs its program."""
    register = wrapt.register_post_import_hook
    show_logs()
    watch_exec()
    for module, name in SOCKETS:
        register(functools.partial(_watch, name), module)
    for integration in INTEGRATIONS:
        register(functools.partial(_begin, integration), integration.trigger)
    for native in NATIVE:
        register(functools.partial(_forbid, native), native.trigger)


def run_next(ours: str) -> None:
    """Run the ``sitecustomize`` that Python would have imported without ours."""
    folder = os.path.dirname(os.path.abspath(ours))
    others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != folder]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


def _watch(name: str, module: Any) -> None:
    watch(getattr(module, name))


def _begin(integration: Integration, _: Any) -> None:
    try:
        importlib.import_module(f"proxyprotocol.integrations.{integration.name}").switch_on()
    except Exception as error:
        what = _describe(integration)
        raise startup_failure(
            f"proxyprotocol run: {what} lacks what the integration needs ({type(error).__name__}: {error}). Install a "
            "version that was tested, or put proxyprotocol-server before the server, with ?transparent=yes"
        ) from error
    _log.debug("Switched on the integration %s", integration.name)
    if integration.distribution and not _tested(integration):
        _log.warning("%s works so far: look at the addresses in the server's log", _describe(integration))


def _describe(integration: Integration) -> str:
    name, oldest, newest = integration.distribution, integration.oldest, integration.newest
    return f"{name} {_version(name)} (tested: {oldest} to {newest})" if name else f"Python's own {integration.trigger}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def _tested(integration: Integration) -> bool:
    found, oldest, newest = (
        [int(number) for number in re.findall("[0-9]+", text)]
        for text in (_version(integration.distribution), integration.oldest, integration.newest)
    )
    return oldest <= found and found[: len(newest)] <= newest


def _forbid(native: Native, module: Any) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise startup_failure(
            f"proxyprotocol run: {native.server} accepts its connections outside Python, so no header can be read "
            "there. Put the relay before it: proxyprotocol-server with ?transparent=yes on the destination"
        )

    *path, name = native.function.split(".")
    owner = functools.reduce(getattr, path, module)
    getattr(owner, name)  # an AttributeError ends the start too
    setattr(owner, name, refuse)
