"""Sender: the header that a client sends."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from proxyprotocol import (
    ProxyProtocol,
    ProxyProtocolNoop,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultLocal,
    ProxyResultUnix,
)
from proxyprotocol.sender import Sender
from proxyprotocol.typing import SockAddr

HERE, THERE = ("192.0.2.1", 1000), ("198.51.100.2", 2000)
NAMED = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))


def test_the_default_codec_is_version_2() -> None:
    assert Sender(NAMED).header(None, HERE, THERE) == ProxyProtocolV2().pack(NAMED)
    assert Sender(NAMED, pp=ProxyProtocolV1()).header(None, HERE, THERE) == ProxyProtocolV1().pack(NAMED)


def test_a_client_that_speaks_for_itself_sends_local() -> None:
    assert Sender().header(None, HERE, THERE) == ProxyProtocolV2().pack(ProxyResultLocal())


@pytest.mark.parametrize(
    ("local", "peer", "line"),
    [
        (HERE, THERE, b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::2", 2, 0, 0), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 2, 0, 2), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
        (("::ffff:192.0.2.1", 1, 0, 0), ("::1", 2, 0, 0), b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"),
        ("", "/run/app.sock", b"PROXY UNKNOWN\r\n"),
        (None, None, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_a_codec_without_local_sends_the_connections_own_addresses(
    local: SockAddr, peer: SockAddr, line: bytes
) -> None:
    assert Sender(pp=ProxyProtocolV1()).header(None, local, peer) == line


class Terse(ProxyProtocol):
    """A user's codec that cannot express LOCAL, and raises KeyError as `proxy-protocol` does."""

    is_valid = unpack = None  # type: ignore[assignment]

    def pack(self, result: ProxyResult) -> bytes:
        return {ProxyResultIPv4: b"four"}[type(result)]  # type: ignore[index]


Terse.__abstractmethods__ = frozenset()


def test_a_users_codec_may_be_unable_to_express_local() -> None:
    assert Sender(pp=Terse()).header(None, HERE, THERE) == b"four"


def test_the_noop_codec_writes_no_header() -> None:
    assert Sender(pp=ProxyProtocolNoop()).header(None, HERE, THERE) == b""


def test_the_result_function_gets_the_connection() -> None:
    given: list[Any] = []

    def say(connection: Any) -> ProxyResult | None:
        given.append(connection)
        return NAMED if connection == "known" else None

    sender = Sender(say)
    assert sender.header("known", HERE, THERE) == ProxyProtocolV2().pack(NAMED)
    assert sender.header("other", HERE, THERE) == ProxyProtocolV2().pack(ProxyResultLocal())
    assert given == ["known", "other"]


def test_a_given_result_that_the_codec_cannot_express_is_an_error() -> None:
    """Addresses replace LOCAL only if the caller did not ask for LOCAL."""
    with pytest.raises(ValueError, match="cannot say LOCAL"):
        Sender(ProxyResultLocal(), pp=ProxyProtocolV1()).header(None, HERE, THERE)
    with pytest.raises(KeyError):
        Sender(ProxyResultUnix("", "/run/app.sock"), pp=ProxyProtocolV1()).header(None, HERE, THERE)


@pytest.mark.parametrize("wrong", ["v2", ProxyProtocolV2, 2])
def test_pp_must_be_a_codec(wrong: Any) -> None:
    with pytest.raises(TypeError, match="pp must be a codec, such as ProxyProtocolV2"):
        Sender(pp=wrong)


@pytest.mark.parametrize("wrong", ["192.0.2.1", ("192.0.2.1", 1), b"PROXY"])
def test_result_must_be_a_result_or_a_function_that_returns_one(wrong: Any) -> None:
    with pytest.raises(TypeError, match="result must be a ProxyResult or a function that returns one, not"):
        Sender(wrong)
    with pytest.raises(TypeError, match="The result function must return a ProxyResult or None, not"):
        Sender(lambda connection: wrong).header(None, HERE, THERE)
