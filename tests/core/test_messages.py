"""The lines about refusals: one line each, whatever a peer sends, with the setting and the remedy."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from proxyprotocol.errors import ProxyProtocolError, ProxyProtocolInvalidError, ProxyProtocolTimeoutError
from proxyprotocol.messages import describe_refusal
from proxyprotocol.options import spell_variable
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import ProxyResultIPv4
from proxyprotocol.v2 import ProxyProtocolV2

RESULT = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))
PEER = ("10.0.0.1", 40000)
SEND = "if 10.0.0.1 is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on)"
BROKEN = "10.0.0.1 sends no header, or a broken one: see its bytes with tcpdump and proxyprotocol decode"


def refusal(data: bytes, **keywords: Any) -> ProxyProtocolError:
    connection = Receiver(**keywords).connection(PEER, None)
    with pytest.raises(ProxyProtocolError) as caught:
        assert connection.feed(data) or connection.eof()
    return caught.value


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("bad\nWARNING fake \x1b[31m", "bad\\nWARNING fake \\x1b[31m"),
        ("caf\xe9 \u202e \u2028 \udc80 \\", "caf\xe9 \\u202e \\u2028 \\udc80 \\"),
        ("x" * 9000, "x" * 800 + "..."),
        ("\n" * 800, "\\n" * 400),
    ],
)
def test_a_reason_is_printable_and_bounded(reason: str, shown: str) -> None:
    """A validate hook may quote a TLV, which wrote a line of its own."""
    line = describe_refusal(ProxyProtocolInvalidError(reason), PEER)
    assert line == f"Refused a connection from 10.0.0.1:40000: {shown}; see validate"


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (b"GET / HTTP/1.1\r\n", f"{SEND}; see PROXYPROTOCOL_POLICY"),
        (b"PROXY UNKNOWN " + b"x" * 100, BROKEN),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 x\r\n", BROKEN),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x00\x00\x00", BROKEN),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "see PROXYPROTOCOL_MAX_HEADER"),
        (b"PROXY TCP6 ::1 127.0.0.1 1 2\r\n", "see PROXYPROTOCOL_IPV4_IN_TCP6"),
        (
            ProxyProtocolV2().pack(RESULT)[:-1] + b"\xff",  # its CRC32C ends with another byte
            "10.0.0.1, or something on the way, damaged the header: see its bytes with tcpdump",
        ),
        (b"PROXY TCP4 ", "look into the log of 10.0.0.1: it ended the connection too early"),
    ],
)
def test_a_refusal_says_what_to_do(data: bytes, remedy: str) -> None:
    assert describe_refusal(refusal(data), PEER, spell=spell_variable).endswith(f"; {remedy}")


def test_a_silent_peer_sends_no_header_and_a_slow_one_is_slow() -> None:
    assert describe_refusal(ProxyProtocolTimeoutError(5, 0), PEER).endswith(f"; {SEND}; see policy")
    assert describe_refusal(ProxyProtocolTimeoutError(5, 1), PEER).endswith("only 1 bytes; see timeout")
    assert "if the peer is your proxy" in describe_refusal(ProxyProtocolTimeoutError(5, 0), "")
