"""Endpoint strings: ``proxyprotocol:`` before the description of any endpoint.

Examples for servers: ``proxyprotocol:tcp:8080``, ``proxyprotocol:unix:/run/app.sock``,
``proxyprotocol:ssl:443:privateKey=key.pem``. Examples for clients: ``proxyprotocol:tcp:app.example:8080``,
``proxyprotocol:tls:app.example:443``. The names of our own options begin with ``pp``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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
_Endpoint = TypeVar("_Endpoint")
_NAME = "proxyprotocol"
_PREFIX = "pp"
# the words in option names that are not simply capitalised
_ABBREVIATIONS = {"ipv4": "IPv4", "tcp6": "TCP6", "tls": "TLS"}
# the options that take IPv6 addresses: a colon without a backslash cuts the value short
_WITH_COLONS = ("trusted", "source", "dest")


def _spell(option: str) -> str:
    """Return the name of an option in an endpoint string: ``max_header`` is ``ppMaxHeader``."""
    return _PREFIX + "".join(_ABBREVIATIONS.get(word, word.capitalize()) for word in option.split("_"))


# an option of Twisted endpoints only, so proxyprotocol.options does not know it
_INSIDE_TLS = _spell("inside_tls")


@dataclass(frozen=True)
class _Side(Generic[_Endpoint]):
    """What differs between the strings of servers and those of clients."""

    from_string: Callable[[Any, str], _Endpoint]
    use: str
    # the names in endpoint strings, in the order of messages; the value is the name in proxyprotocol.options
    options: Mapping[str, str]
    # the prefixes of endpoints that handle a header themselves, and what they do with it
    with_header: tuple[str, ...]
    act: str

    def parse(self, parse: Callable[[Mapping[str, str], Callable[[str], str]], _T], options: Mapping[str, str]) -> _T:
        """Parse options by their names in endpoint strings; raise ValueError for an unknown option or a wrong value."""
        unknown = ", ".join(sorted(options.keys() - self.options.keys()))
        if unknown:
            raise ValueError(f"Unknown option {unknown}: the options are {', '.join(self.options)}")
        try:
            return parse({self.options[name]: value for name, value in options.items()}, _spell)
        except ValueError as error:
            if not any(_spell(option) in str(error) for option in _WITH_COLONS):
                raise
            raise ValueError(f"{error} (a colon in a value is written \\:)") from None

    def wrap(self, reactor: Any, description: str, wrapper: Callable[[_Endpoint], _Endpoint]) -> _Endpoint:
        """Make the described endpoint, and put *wrapper* around it; raise ValueError for whatever goes wrong."""
        # Twisted ignores the case of a prefix as well
        if description.partition(":")[0].lower() in self.with_header:
            raise ValueError(describe_second_header(description, self.act))
        try:
            endpoint = self.from_string(reactor, description)
        except (TypeError, ValueError) as error:  # TypeError: a part is missing, or an option is unknown
            hint = f"{error}; the options of {_NAME}: begin with {_PREFIX}"
            raise ValueError(f"{description} does not describe an endpoint: {hint}") from error
        except LookupError as error:
            raise ValueError(
                f"{description} does not describe an endpoint: systemd did not pass this socket"
            ) from error
        except (ImportError, NameError) as error:  # TLS without pyOpenSSL raises either
            hint = "TLS needs pyOpenSSL and service_identity, which the extra proxyprotocol[tls] installs"
            raise ValueError(f"{description} cannot be {self.use}: {error}. {hint}") from error
        except Exception as error:  # from the file system, from pyOpenSSL, or from a foreign endpoint
            why = str(error) if isinstance(error, OSError) else repr(error)  # an OSError names the file
            raise ValueError(f"{description} cannot be {self.use}: {why}") from error
        try:
            return wrapper(endpoint)
        except TypeError as error:  # a header inside a tls: description, or TLS that is missing or cannot be split
            raise ValueError(f"{description} cannot be {self.use}: {error}") from error


_SERVER: _Side[IStreamServerEndpoint] = _Side(
    from_string=serverFromString,
    use="listened on",
    options={_spell(option): option for option in (*OPTIONS, "inside_tls")},
    # with a second header, the outer one would choose whom we trust for the inner one
    with_header=(_NAME, "haproxy"),
    act="reads",
)
_CLIENT: _Side[IStreamClientEndpoint] = _Side(
    from_string=clientFromString,
    use="connected to",
    options={_spell(option): option for option in SENDER_OPTIONS},
    with_header=(_NAME,),
    act="sends",
)


def server_from_options(reactor: Any, description: str, options: Mapping[str, str]) -> IStreamServerEndpoint:
    """Make a server endpoint.

    Args:
        reactor: The reactor.
        description: The description of the endpoint to listen on.
        options: The options, by their names in endpoint strings.

    Raises:
        ValueError: An option, its value or the description is wrong.
    """
    options = dict(options)
    inside_tls = choose(_INSIDE_TLS, options.pop(_INSIDE_TLS, "no"), YES_NO)
    receiver = _SERVER.parse(parse_receiver, options)
    tls_timeout = _SERVER.parse(parse_tls_timeout, options)

    def wrapper(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
        risk = describe_risk(receiver, _spell)
        if risk is not None:
            _log.warn("{risk}", risk=risk)
        return ProxyProtocolServerEndpoint(endpoint, receiver=receiver, inside_tls=inside_tls, tls_timeout=tls_timeout)

    return _SERVER.wrap(reactor, description, wrapper)


def client_from_options(reactor: Any, description: str, options: Mapping[str, str]) -> IStreamClientEndpoint:
    """Make a client endpoint.

    Args:
        reactor: The reactor.
        description: The description of the endpoint to connect to.
        options: The options, by their names in endpoint strings.

    Raises:
        ValueError: An option, its value or the description is wrong.
    """
    version, result = _CLIENT.parse(parse_sender, options)
    return _CLIENT.wrap(
        reactor, description, lambda endpoint: ProxyProtocolClientEndpoint(endpoint, result, pp=version)
    )


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerStringParser:
    """Parses the endpoint strings of servers; Twisted finds it as a plugin."""

    prefix = _NAME

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        """Make a server endpoint from the parts of a string after its prefix: see :func:`server_from_options`."""
        return server_from_options(reactor, *_split_string(args, kwargs))


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientStringParser:
    """Parses the endpoint strings of clients; Twisted finds it as a plugin."""

    prefix = _NAME

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        """Make a client endpoint from the parts of a string after its prefix: see :func:`client_from_options`."""
        return client_from_options(reactor, *_split_string(args, kwargs))


def _split_string(args: tuple[str, ...], kwargs: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Split the parts of a string into the description of the wrapped endpoint and our options."""
    for part in args:
        if part in (*_SERVER.options, *_CLIENT.options):
            raise ValueError(f"{part} takes a value: {part}=...")
    if not args:
        raise ValueError("proxyprotocol: needs the description of another endpoint, as in proxyprotocol:tcp:8080")
    options = {name: value for name, value in kwargs.items() if name.startswith(_PREFIX)}
    others = (f"{name}={_quote(value)}" for name, value in kwargs.items() if name not in options)
    return ":".join([*map(_quote, args), *others]), options


def _quote(part: str) -> str:
    # Twisted's quoteStringArgument leaves "=" alone, which would turn a positional part into an option
    return part.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")
