"""Helpers for the tests of the relay's TLS: its addresses, and the two ends of a connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any

import pytest

from tests.interop._certificates import SERVER_NAME, Certificates
from tests.server.relays import Accepted, Backend


def source(certificates: Certificates, more: str = "") -> str:
    return f"ssl://127.0.0.1:0?cert={certificates.server}{more}"


def destination(backend: Backend, certificates: Certificates, more: str = "") -> str:
    return f"ssl://{backend.address}?cafile={certificates.authority}&server_name={SERVER_NAME}{more}"


class Encrypted:
    """A socket with TLS that can be half-closed, unlike Python's own.

    Args:
        sock: The socket.
        context: The TLS context.
        server_side: Whether this is the server's end.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else SERVER_NAME
        self.tls = context.wrap_bio(self._in, self._out, server_side, name)
        self._do(self.tls.do_handshake)

    def _do(self, step: Any, *arguments: Any) -> Any:
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                data = self._sock.recv(65536)
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                self.flush()

    def flush(self) -> None:
        if self._out.pending:
            self._sock.sendall(self._out.read())

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), 65536):
            self.tls.write(data[at : at + 65536])
            self.flush()

    def recv(self, size: int) -> bytes:
        try:
            data: bytes = self._do(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""
        return data

    def say_all(self, data: bytes) -> None:
        self.sendall(data)
        self.half_close()

    def half_close(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.flush()


def accept_tls(backend: Backend, certificates: Certificates) -> tuple[Accepted, Encrypted]:
    accepted = backend.accept_exactly()
    return accepted, Encrypted(accepted.sock, certificates.server_context(), server_side=True)


def hello_with_name(name: bytes) -> bytes:
    """Return the first bytes of a TLS client that asks for *name*; Python's own clients refuse most wrong ones."""
    stand_in = "x" * len(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=stand_in)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read().replace(stand_in.encode(), name)
