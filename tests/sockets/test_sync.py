"""Blocking sockets: read_header() and its time-out, send_header() and create_connection()."""

from __future__ import annotations

import functools
import gc
import select
import socket
import ssl
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from ipaddress import IPv4Address
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultLocal,
    ProxyResultUnix,
    Receiver,
    TrustedProxies,
)
from proxyprotocol.sync import create_connection, read_header, send_header
from tests.interop._certificates import Certificates
from tests.sockets.servers import (
    CLIENT,
    DESTINATION,
    FAMILIES,
    HEADER,
    PATIENCE,
    SHORT,
    TLSClient,
    connected,
    dripping,
    meanwhile,
    reset,
)
from tests.vectors import IPV4_BLOCK, PROXY, SIGNATURE, VECTORS, Vector, describe, single_bytes, tlv, v2

REQUIRE, OPTIONAL, IGNORE = HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
HEADERS = [HEADER, v2(PROXY, 0x11, IPV4_BLOCK)]
NAMED = ProxyResultIPv4(
    (IPv4Address(CLIENT[0]), CLIENT[1]),
    (IPv4Address(DESTINATION[0]), DESTINATION[1]),
    protocol=socket.SOCK_STREAM,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A connection of each family: the server's end and the client's."""
    with connected(request.param) as ends:
        yield ends


@pytest.fixture
def ends() -> Iterator[Pair]:
    """A connection over IPv4: the server's end and the client's."""
    with connected("IPv4") as ends:
        yield ends


@contextmanager
def refused(error: type[ProxyProtocolError], sock: socket.socket) -> Iterator[Any]:
    """Expect exactly this error, soon, and that the socket keeps its time-out."""
    before, begun = sock.gettimeout(), time.monotonic()
    with pytest.raises(ProxyProtocolError) as caught:
        yield caught
    assert type(caught.value) is error
    assert sock.gettimeout() == before
    assert time.monotonic() - begun < PATIENCE / 2


def rest_of(server: socket.socket, client: socket.socket) -> bytes:
    """Return what the server's socket still holds after the client has ended."""
    client.shutdown(socket.SHUT_WR)
    with server.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_header_is_read_and_the_data_after_it_stays_in_the_socket(ends: Pair, vector: Vector) -> None:
    server, client = ends
    client.sendall(vector.header + b"payload")

    result = read_header(server, trusted="any")

    assert result is not None
    assert describe(result) == describe(vector.result)
    assert rest_of(server, client) == b"payload"


@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
def test_a_header_that_is_longer_than_one_look_is_read(ends: Pair, policy: HeaderPolicy) -> None:
    server, client = ends
    client.sendall(v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE0, bytes(3000))) + b"payload")

    result = read_header(server, policy=policy)

    assert result is not None
    assert (result.peername, result.tlv[0xE0]) == (CLIENT, bytes(3000))
    assert rest_of(server, client) == b"payload"


@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_read_byte_by_byte_over_every_family(pair: Pair, header: bytes, policy: HeaderPolicy) -> None:
    server, client = pair

    with dripping(client, single_bytes(header)):
        result = read_header(server, policy=policy, timeout=PATIENCE)

        assert result is not None
        assert (result.peername, result.sockname) == (CLIENT, DESTINATION)
        client.sendall(b"payload")
    assert rest_of(server, client) == b"payload"


def test_the_keywords_are_those_of_a_receiver_or_one_receiver(ends: Pair) -> None:
    server, client = ends
    client.sendall(HEADER * 2)

    assert read_header(server, receiver=Receiver(ProxyProtocolV1())) == NAMED
    with pytest.raises(ProxyProtocolSyntaxError):
        read_header(server, pp=ProxyProtocolV2(), trusted="any")
    with pytest.raises(TypeError, match="timeout="):
        read_header(server, receiver=Receiver(), timeout=1)


@pytest.mark.parametrize(("trusted", "named"), [(["127.0.0.0/8"], True), (["127.0.0.0/8", "!127.0.0.1"], False)])
def test_only_trusted_networks_may_send_a_header(trusted: list[str], named: bool) -> None:
    with connected("IPv4") as (server, client):
        client.sendall(HEADER)
        if named:
            assert read_header(server, trusted=trusted) == NAMED
        else:
            with pytest.raises(ProxyProtocolUntrustedError):
                read_header(server, trusted=trusted)
            assert server.recv(1000) == HEADER


