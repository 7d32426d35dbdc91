"""The fixtures of the tests of Twisted's adapter; tests/interop/test_twisted_client.py uses them too."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from tests.on_twisted.reactors import REACTORS, Log, install
from tests.on_twisted.tls import SERVER_NAME, Files


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """The log. A logged failure that the test did not expect, and take out, fails the test."""
    log = Log()
    globalLogPublisher.addObserver(log)
    try:
        yield log
    finally:
        globalLogPublisher.removeObserver(log)
    assert [failure.getTraceback() for failure in log.failures] == []


@contextlib.contextmanager
def _built_reactor(kind: str) -> Iterator[Any]:
    module, name = REACTORS[kind]
    with contextlib.ExitStack() as stack:
        arguments = []
        if kind == "asyncio":
            arguments = [stack.enter_context(contextlib.closing(asyncio.new_event_loop()))]
        reactor = getattr(importlib.import_module(f"twisted.internet.{module}"), name)(*arguments)
        if kind == "epoll":
            stack.callback(reactor._poller.close)
        try:
            yield reactor
        finally:
            for reader in list(reactor._internalReaders):
                reactor.removeReader(reader)
                reader.connectionLost(None)


@pytest.fixture
def reactor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A new reactor, the global one during the test; tests/conftest.py runs the test on each kind."""
    with _built_reactor(request.param) as reactor:
        install(reactor, monkeypatch)
        yield reactor


@pytest.fixture
def clock() -> Clock:
    """A clock that the test advances."""
    return Clock()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for UNIX sockets: the path of ``tmp_path`` may be too long for one."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files, made once. The client has only the root, so the server must send the chain."""
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
