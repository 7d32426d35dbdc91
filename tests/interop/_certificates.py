"""The certificates of these tests: an authority, a server's and a client's, made anew for each run."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import NamedTuple

import pytest

SERVER_NAME = "app.example.com"
CLIENT_NAME = "client-é.example"  # not ASCII: the TLV that names it is UTF-8


class Certificates(NamedTuple):
    """Paths of PEM files.

    Attributes:
        authority: The authority's certificate.
        server: The server's key and certificate, in one file.
        client: The client's key and certificate, in one file.
    """

    authority: Path
    server: Path
    client: Path

    def client_context(self, *, certified: bool = False) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority, and shows its own certificate if *certified*."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if certified:
            context.load_cert_chain(self.client)
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make the files. Without the cryptography library, which comes with pyOpenSSL, the test is skipped."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    lifetime = datetime.timedelta(days=1)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def write(file: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, certificate: x509.Certificate) -> Path:
        path = directory / file
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return path

    def issue(
        subject: str, public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - lifetime)
            .not_valid_after(now + lifetime)
        )
        # without these, Python 3.13 rejects every certificate
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(public),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
        )
        for extension in (*identifiers, *extensions):
            critical = isinstance(extension, (x509.BasicConstraints, x509.KeyUsage))
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority_key, hashes.SHA256())

    # With RSA keys for both, the TLVs for the signature and the key have values that the tests know.
    authority_key = rsa.generate_private_key(65537, 2048)
    server_key = rsa.generate_private_key(65537, 2048)
    client_key = ec.generate_private_key(ec.SECP256R1())
    signs = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    authority = issue("authority", authority_key.public_key(), x509.BasicConstraints(ca=True, path_length=None), signs)
    server = issue("server", server_key.public_key(), x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]))
    client = issue(CLIENT_NAME, client_key.public_key())
    return Certificates(
        write("authority.pem", authority_key, authority),
        write("server.pem", server_key, server),
        write("client.pem", client_key, client),
    )
