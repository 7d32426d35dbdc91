"""A client that does TLS by itself, for the tests that say what goes into which segment, and its certificates."""

from __future__ import annotations

import datetime
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
    """Paths of PEM files: an authority, which has issued another, which has issued the server's and a client's."""

    root: Path
    chain: Path
    certificate: Path
    key: Path
    client: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        """What a client connects with."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.load_cert_chain(self.client)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def options(self) -> CertificateOptions:
        """What a server does TLS with: it asks for the client's certificate."""
        own = PrivateCertificate.loadPEM(self.key.read_bytes() + self.certificate.read_bytes())
        chain = Certificate.loadPEM(self.chain.read_bytes())
        return CertificateOptions(
            privateKey=own.privateKey.original,
            certificate=own.original,
            extraCertChain=[chain.original],
            trustRoot=trustRootFromCertificates([Certificate.loadPEM(self.root.read_bytes())]),
        )

    def string(self, prefix: str) -> str:
        """The endpoint string of a server."""
        options = {"privateKey": self.key, "certKey": self.certificate, "extraCertChain": self.chain}
        return ":".join([prefix, *(f"{name}={quoteStringArgument(str(path))}" for name, path in options.items())])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files, made once. The client has only the root: without the chain in the server's answer it trusts nobody."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    directory = tmp_path_factory.mktemp("certificates")
    now, lifetime = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "chain", SERVER_NAME, "client")}

    def issue(subject: str, issuer: str) -> bytes:
        is_authority = subject in ("root", "chain")
        names = {name: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)}
        public = {name: keys[name].public_key() for name in (subject, issuer)}
        builder = x509.CertificateBuilder(names[issuer], names[subject], public[subject], x509.random_serial_number())
        builder = builder.not_valid_before(now - lifetime).not_valid_after(now + lifetime)
        for extension, critical in (
            (x509.BasicConstraints(is_authority, None), True),
            (x509.SubjectAlternativeName([x509.DNSName(subject)]), False),
            (x509.SubjectKeyIdentifier.from_public_key(public[subject]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(public[issuer]), False),
            (x509.KeyUsage(True, False, False, False, False, is_authority, is_authority, False, False), True),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(keys[issuer], SHA256()).public_bytes(Encoding.PEM)

    def key(name: str) -> bytes:
        return keys[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    chain = issue("chain", "root")
    contents = [issue("root", "root"), chain, issue(SERVER_NAME, "chain"), key(SERVER_NAME)]
    contents.append(key("client") + issue("client", "chain") + chain)
    paths = Files(*(directory / f"{name}.pem" for name in Files._fields))
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


class TLSClient(Client):
    """A client that does TLS by itself, to say what goes into which segment.

    Args:
        context: What it does TLS with.
        before: What it sends in front of its ClientHello.
        cut: How it cuts what it sends.
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
        """Send records, in one segment."""
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
        except ssl.SSLError:  # no TLS
            self.transport.loseConnection()
        else:  # the end
            self.transport.loseConnection()
        before, self._before = self._before, b""
        self._send(before + self._outgoing.read())


def answering(app: Any) -> None:
    app.transport.write(b"answer to " + app.received)


async def served(reactor: Any, port: Any, client: TLSClient, *records: bytes) -> None:
    """Do the handshake, say something and get the answer to it."""
    await connect(reactor, port, client)
    await until(reactor, lambda: client.ready)
    client.say(*records)
    await until(reactor, lambda: client.received)


CUTS = pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])

# Twisted's own, with a pyOpenSSL that is newer than it
OLD_WAYS = pytest.mark.filterwarnings("ignore:.*(pyOpenSSL|X509):DeprecationWarning")