def test_ssl_can_wrap_the_socket_even_if_the_client_hello_came_with_the_header(
    ends: Pair, certificates: Certificates
) -> None:
    server, client = ends
    tls = TLSClient(client, certificates)
    client.sendall(HEADER + tls.greeting())

    assert read_header(server, trusted="any") == NAMED
    with secured(server, tls, certificates, b"request") as wrapped:
        assert wrapped.recv(100) == b"request"


@contextmanager
def secured(
    server: socket.socket, tls: TLSClient, certificates: Certificates, message: bytes
) -> Iterator[ssl.SSLSocket]:
    """Do TLS on both ends of a connection; the client then sends a message."""
    with meanwhile(lambda: tls.shake_hands(message)):
        wrapped = certificates.server_context().wrap_socket(server, server_side=True)
    with wrapped:
        yield wrapped


@pytest.mark.parametrize("policy", [REQUIRE, IGNORE])
def test_a_header_inside_tls_is_read(ends: Pair, certificates: Certificates, policy: HeaderPolicy) -> None:
    server, client = ends
    with secured(server, TLSClient(client, certificates), certificates, HEADER + b"payload") as wrapped:
        assert read_header(wrapped, policy=policy) == NAMED
        assert wrapped.recv(100) == b"payload"


def test_inside_tls_the_policy_optional_is_a_value_error(ends: Pair, certificates: Certificates) -> None:
    server, client = ends
    with secured(server, TLSClient(client, certificates), certificates, HEADER) as wrapped:
        with pytest.raises(ValueError):
            read_header(wrapped, policy=OPTIONAL)
        assert wrapped.recv(100) == HEADER


# Time-outs


@pytest.mark.parametrize("policy", [REQUIRE, IGNORE])
def test_a_silent_peer_is_refused_at_the_time_out(pair: Pair, policy: HeaderPolicy) -> None:
    server, _ = pair
    with refused(ProxyProtocolTimeoutError, server) as caught:
        read_header(server, policy=policy, timeout=SHORT)
    assert caught.value.args == (SHORT, 0)


@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
def test_a_dripping_peer_gets_no_more_time(ends: Pair, policy: HeaderPolicy) -> None:
    server, client = ends
    client.sendall(SIGNATURE)
    with (
        dripping(client, single_bytes(b"\x21\x11\x0e\x00" + bytes(3000)), SHORT / 10),
        refused(ProxyProtocolTimeoutError, server) as caught,
    ):
        read_header(server, policy=policy, timeout=SHORT)
    assert 0 < caught.value.received < 100


def test_without_a_time_out_the_sockets_own_does_not_count_either(ends: Pair) -> None:
    server, client = ends
    server.settimeout(SHORT / 10)
    with dripping(client, [HEADER[:20], HEADER[20:]], SHORT):
        assert read_header(server, timeout=None, trusted="any") == NAMED
    assert server.gettimeout() == SHORT / 10


@pytest.mark.parametrize("own", [None, 7.5])
def test_the_sockets_own_time_out_is_restored(ends: Pair, own: float | None) -> None:
    server, client = ends
    server.settimeout(own)
    client.sendall(HEADER + b"G")

    assert read_header(server, trusted="any") == NAMED
    assert server.gettimeout() == own
    with refused(ProxyProtocolSyntaxError, server):
        read_header(server, trusted="any")
    assert server.gettimeout() == own


def test_a_non_blocking_socket_is_a_value_error_and_stays_unchanged(ends: Pair) -> None:
    server, client = ends
    client.sendall(HEADER)
    server.setblocking(False)
    with pytest.raises(ValueError, match="non-blocking"):
        read_header(server, trusted="any")
    assert server.gettimeout() == 0
    server.settimeout(PATIENCE)
    assert rest_of(server, client) == HEADER


def test_a_closed_socket_is_an_os_error(ends: Pair) -> None:
    server, _ = ends
    server.close()
    with pytest.raises(OSError):
        read_header(server, trusted="any")


class Counting(socket.socket):
    """A socket that counts its changes of the time-out."""

    changes = 0

    def settimeout(self, value: float | None) -> None:
        self.changes += 1
        super().settimeout(value)


