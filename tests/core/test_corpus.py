"""Recorded headers of real proxies, and cases by hand: whole, at every split into two pieces, and byte by byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import (
    HeaderParser,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolMissingError,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnix,
    ProxyResultUnknown,
    unpack_datagram,
)
from tests.vectors import single_bytes, splits

CORPUS = Path(__file__).parent.parent / "corpus"
RECORDED: list[dict[str, Any]] = json.loads((CORPUS / "real_headers.json").read_text())
CASES: list[dict[str, Any]] = json.loads((CORPUS / "conformance.json").read_text())["cases"]

FAMILIES: dict[str, type[ProxyResult]] = {"INET": ProxyResultIPv4, "INET6": ProxyResultIPv6, "UNIX": ProxyResultUnix}
TYPES = {
    "UNSPEC": ProxyResultType.UNKNOWN,
    "INET": ProxyResultType.IPv4,
    "INET6": ProxyResultType.IPv6,
    "UNIX": ProxyResultType.UNIX,
}
PROTOCOLS = {"STREAM": socket.SOCK_STREAM, "DGRAM": socket.SOCK_DGRAM, "UNSPEC": None}
NO_LIMIT = 16 + 0xFFFF  # the cases by hand are for a receiver without a limit
LONG = 8192  # longer data has only a few splits


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def bytes_of(case: dict[str, Any]) -> bytes:
    parts = case.get("parts") or [[case["hex"], 1]]
    return b"".join(bytes.fromhex(text) * times for text, times in parts)


def pieces_of(data: bytes, consumed: int) -> Iterable[list[bytes]]:
    """Yield data whole, in two pieces, and in single bytes; long data has fewer splits."""
    yield [data]
    yield single_bytes(data)
    if len(data) < LONG:
        yield from map(list, splits(data))
    else:
        around = {*range(0, 120, 4), *range(11, 18), 106, 107, consumed - 1, consumed, len(data) // 2, len(data) - 1}
        yield from ([data[:at], data[at:]] for at in sorted(around) if 0 < at < len(data))


def expect_result(data: bytes, consumed: int) -> ProxyResult:
    """Feed data in all pieces. Return the result, which must be the same each time, and complete at the last byte."""
    results = []
    for pieces in pieces_of(data, consumed):
        parser, fed = HeaderParser(max_header=NO_LIMIT), 0
        left = iter(pieces)
        while parser.result is None:
            piece = next(left)
            parser.feed(piece)
            fed += len(piece)
            assert (parser.result is not None) is (fed >= consumed)
        assert parser.trailing + b"".join(left) == data[consumed:]
        results.append(parser.result)
    assert all(result == results[0] and bytes(result.tlv) == bytes(results[0].tlv) for result in results)
    return results[0]


def check_addresses(result: ProxyResult, case: dict[str, Any]) -> None:
    kind = FAMILIES.get(case["family"])
    if case["command"] == "LOCAL" or kind is None or case["transport"] == "UNSPEC":
        assert type(result) is (ProxyResultLocal if case["command"] == "LOCAL" else ProxyResultUnknown)
        assert (result.source, result.dest, result.protocol) == (None, None, None)
        return
    assert (type(result), result.protocol) == (kind, PROTOCOLS[case["transport"]])
    for address, name in ((result.source, "source"), (result.dest, "dest")):
        host, port = case[f"{name}_ip"], case[f"{name}_port"]
        assert address == (host if kind is ProxyResultUnix else (ip_address(host), port))


def tlvs_of(result: ProxyResult) -> list[list[Any]]:
    """Return types and values in the order of the wire, without the package's code."""
    wire, at, found = bytes(result.tlv), 0, []
    while at < len(wire):
        end = at + 3 + int.from_bytes(wire[at + 1 : at + 3], "big")
        found.append([wire[at], wire[at + 3 : end].hex()])
        at = end
    assert at == len(wire)
    return found


def test_the_corpus_is_complete() -> None:
    assert (len(RECORDED), len(CASES)) == (18, 90)
    assert len({case["name"] for case in RECORDED + CASES}) == 108
    assert {case["expect"] for case in CASES} == {"ok", "incomplete", "error"}


@named(RECORDED)
def test_a_recorded_header_is_read_as_its_sender_meant_it(case: dict[str, Any]) -> None:
    header, expected = bytes.fromhex(case["hex"]), case["expect"]
    result = expect_result(header, expected["size"])
    addresses = {
        f"{name}_{part}": value
        for name in ("source", "dest")
        for part, value in zip(("ip", "port"), expected.get(name, (None, None)), strict=True)
    }
    check_addresses(result, {**expected, **addresses, "transport": expected["protocol"]})
    assert tlvs_of(result) == expected["tlvs"]
    if expected["version"] == 2:
        # the wire has a family even if it does not count
        fixed = ProxyProtocolV2().unpack_header(header)
        assert (fixed.type, fixed.protocol) == (TYPES[expected["family"]], PROTOCOLS[expected["protocol"]])
        assert (fixed.command, fixed.data_len) == (expected["command"].lower(), expected["size"] - 16)
        assert unpack_datagram(header) == (result, header[expected["size"] :])


@named([case for case in CASES if case["expect"] == "ok"])
def test_a_right_header_is_read(case: dict[str, Any]) -> None:
    data = bytes_of(case)
    result = expect_result(data, case["consumed"])
    check_addresses(result, case)
    tlvs = tlvs_of(result)
    if "tlvs" in case:
        assert tlvs == case["tlvs"]
    else:
        assert len(tlvs) == case["tlv_count"]
        lengths = [[kind, len(value) // 2] for kind, value in tlvs]
        assert all(pair in lengths for pair in case.get("tlv_lengths", []))


@named([case for case in CASES if case["expect"] == "incomplete"])
def test_the_parser_waits_for_the_rest_of_a_header(case: dict[str, Any]) -> None:
    data = bytes_of(case)
    for pieces in pieces_of(data, len(data)):
        parser = HeaderParser(max_header=NO_LIMIT)
        assert [parser.feed(piece) for piece in pieces] == [None] * len(pieces)
        assert parser.needed > 0
        with pytest.raises(ProxyProtocolIncompleteError if data else ProxyProtocolMissingError):
            parser.eof()


def feed_all(pieces: list[bytes]) -> None:
    parser = HeaderParser(max_header=NO_LIMIT)
    for piece in pieces:
        parser.feed(piece)


@named([case for case in CASES if case["expect"] == "error" and "context" not in case])
def test_a_wrong_header_is_rejected_at_its_last_byte_at_the_latest(case: dict[str, Any]) -> None:
    data = bytes_of(case)
    kinds = set()
    for pieces in pieces_of(data, 107):
        with pytest.raises(ProxyProtocolError) as caught:
            feed_all(pieces)
        kinds.add(type(caught.value))
    assert len(kinds) == 1


@named([case for case in CASES if case.get("context") == "datagram"])
def test_a_datagram_without_a_whole_header_is_rejected(case: dict[str, Any]) -> None:
    with pytest.raises(ProxyProtocolError):
        unpack_datagram(bytes_of(case))


def test_a_line_without_an_end_is_rejected_at_byte_107_and_buffers_no_more() -> None:
    data = bytes_of(next(case for case in CASES if case["name"] == "v1-64k-no-crlf"))
    parser = HeaderParser()
    assert parser.feed(data[:105]) is None
    with pytest.raises(ProxyProtocolError):
        parser.feed(data[105:107])
