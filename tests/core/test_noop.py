"""The codec that reads and writes nothing."""

from __future__ import annotations

import pytest

from proxyprotocol import HeaderParser, ProxyProtocolNoop, ProxyResultLocal
from tests.vectors import VECTORS, Vector, length

NOOP = ProxyProtocolNoop()


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_header_belongs_to_the_application(vector: Vector) -> None:
    assert NOOP.unpack(vector.header) == ProxyResultLocal()
    assert length(NOOP.parse(vector.header)) == 0
    assert NOOP.begins(vector.header) is False
    assert NOOP.pack(vector.result) == b""


def test_a_connection_without_a_header_cannot_be_recognised() -> None:
    with pytest.raises(NotImplementedError):
        NOOP.is_valid(b"12345678")


def test_a_parser_needs_nothing_and_everything_is_trailing() -> None:
    parser = HeaderParser(NOOP)
    assert parser.needed == 0
    parser.eof()
    assert parser.feed(b"GET /") == ProxyResultLocal()
    assert parser.trailing == b"GET /"
