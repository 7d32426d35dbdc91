"""A mail server of aiosmtpd that prints the client of each message. It has STARTTLS, and TLS from the start as second.

Its controllers have a loop and a thread each.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from proxyprotocol.integrations.aiosmtpd import ProxyProtocolMixIn

from ._loops import PLAIN, server_context, tell_ports


class ProxyController(ProxyProtocolMixIn, Controller):
    pass


class Handler:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert session.peer is not None
        assert server.transport is not None
        assert server.transport.get_extra_info("proxy_protocol") is not None
        assert isinstance(envelope.content, bytes)
        text = envelope.content.decode().strip()
        print("message:", *session.peer[:2], text, flush=True)
        return "250 OK"


def main(kind: str, certificate: str) -> None:
    ways: list[dict[str, Any]] = [
        {"tls_context": server_context(certificate)},
        {"ssl_context": server_context(certificate)},
    ]
    for way in ways:
        controller = ProxyController(Handler(), "127.0.0.1", 0, PLAIN[kind](), **way)
        controller.start()
        server: Any = controller.server
        tell_ports(sock.getsockname() for sock in server.sockets)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
