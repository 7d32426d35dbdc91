"""Endpoint strings: ``proxyprotocol:`` before the description of any endpoint.

Examples for servers: ``proxyprotocol:tcp:8080``, ``proxyprotocol:unix:/run/app.sock``,
``proxyprotocol:ssl:443:privateKey=key.pem``. Examples for clients: ``proxyprotocol:tcp:app.example:8080``,
``proxyprotocol:tls:app.example:443``. The names of our own options begin with ``pp``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet import interfaces
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.plugin import IPlugin
from zope.interface import implementer

from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol.messages import describe_unknown, find_similar
from proxyprotocol.options import (
    OPTIONS,
    SENDER_OPTIONS,
    YES_NO,
    choose,
    parse_receiver,
    parse_sender,
    parse_tls_timeout,
)
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.server import ProxyProtocolServerEndpoint

__all__ = ["ClientStringParser", "ServerStringParser"]


_NAME = "proxyprotocol"
_PREFIX = "pp"
# the words in option names that are not simply capitalised
_ABBREVIATIONS = {"ipv4": "IPv4", "tcp6": "TCP6", "tls": "TLS"}


def _spell(option: str) -> str:
    """Return the name of an option in an endpoint string: ``max_header`` is ``ppMaxHeader``."""
    return _PREFIX + "".join(_ABBREVIATIONS.get(word, word.capitalize()) for word in option.split("_"))


def _names(options: Iterable[str]) -> dict[str, str]:
    return {_spell(option): option for option in options}


# the names in endpoint strings, in the order of messages, and the names in proxyprotocol.options; inside_tls is an
# option of Twisted endpoints only
_SERVER_OPTIONS = _names([*OPTIONS, "inside_tls"])
_CLIENT_OPTIONS = _names(SENDER_OPTIONS)
# the options that take addresses and ports: a colon without a backslash cuts the value short
_CUT = re.compile(rf"(?<!\\):({'|'.join(_names(['trusted', 'source', 'dest']))})=[^:=]*:[0-9A-Fa-f./\]]*(?=[:,]|$)")

_OPTION = re.compile(rf"(?<!\\):({_PREFIX}\w*)=")


def _quote(part: str) -> str:
    # Twisted's quoteStringArgument leaves "=" alone, which would turn a positional part into an option
    return part.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def _parse_server(options: Mapping[str, str]) -> Callable[[Any], Any]:
    inside_tls = choose(_spell("inside_tls"), options.get("inside_tls", "no"), YES_NO)
    receiver, tls_timeout = parse_receiver(options, _spell), parse_tls_timeout(options, _spell)
    return lambda endpoint: ProxyProtocolServerEndpoint(
        endpoint, receiver=receiver, inside_tls=inside_tls, tls_timeout=tls_timeout
    )


def _parse_client(options: Mapping[str, str]) -> Callable[[Any], Any]:
    codec, result = parse_sender(options, _spell)
    return lambda endpoint: ProxyProtocolClientEndpoint(endpoint, result, pp=codec)


class _StringParser:
    """What the parsers of server strings and of client strings share."""

    prefix = _NAME
    # turns the options into the function that wraps an endpoint
    _parse: Callable[[Mapping[str, str]], Callable[[Any], Any]]
    _from_string: Callable[[Any, str], Any]
    _use: str
    _options: Mapping[str, str]
    # the prefixes of endpoints that handle a header themselves, and what they do with it
    _with_header: tuple[str, ...]
    _act: str

    def parse(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:
        """Make an endpoint from the parts of a string after its prefix.

        Raises:
            ValueError: An option, its value or the description of the wrapped endpoint is wrong.
        """
        for part in args:
            if part in _SERVER_OPTIONS or part in _CLIENT_OPTIONS:
                raise ValueError(f"{part} takes a value: {part}=...")
        if not args:
            raise ValueError("proxyprotocol: needs the description of another endpoint, as in proxyprotocol:tcp:8080")
        ours = {name: value for name, value in kwargs.items() if name.startswith(_PREFIX)}
        for name in ours:
            if name not in self._options:
                raise ValueError(describe_unknown("option", name, self._options, _PREFIX))
        # Twisted passes the last of two options with the same name, and drops the first without a word. Only the
        # function that called the parser, serverFromString or clientFromString, has the whole string.
        frame: Any = inspect.currentframe()
        whole = str(frame.f_back.f_locals.get("description"))
        given = _OPTION.findall(whole)
        for name in ours:
            if given.count(name) > 1:
                raise ValueError(f"{name} is given twice: give it once")
        try:
            wrapper = self._parse({self._options[name]: value for name, value in ours.items()})
        except ValueError as error:
            if not any(name in str(error) for name in _CUT.findall(whole)):
                raise
            raise ValueError(f"{error} (a colon in a value is written \\:)") from None

        others = (f"{name}={_quote(value)}" for name, value in kwargs.items() if name not in ours)
        description = ":".join([*map(_quote, args), *others])
        # Twisted ignores the case of a prefix as well
        if description.partition(":")[0].lower() in self._with_header:
            raise ValueError(describe_second_header(description, self._act))
        try:
            endpoint = self._from_string(reactor, description)
        except (TypeError, ValueError) as error:  # TypeError: a part is missing, or an option is unknown
            unknown = (name for name in kwargs if f"'{name}'" in str(error))
            similar = next((find_similar(name, self._options, _PREFIX) for name in unknown), None)
            hint = f"did you mean {similar}?" if similar else f"the options of {_NAME}: begin with {_PREFIX}"
            hint = f"{error}; {hint}"
            raise ValueError(f"{description} does not describe an endpoint: {hint}") from error
        except LookupError as error:
            hint = "systemd did not pass this socket"
            raise ValueError(f"{description} does not describe an endpoint: {hint}") from error
        except (ImportError, NameError) as error:  # TLS without pyOpenSSL raises either
            hint = "TLS needs pyOpenSSL and service_identity, which the extra proxyprotocol[tls] installs"
            raise ValueError(f"{description} cannot be {self._use}: {error}. {hint}") from error
        except Exception as error:  # from the file system, from pyOpenSSL, or from a foreign endpoint
            why = str(error) if isinstance(error, OSError) else repr(error)  # an OSError names the file
            raise ValueError(f"{description} cannot be {self._use}: {why}") from error
        try:
            return wrapper(endpoint)
        except TypeError as error:  # a header inside a tls: description, or TLS that is missing or cannot be split
            raise ValueError(f"{description} cannot be {self._use}: {error}") from error


@implementer(IPlugin, interfaces.IStreamServerEndpointStringParser)
class ServerStringParser(_StringParser):
    """Parses the endpoint strings of servers; Twisted finds it as a plugin."""

    _parse = staticmethod(_parse_server)
    _from_string = staticmethod(serverFromString)
    _use = "listened on"
    _options = _SERVER_OPTIONS
    # with a second header, the outer one would choose whom we trust for the inner one
    _with_header = (_NAME, "haproxy")
    _act = "reads"

    parseStreamServer: Callable[..., interfaces.IStreamServerEndpoint] = _StringParser.parse


@implementer(IPlugin, interfaces.IStreamClientEndpointStringParserWithReactor)
class ClientStringParser(_StringParser):
    """Parses the endpoint strings of clients; Twisted finds it as a plugin."""

    _parse = staticmethod(_parse_client)
    _from_string = staticmethod(clientFromString)
    _use = "connected to"
    _options = _CLIENT_OPTIONS
    _with_header = (_NAME,)
    _act = "sends"

    parseStreamClient: Callable[..., interfaces.IStreamClientEndpoint] = _StringParser.parse
