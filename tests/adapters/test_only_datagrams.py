"""The Simple Proxy Protocol is only for datagrams: a server for connections refuses it when it is configured."""

from __future__ import annotations

import asyncio
import socketserver
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.protocol import Factory

from proxyprotocol import ProxyProtocolSPP, Receiver
from proxyprotocol.asyncio import ProxyProtocolFactory, new_event_loop
from proxyprotocol.integrations.anyio import ProxyProtocolListener
from proxyprotocol.options import parse_receiver, read_environment, spell_variable
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sender import Sender
from proxyprotocol.sync import ProxyProtocolMixIn, read_header
from proxyprotocol.twisted import ProxyProtocolServerEndpoint, ProxyProtocolWrapperFactory

CODEC = ProxyProtocolSPP()


class Server(ProxyProtocolMixIn, socketserver.TCPServer):
    receiver = Receiver(CODEC)


SERVERS: dict[str, Callable[[], Any]] = {
    "Twisted's factory": lambda: ProxyProtocolWrapperFactory(Factory(), pp=CODEC),
    "Twisted's endpoint": lambda: ProxyProtocolServerEndpoint(TCP4ServerEndpoint(None, 0), receiver=Receiver(CODEC)),
    "asyncio": lambda: ProxyProtocolFactory(asyncio.Protocol, pp=CODEC),
    "an event loop": lambda: new_event_loop(pp=CODEC),
    "reader": lambda: ProxyProtocolReader(CODEC),
    "anyio": lambda: ProxyProtocolListener(None, pp=CODEC),
    "sync": lambda: read_header(None, pp=CODEC),  # type: ignore[arg-type]
    "socketserver": lambda: Server(("127.0.0.1", 0), socketserver.BaseRequestHandler),
    "a client": lambda: Sender(pp=CODEC),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_for_connections_refuses_the_codec(name: str) -> None:
    with pytest.raises(ValueError, match=r"^ProxyProtocolSPP is only for datagrams: for connections, use pp=ProxyPro"):
        SERVERS[name]()


def test_an_option_says_where_it_belongs() -> None:
    says = "takes detect, v1 or v2: spp is only for datagrams, which take pp=ProxyProtocolSPP"
    with pytest.raises(ValueError, match=f"^ppVersion {says}"):
        serverFromString(None, "proxyprotocol:tcp:0:ppVersion=spp")
    with pytest.raises(ValueError, match=f"^PROXYPROTOCOL_VERSION {says}"):
        parse_receiver(read_environment({"PROXYPROTOCOL_VERSION": "SPP"}), spell_variable)