class Cooperative(socket.socket):
    """A socket as gevent's: its recv() waits for as long as its time-out says, whatever the flags say."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        assert self.gettimeout() is not None, "this would wait for ever"
        return super().recv(size, flags)


def again(server: socket.socket, kind: type[socket.socket]) -> Any:
    """Return the same connection as a socket of another class."""
    return kind(fileno=server.detach())


@pytest.mark.parametrize(("own", "changes"), [(None, 0), (7.5, 2)])
def test_a_header_that_is_there_needs_no_time_out(ends: Pair, own: float | None, changes: int) -> None:
    client = ends[1]
    with again(ends[0], Counting) as server:
        if own is not None:
            socket.socket.settimeout(server, own)
        for header in HEADERS:
            client.sendall(header)
            assert read_header(server, trusted="any") == NAMED
        assert (server.changes, server.gettimeout()) == (changes * len(HEADERS), own)


def test_a_socket_that_waits_whatever_the_flags_say_keeps_the_time_out(ends: Pair) -> None:
    client = ends[1]
    with again(ends[0], Cooperative) as server:
        client.sendall(HEADER + b"payload")
        assert read_header(server, trusted="any", timeout=PATIENCE) == NAMED
        assert socket.socket.recv(server, 100) == b"payload"
        with refused(ProxyProtocolTimeoutError, server):
            read_header(server, trusted="any", timeout=SHORT)


# Wrong headers


@pytest.mark.parametrize("policy", [REQUIRE, IGNORE])
@pytest.mark.parametrize("data", [b"G", b"\x16\x03\x01", b"PROXY TCP4 192.0.2.256", SIGNATURE + b"\x31"])
def test_other_data_is_refused_at_once(ends: Pair, data: bytes, policy: HeaderPolicy) -> None:
    server, client = ends
    client.sendall(data)
    with refused(ProxyProtocolSyntaxError, server):
        read_header(server, policy=policy, timeout=PATIENCE)


@pytest.mark.parametrize("lose", [socket.socket.close, reset])
@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
@pytest.mark.parametrize("data", [b"P", b"PROXY TCP4", SIGNATURE])
def test_an_end_inside_the_header_is_noticed_at_once(pair: Pair, data: bytes, policy: HeaderPolicy, lose: Any) -> None:
    server, client = pair
    client.sendall(data)
    lose(client)
    with refused(ProxyProtocolIncompleteError, server):
        read_header(server, policy=policy, timeout=PATIENCE)


@pytest.mark.parametrize("lose", [socket.socket.close, reset])
def test_an_end_before_the_header_is_noticed_at_once(pair: Pair, lose: Any) -> None:
    server, client = pair
    lose(client)
    with refused(ProxyProtocolMissingError, server):
        read_header(server, timeout=PATIENCE, trusted="any")


def test_a_reset_while_waiting_ends_the_stream(ends: Pair) -> None:
    server, client = ends
    client.sendall(HEADER[:20])
    with meanwhile(lambda: reset(client)), refused(ProxyProtocolIncompleteError, server):
        read_header(server, timeout=PATIENCE, trusted="any")


@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
@pytest.mark.parametrize("timeout", [SHORT, PATIENCE])
def test_a_refused_connection_needs_no_garbage_collector(ends: Pair, policy: HeaderPolicy, timeout: float) -> None:
    server, client = ends
    client.sendall(b"P" if timeout == SHORT else b"PROXX" if policy is REQUIRE else b"PROXY X")
    duplicate = server.dup()
    duplicate.settimeout(PATIENCE)
    gone = weakref.ref(duplicate)
    gc.disable()
    try:
        with pytest.raises(ProxyProtocolError) as caught:
            read_header(duplicate, policy=policy, timeout=timeout)
        duplicate.close()
        del duplicate, caught
        assert gone() is None
    finally:
        gc.enable()


# Policies


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"PROXX", b"\r\n\r\n\0\r\nQUIT\r", b"P" * 5000, b"\0"],
)
@pytest.mark.parametrize("whole", [True, False])
def test_under_optional_every_byte_of_other_data_stays_in_the_socket(pair: Pair, data: bytes, whole: bool) -> None:
    server, client = pair
    with dripping(client, [data] if whole else single_bytes(data)):
        assert read_header(server, policy=OPTIONAL, timeout=PATIENCE) is None
    sent = rest_of(server, client)  # what was sent until the decision, or a little more
    assert sent
    assert data.startswith(sent)
    assert not whole or sent == data


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("at", [1, 5, 6, 11, 12, 15, 16, 20])
def test_under_optional_a_header_in_two_pieces_is_read(ends: Pair, header: bytes, at: int) -> None:
    server, client = ends
    with dripping(client, [header[:at], header[at:] + b"payload", b""], SHORT / 10):
        assert read_header(server, policy=OPTIONAL, timeout=PATIENCE) == read_of(header)
        client.sendall(b"!")
    assert rest_of(server, client).rstrip(b"!") == b"payload"


def read_of(header: bytes) -> ProxyResult:
    """Return what a header says, read by its codec."""
    return (ProxyProtocolV1() if header.startswith(b"P") else ProxyProtocolV2()).unpack(header)


def test_under_optional_a_wrong_header_is_refused(ends: Pair) -> None:
    server, client = ends
    client.sendall(b"PROXY TCP5 ")
    with refused(ProxyProtocolSyntaxError, server):
        read_header(server, policy=OPTIONAL)


def test_under_optional_silence_and_an_end_are_plain_connections(pair: Pair) -> None:
    server, client = pair
    assert read_header(server, policy=OPTIONAL, timeout=SHORT) is None
    client.sendall(b"late")
    assert rest_of(server, client) == b"late"
    begun = time.monotonic()
    assert read_header(server, policy=OPTIONAL, timeout=PATIENCE) is None
    assert time.monotonic() - begun < PATIENCE / 2


def test_under_optional_a_part_of_a_signature_times_out(ends: Pair) -> None:
    server, client = ends
    client.sendall(b"PROX")
    with refused(ProxyProtocolTimeoutError, server) as caught:
        read_header(server, policy=OPTIONAL, timeout=SHORT)
    assert caught.value.args == (SHORT, 4)


def test_under_optional_a_header_seen_in_time_is_taken_out_even_after_the_time_out(
    ends: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = ends
    client.sendall(b"PROXY UNKNOWN\r\npayload")
    # the time at the start and at the first look; after that it is late
    clock = chain([0.0, 0.0], repeat(PATIENCE))
    monkeypatch.setattr("proxyprotocol.sync.time", SimpleNamespace(monotonic=lambda: next(clock)))

    result = read_header(server, policy=OPTIONAL, timeout=SHORT)

    assert result is not None
    assert rest_of(server, client) == b"payload"


def test_under_optional_a_system_without_pollrdhup_waits_too(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "POLLRDHUP")
    server, client = ends
    with dripping(client, [HEADER[:3], HEADER[3:]], SHORT / 2):
        assert read_header(server, policy=OPTIONAL, timeout=PATIENCE) == NAMED
    client.sendall(b"PROX")
    client.close()
    with refused(ProxyProtocolTimeoutError, server):
        read_header(server, policy=OPTIONAL, timeout=SHORT)


@pytest.mark.parametrize("keywords", [{"policy": HeaderPolicy.SKIP}, {"pp": ProxyProtocolNoop()}])
def test_if_no_header_is_expected_nothing_is_read(ends: Pair, keywords: Any) -> None:
    server, client = ends
    assert read_header(server, timeout=PATIENCE, **keywords) is None
    client.sendall(HEADER)
    assert read_header(server, timeout=PATIENCE, **keywords) is None
    assert rest_of(server, client) == HEADER


def test_under_ignore_the_header_is_still_returned(ends: Pair) -> None:
    server, client = ends
    client.sendall(HEADER)
    assert read_header(server, policy=IGNORE) == NAMED


def test_nothing_is_read_from_a_rejected_peer(ends: Pair) -> None:
    server, client = ends
    client.sendall(HEADER)
    with refused(ProxyProtocolUntrustedError, server):
        read_header(server, policy=TrustedProxies(["192.0.2.0/24"]))
    assert rest_of(server, client) == HEADER


def test_a_policy_function_gets_both_addresses(pair: Pair) -> None:
    server, client = pair
    asked = []

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        asked.append((peer, local))
        return HeaderPolicy.SKIP

    assert read_header(server, policy=policy) is None
    assert asked == [(client.getsockname(), client.getpeername())]


def test_a_peer_that_is_gone_is_not_trusted(ends: Pair) -> None:
    server, client = ends
    reset(client)
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    with refused(ProxyProtocolUntrustedError, server):
        read_header(server, policy=TrustedProxies(["127.0.0.0/8"]))


def test_the_word_unix_trusts_a_peer_on_a_unix_socket() -> None:
    with connected("UNIX") as (server, client):
        client.sendall(HEADER)
        assert read_header(server, policy=TrustedProxies(["unix"])) == NAMED


# Sending


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if vector.written], ids=str)
def test_every_header_is_sent(ends: Pair, vector: Vector) -> None:
    server, client = ends

    send_header(client, vector.result, pp=vector.codec)

    assert rest_of(server, client) == vector.header


def test_a_header_is_sent_in_one_piece(ends: Pair) -> None:
    _, client = ends
    calls = []

    class Counting(socket.socket):
        def sendall(self, data: Any, flags: int = 0) -> None:
            calls.append(bytes(data))

    with Counting(fileno=client.dup().detach()) as counting:
        send_header(counting, NAMED)
    assert calls == [ProxyProtocolV2().pack(NAMED)]


def test_without_a_result_the_client_speaks_for_itself(pair: Pair) -> None:
    server, client = pair
    send_header(client)
    send_header(client, lambda sock: None, pp=ProxyProtocolV1())
    send_header(client, lambda sock: NAMED if sock is client else None)

    assert read_header(server, trusted="any") == ProxyProtocolV2().unpack(ProxyProtocolV2().pack(ProxyResultLocal()))
    own = read_header(server, trusted="any")
    assert own is not None
    if client.family == socket.AF_UNIX:
        assert own.peername is None
    else:
        assert (own.peername, own.sockname) == (client.getsockname(), client.getpeername())
    named = read_header(server, trusted="any")
    assert named is not None
    assert named.peername == CLIENT


def test_an_invalid_result_sends_nothing(ends: Pair) -> None:
    server, client = ends
    with pytest.raises(TypeError):
        send_header(client, "203.0.113.7")  # type: ignore[arg-type]
    with pytest.raises((ValueError, KeyError)):
        send_header(client, ProxyResultUnix("x" * 109, ""))
    assert rest_of(server, client) == b""


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def test_a_connection_begins_with_the_header() -> None:
    with listening() as listener:
        address = listener.getsockname()
        with create_connection(address, 7.5, ("127.0.0.2", 0), result=NAMED, pp=ProxyProtocolV1()) as client:
            assert client.gettimeout() == 7.5
            assert client.getsockname()[0] == "127.0.0.2"
            server, _ = listener.accept()
            with server:
                assert rest_of(server, client) == HEADER


def test_a_connection_has_the_default_time_out_or_none() -> None:
    with listening() as listener:
        socket.setdefaulttimeout(7.5)
        try:
            with create_connection(listener.getsockname()) as client:
                assert client.gettimeout() == 7.5
            with create_connection(listener.getsockname(), None) as client:
                assert client.gettimeout() is None
        finally:
            socket.setdefaulttimeout(None)


def test_a_connection_whose_header_fails_is_closed() -> None:
    made = []

    def fail(sock: socket.socket) -> ProxyResult:
        made.append(sock)
        raise LookupError

    with listening() as listener:
        with pytest.raises(LookupError):
            create_connection(listener.getsockname(), result=fail)
        assert made[0].fileno() == -1
        with pytest.raises(TypeError):
            create_connection(listener.getsockname(), result=42)  # type: ignore[arg-type]
        listener.accept()[0].close()
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):  # the second call made no connection
            listener.accept()


def test_http_client_can_use_create_connection() -> None:
    with listening() as listener:
        host, port = listener.getsockname()
        connection = HTTPConnection(host, port, timeout=PATIENCE)
        connection._create_connection = functools.partial(create_connection, result=NAMED)  # type: ignore[attr-defined]
        connection.request("GET", "/")
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE)
            result = read_header(server, trusted="any")
            assert result is not None
            assert result.peername == CLIENT
            assert server.recv(1000).startswith(b"GET / HTTP/1.1\r\n")
        connection.close()


def test_a_reader_that_trusts_everybody_warns_unless_that_is_said(ends: Pair) -> None:
    server, client = ends
    for keywords in ({}, {"timeout": PATIENCE}):
        client.sendall(HEADER)
        with pytest.warns(RuntimeWarning) as warned:
            read_header(server, **keywords)  # type: ignore[arg-type]
        ((text, place),) = [(str(warning.message), warning.filename) for warning in warned]
        assert text == (
            "Reads version 1 and 2 headers from everybody: anyone who can connect can claim any address; name your "
            'proxies with trusted=..., or say trusted="any"'
        )
        assert place == __file__
    client.sendall(HEADER)
    read_header(server, receiver=Receiver())
