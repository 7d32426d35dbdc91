"""A client that does TLS by itself, so that tests can choose the segments, and its certificates."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate, trustRootFromCertificates

from tests.on_twisted.reactors import Client, connect, until
from tests.vectors import single_bytes

SERVER_NAME = "app.example.com"


class Files(NamedTuple):
    """Paths of PEM files: a root authority, an intermediate one, and the server's and the client's certificates."""

    root: Path
    chain: Path
    certificate: Path
    key: Path
    client: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        """Return the TLS context of a client."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.load_cert_chain(self.client)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def options(self) -> CertificateOptions:
        """Return the TLS settings of a server that asks for a client certificate."""
        own = PrivateCertificate.loadPEM(self.key.read_bytes() + self.certificate.read_bytes())
        chain = Certificate.loadPEM(self.chain.read_bytes())
        return CertificateOptions(
            privateKey=own.privateKey.original,
            certificate=own.original,
            extraCertChain=[chain.original],
            trustRoot=trustRootFromCertificates([Certificate.loadPEM(self.root.read_bytes())]),
        )

    def string(self, prefix: str) -> str:
        """Return the endpoint string of a server."""
        options = {"privateKey": self.key, "certKey": self.certificate, "extraCertChain": self.chain}
        return ":".join([prefix, *(f"{name}={quoteStringArgument(str(path))}" for name, path in options.items())])


class TLSClient(Client):
    """A client that does TLS by itself, to choose what goes into which segment.

    Args:
        context: The TLS context.
        before: The bytes to send before the ClientHello.
        cut: The function that cuts the sent bytes into segments.
    """

    def __init__(
        self, context: ssl.SSLContext, before: bytes = b"", cut: Callable[[bytes], list[bytes]] = lambda data: [data]
    ) -> None:
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=SERVER_NAME)
        self._before, self._cut, self.ready = before, cut, False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._advance()

    def say(self, *records: bytes) -> None:
        """Send records in one segment."""
        for record in records:
            self.tls.write(record)
        self._send(self._outgoing.read())

    def dataReceived(self, data: bytes) -> None:
        self._incoming.write(data)
        self._advance()

    def _send(self, data: bytes) -> None:
        for piece in self._cut(data):
            self.transport.write(piece)

    def _advance(self) -> None:
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            while data := self.tls.read():
                self.received += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # the server does not do TLS
            self.transport.loseConnection()
        else:  # the stream has ended
            self.transport.loseConnection()
        before, self._before = self._before, b""
        self._send(before + self._outgoing.read())


def answering(app: Any) -> None:
    app.transport.write(b"answer to " + app.received)


async def served(reactor: Any, port: Any, client: TLSClient, *records: bytes) -> None:
    """Do the handshake, send records and wait for the answer."""
    await connect(reactor, port, client)
    await until(reactor, lambda: client.ready)
    client.say(*records)
    await until(reactor, lambda: client.received)


CUTS = pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])

# Twisted's own use of pyOpenSSL, if that is newer than Twisted
OLD_WAYS = pytest.mark.filterwarnings("ignore:.*(pyOpenSSL|X509):DeprecationWarning")
