"""Floor 5: endpoint strings, ``proxyprotocol:`` in front of any endpoint's description.

``proxyprotocol:tcp:8080``, ``proxyprotocol:unix:/run/app.sock``, ``proxyprotocol:ssl:443:privateKey=key.pem`` for
servers, ``proxyprotocol:tcp:app.example:8080``, ``proxyprotocol:tls:app.example:443`` for clients, each with options
whose names begin with ``pp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import implementer

from proxyprotocol._adapters.refusals import describe_second_header
from proxyprotocol.options import (
    OPTIONS,
    SENDER_OPTIONS,
    YES_NO,
    choose,
    describe_risk,
    parse_receiver,
    parse_sender,
    parse_tls_timeout,
)
from proxyprotocol.twisted.client import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.server import ProxyProtocolServerEndpoint

__all__ = ["ClientStringParser", "ServerStringParser", "client_from_options", "server_from_options"]

_log = Logger(namespace="proxyprotocol.twisted")

_T = TypeVar("_T")
_NAME = "proxyprotocol"
_PREFIX = "pp"
# who is trusted with a second header would be told by the first
_READ_HEADERS = (_NAME, "haproxy")
_INSIDE_TLS = "ppInsideTLS"
# the parts of names that are not spelled like words
_ABBREVIATIONS = {"ipv4": "IPv4", "tcp6": "TCP6", "tls": "TLS"}


def _spell(option: str) -> str:
    """Give the name of an option in an endpoint string: ``max_header`` is ``ppMaxHeader``.

    Args:
        option: The name in :mod:`proxyprotocol.options`.
    """
    return _PREFIX + "".join(_ABBREVIATIONS.get(word, word.capitalize()) for word in option.split("_"))


# what may have an IPv6 address in it, which is easily cut
_WITH_COLONS = ("trusted", "source", "dest")
_SERVER_OPTIONS = {_spell(option): option for option in OPTIONS}
_CLIENT_OPTIONS = {_spell(option): option for option in SENDER_OPTIONS}


def server_from_options(reactor: Any, description: str, options: Mapping[str, str]) -> IStreamServerEndpoint:
    """Make a server endpoint.

    Args:
        reactor: The reactor.
        description: The description of the endpoint that it listens on.
        options: The options, by their names in endpoint strings.

    Raises:
        ValueError: An option, its value or the description is wrong.
    """
    options = dict(options)
    inside_tls = choose(_INSIDE_TLS, options.pop(_INSIDE_TLS, "no"), YES_NO)
    receiver = _parse_options(parse_receiver, options, _SERVER_OPTIONS, _INSIDE_TLS)
    tls_timeout = _parse_options(parse_tls_timeout, options, _SERVER_OPTIONS)
    if _prefix_of(description) in _READ_HEADERS:
        raise ValueError(describe_second_header(description))
    endpoint = _parse_endpoint(serverFromString, reactor, description, "listened on")
    risk = describe_risk(receiver, _spell)
    if risk is not None:
        _log.warn("{risk}", risk=risk)
    try:
        return ProxyProtocolServerEndpoint(endpoint, receiver=receiver, inside_tls=inside_tls, tls_timeout=tls_timeout)
    except TypeError as error:  # no TLS to be inside of, or TLS that cannot be parted
        raise ValueError(f"{description} cannot be listened on: {error}") from error


def client_from_options(reactor: Any, description: str, options: Mapping[str, str]) -> IStreamClientEndpoint:
    """Make a client endpoint.

    Args:
        reactor: The reactor.
        description: The description of the endpoint that it connects to.
        options: The options, by their names in endpoint strings.

    Raises:
        ValueError: An option, its value or the description is wrong.
    """
    version, result = _parse_options(parse_sender, options, _CLIENT_OPTIONS)
    if _prefix_of(description) == _NAME:
        raise ValueError(describe_second_header(description, "sends"))
    endpoint = _parse_endpoint(clientFromString, reactor, description, "connected to")
    try:
        return ProxyProtocolClientEndpoint(endpoint, result, pp=version)
    except TypeError as error:  # a second one, within the description of a tls: endpoint
        raise ValueError(f"{description} cannot be connected to: {error}") from error


def _parse_options(
    parse: Callable[[Mapping[str, str], Callable[[str], str]], _T],
    options: Mapping[str, str],
    names: Mapping[str, str],
    *others: str,
) -> _T:
    """Parse options by their names in endpoint strings, and refuse those that are none.

    Raises:
        ValueError: An option or its value is wrong.
    """
    unknown = ", ".join(sorted(options.keys() - names.keys()))
    if unknown:
        raise ValueError(f"{unknown}: there is no such option, but {', '.join([*names, *others])}")
    try:
        return parse({names[name]: value for name, value in options.items()}, _spell)
    except ValueError as error:
        if not any(_spell(option) in str(error) for option in _WITH_COLONS):
            raise
        raise ValueError(f"{error} (a colon in a value is written \\:)") from None


def _parse_endpoint(parse: Callable[[Any, str], _T], reactor: Any, description: str, use: str) -> _T:
    """Give the endpoint that is described.

    Raises:
        ValueError: The description is wrong, or there is no such endpoint here.
    """
    try:
        return parse(reactor, description)
    except (TypeError, ValueError) as error:  # the first for a part that is missing, and for an option that is none
        hint = f"{error}; the options of {_NAME}: begin with {_PREFIX}"
        raise ValueError(f"{description} does not describe an endpoint: {hint}") from error
    except LookupError as error:
        raise ValueError(f"{description} does not describe an endpoint: systemd has passed no such socket") from error
    except (ImportError, NameError) as error:  # so for TLS without pyOpenSSL
        hint = "TLS needs pyOpenSSL and service_identity, which the extra proxyprotocol[tls] installs"
        raise ValueError(f"{description} cannot be {use}: {error}. {hint}") from error
    except Exception as error:  # of the file system, of pyOpenSSL, of whoever has written the endpoint
        why = str(error) if isinstance(error, OSError) else repr(error)  # the first names the file
        raise ValueError(f"{description} cannot be {use}: {why}") from error


def _prefix_of(description: str) -> str:
    # in upper or lower case, as Twisted looks for plugins
    return description.partition(":")[0].lower()


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerStringParser:
    """Parses the server's strings, found by Twisted as a plugin."""

    prefix = _NAME

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        """Make a server endpoint.

        Args:
            reactor: The reactor.
            args: The positional parts of the string behind its prefix.
            kwargs: Its options.

        Raises:
            ValueError: An option, its value or the description is wrong.
        """
        return server_from_options(reactor, *_part_string(args, kwargs))


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientStringParser:
    """Parses the client's strings, found by Twisted as a plugin."""

    prefix = _NAME

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        """Make a client endpoint.

        Args:
            reactor: The reactor.
            args: The positional parts of the string behind its prefix.
            kwargs: Its options.

        Raises:
            ValueError: An option, its value or the description is wrong.
        """
        return client_from_options(reactor, *_part_string(args, kwargs))


def _part_string(args: tuple[str, ...], kwargs: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Part a string into the other endpoint's description and our options.

    Raises:
        ValueError: There is no other endpoint.
    """
    for part in args:
        if part in (*_SERVER_OPTIONS, *_CLIENT_OPTIONS, _INSIDE_TLS):
            raise ValueError(f"{part} takes a value: {part}=...")
    options = {name: value for name, value in kwargs.items() if name.startswith(_PREFIX)}
    return _describe(args, {name: value for name, value in kwargs.items() if name not in options}), options


def _describe(args: tuple[str, ...], kwargs: Mapping[str, str]) -> str:
    """Put the parts of a description together again.

    Raises:
        ValueError: There are none.
    """
    if not args:
        raise ValueError(
            "proxyprotocol: stands in front of another endpoint's description, as in proxyprotocol:tcp:8080"
        )
    return ":".join([*map(_quote, args), *(f"{name}={_quote(value)}" for name, value in kwargs.items())])


def _quote(part: str) -> str:
    # Twisted's quoteStringArgument leaves "=" alone, which would make an option of a positional part
    return part.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")
