"""How this process reads headers, by its environment variables, for servers that nobody can give a Receiver."""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final
from weakref import WeakSet

from proxyprotocol._wire import spec
from proxyprotocol.options import parse_receiver, parse_tls_timeout, read_environment, spell_option, spell_variable
from proxyprotocol.receiver import Receiver

# gunicorn's and uvicorn's workers exit with this status to say that the next worker would fail too. After any other
# status they are started again and again.
STARTUP_FAILURE: Final = 3

UNIX: Final = "unix"  # what names all UNIX sockets among the ports
# without leading zeros: ports are compared as text, and a listener's own number has none
_PORT = re.compile(r"[1-9][0-9]{0,4}")

#: The sockets, listening or connected, on which some part of this package reads the headers. All others skip them.
covered: WeakSet[socket.socket] = WeakSet()
#: The listening sockets from which code accepts that reads the headers itself. Others who accept from them read too.
self_reading: WeakSet[socket.socket] = WeakSet()


class Settings:
    """The rules for the headers of this process, and the listeners that they are for.

    Args:
        receiver: The rules.
        tls_timeout: Seconds that a TLS handshake after the header may take; None for no limit.
        ports: The port numbers, and ``unix``, of the listeners that read headers; None for all.

    Raises:
        TypeError, ValueError: A port is wrong.
    """

    def __init__(self, receiver: Receiver, tls_timeout: float | None, ports: Iterable[int | str] | None) -> None:
        self.receiver: Receiver = receiver
        self.tls_timeout: float | None = tls_timeout
        if ports is not None and not isinstance(ports, Iterable):
            raise TypeError(f'ports must be several, such as [8080, "unix"], not {ports!r}')
        several = ports.split(",") if isinstance(ports, str) else ports
        self.ports: set[str] | None = None if several is None else {str(port).strip() for port in several}
        for port in () if self.ports is None else self.ports or {""}:
            if port != UNIX and not (_PORT.fullmatch(port) and int(port) <= spec.MAX_PORT):
                option = receiver.spell("ports")
                raise ValueError(f"{option} takes port numbers and unix, with commas between them, not {port!r}")
        self.heard: set[str] = set()  # the ports of all listeners so far

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the variables ``PROXYPROTOCOL_*``. Raises ValueError if one is wrong."""
        options = read_environment(environment, ("ports", "metrics", "run", "uncovered"))
        spell = spell_option if "run" in options else spell_variable  # as the user has written it
        receiver, tls_timeout = parse_receiver(options, spell), parse_tls_timeout(options, spell)
        settings = cls(receiver, tls_timeout, options.get("ports"))
        if "metrics" in options:
            variable = spell("metrics")
            try:
                from proxyprotocol.metrics import serve_metrics
            except ImportError as error:
                raise ValueError(
                    f"{variable} needs prometheus_client ({error}): install the extra proxyprotocol[metrics]"
                ) from None
            settings.receiver = replace(receiver, metrics=serve_metrics(options["metrics"], variable))
        return settings

    def covers(self, listener: Any) -> bool:
        """Return whether connections begin with a header at a listener, given as its socket, its port or ``unix``."""
        if self.ports is None:
            return True
        if hasattr(listener, "getsockname"):
            # ask for the address, not for the family: uvicorn makes every socket of --fd an AF_UNIX one, whatever it is
            name = listener.getsockname()
            listener = UNIX if isinstance(name, (str, bytes)) else name[1]
        self.heard.add(str(listener))
        return str(listener) in self.ports

    def check_ports(self, log: logging.Logger) -> None:
        """Warn of ports on which headers are to be read and no listener was seen."""
        unheard, heard = sorted((self.ports or set()) - self.heard), sorted(self.heard - {"0"})
        if unheard:
            others = f"; it listens on {' and '.join(heard)}" if heard else ""
            text = "%s names %s, but this process does not listen there%s"
            log.warning(text, self.receiver.spell("ports"), " and ".join(unheard), others)


@functools.cache
def process_settings() -> Settings:
    """Return the settings of this process, by its environment variables.

    Raises:
        SystemExit: A variable is wrong. A sentence on standard error names the variable and what it takes.
    """
    return read_settings()


def read_settings() -> Settings:
    """Read the environment variables anew; otherwise this is :func:`process_settings`."""
    try:
        return Settings.from_environment(os.environ)
    except ValueError as error:
        raise startup_failure(str(error)) from None


def is_for_metrics(address: Any) -> bool:
    """Return whether this process answers Prometheus at an address: no proxy connects there."""
    metrics = sys.modules.get("proxyprotocol.metrics")
    return metrics is not None and not isinstance(address, (str, bytes)) and address[:2] in metrics.addresses


def startup_failure(sentence: str) -> SystemExit:
    """Print why a server cannot start, and return the exception: no server catches it to show a traceback."""
    print(sentence, file=sys.stderr)
    # uvicorn and asyncio.run() have made the server's coroutine before they ask for a loop, and nobody runs it now
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    stop = SystemExit(sentence)
    stop.code = STARTUP_FAILURE  # otherwise Python would print the sentence again, and exit with status 1
    return stop
