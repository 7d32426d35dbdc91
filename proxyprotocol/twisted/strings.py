"""Floor 5: endpoint strings, ``proxyprotocol:`` in front of any endpoint's description.

``proxyprotocol:tcp:8080``, ``proxyprotocol:unix:/run/app.sock``, ``proxyprotocol:ssl:443:privateKey=key.pem``, each
with options whose names begin with ``pp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

from proxyprotocol.options import OPTIONS, choose, parse_receiver

from .endpoints import ProxyProtocolServerEndpoint

__all__ = ["ServerStringParser", "server_from_options"]

_NAME = "proxyprotocol"
_PREFIX = "pp"
# who is trusted with a second header would be told by the first
_READ_HEADERS = (_NAME, "haproxy")
_INSIDE_TLS = "ppInsideTLS"
_YES_NO = {"yes": True, "no": False}


def _spell(option: str) -> str:
    """Give the name of a receiver's option in an endpoint string: ``max_header`` is ``ppMaxHeader``.

    Args:
        option: The name in :data:`proxyprotocol.options.OPTIONS`.
    """
    return _PREFIX + "".join(word.capitalize() for word in option.split("_"))


_SERVER_OPTIONS = {_spell(option): option for option in OPTIONS}


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
    inside_tls = choose(_INSIDE_TLS, options.pop(_INSIDE_TLS, "no"), _YES_NO)
    unknown = ", ".join(sorted(options.keys() - _SERVER_OPTIONS.keys()))
    if unknown:
        raise ValueError(f"{unknown}: there is no such option, but {', '.join([*_SERVER_OPTIONS, _INSIDE_TLS])}")
    try:
        receiver = parse_receiver({_SERVER_OPTIONS[name]: value for name, value in options.items()}, _spell)
    except ValueError as error:  # an IPv6 address is easily cut
        raise ValueError(f"{error} (a colon in a value is written \\:)") from None
    if description.partition(":")[0] in _READ_HEADERS:
        raise ValueError(f"{description} reads a header already, and a connection has one")
    try:
        endpoint = serverFromString(reactor, description)
    except TypeError as error:  # so Twisted answers for a part that is missing, and for an option that is none
        hint = f"{error}; the options of {_NAME}: begin with {_PREFIX}"
        raise ValueError(f"{description} does not describe an endpoint: {hint}") from error
    except (ImportError, NameError) as error:  # so for TLS without pyOpenSSL
        hint = "TLS needs pyOpenSSL and service_identity, which the extra proxyprotocol[tls] installs"
        raise ValueError(f"{description} cannot be listened on: {error}. {hint}") from error
    return ProxyProtocolServerEndpoint(endpoint, receiver=receiver, inside_tls=inside_tls)


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
        options = {name: value for name, value in kwargs.items() if name.startswith(_PREFIX)}
        return server_from_options(
            reactor, _describe(args, {k: v for k, v in kwargs.items() if k not in options}), options
        )


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
