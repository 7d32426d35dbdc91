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
from typing import Any, Final, NoReturn

import wrapt

from proxyprotocol._adapters.settings import startup_failure
from proxyprotocol.options import spell_variable
from proxyprotocol.run.guard import watch
from proxyprotocol.run.logs import keep_logs, show_logs, show_twisted_logs
from proxyprotocol.run.programs import watch_exec
from proxyprotocol.run.table import INTEGRATIONS, NATIVE, SOCKETS, Integration, Native

__all__ = ["run_next", "switch_on"]

_log = logging.getLogger("proxyprotocol.run")

_RUN: Final = spell_variable("run")


def switch_on() -> None:
    """Prepare this process, before it runs its program."""
    if _RUN not in os.environ:
        raise RuntimeError("PYTHONPATH names our folder, but the variables PROXYPROTOCOL_* are not there")
    register = wrapt.register_post_import_hook
    show_logs()
    register(keep_logs, "logging.config")
    register(show_twisted_logs, "twisted.logger")
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
        raise startup_failure(
            f"proxyprotocol run: {_name(integration)} lacks what the integration needs ({type(error).__name__}: "
            f"{error}). It was tested with {_tested(integration)}. Install one of these, or put the relay before the "
            "server: proxyprotocol-server with ?transparent=yes on the destination"
        ) from error
    said = os.environ[_RUN].split(",")  # by this process, and by those that have started it
    if integration.name in said:
        return
    os.environ[_RUN] = ",".join([*said, integration.name])
    _log.info("Switched on for %s", _name(integration))
    oldest, newest, found = map(_numbers, (integration.oldest, integration.newest, _version(integration.distribution)))
    if found and not (oldest <= found and found[: len(newest)] <= newest):
        text = "%s was not tested: the integration was with %s. Look whether the server shows its clients' addresses"
        _log.warning(text, _name(integration), _tested(integration))


def _name(integration: Integration) -> str:
    return f"{integration.distribution or integration.name} {_version(integration.distribution)}".strip()


def _tested(integration: Integration) -> str:
    return f"{integration.oldest} to {integration.newest}" if integration.oldest else "the Pythons that we support"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution) if distribution else ""
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", version)]


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
