"""60,000 mutated headers: only our errors escape, and any pieces give the same answer."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from socket import SOCK_DGRAM
from typing import TypeAlias

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyprotocol import (
    HeaderParser,
    HeaderPolicy,
    ProxyProtocol,
    ProxyProtocolDetect,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultLocal,
    Receiver,
    is_ipv4,
    is_ipv6,
    is_unknown,
    unpack_datagram,
)
from proxyprotocol.tlv import TLV
from tests.vectors import SIGNATURE, UNKNOWN, V1, V2, V2_CRC, VECTORS, describe, single_bytes, tlv

HEADERS = 60_000
CHUNK = 1_000

NO_LIMIT = 16 + 0xFFFF
DETECT = ProxyProtocolDetect()
NOOP = ProxyProtocolNoop()
# the same versions, but tried one after the other
NAMED = ProxyProtocolDetect(ProxyProtocolV2(), ProxyProtocolV1(), ProxyProtocolV1())
RECEIVERS = {policy: Receiver(policy=policy, max_header=NO_LIMIT) for policy in HeaderPolicy if policy.name != "REJECT"}

CORPUS = Path(__file__).parent.parent / "corpus"
SEEDS = [
    *(vector.header for vector in VECTORS),
    *(bytes.fromhex(case["hex"]) for case in json.loads((CORPUS / "real_headers.json").read_text())),
    *(bytes.fromhex(case.get("hex", "")) for case in json.loads((CORPUS / "conformance.json").read_text())["cases"]),
]
ODD_NUMBERS = (0x00, 0x01, 0x03, 0x0A, 0x0D, 0x11, 0x20, 0x21, 0x30, 0x31, 0x7F, 0x80, 0xFF)
ODD_FIELDS = [
    *(b"", b" ", b"TCP4", b"TCP6", b"UNKNOWN", b"0", b"00", b"65535", b"65536", b"+1", b"1_0", b"\t", b"\r", b"\n"),
    *(b"1.2.3.4", b"01.2.3.4", b"::", b"::1", b"fe80::1%lo", b"1:2:3:4:5:6:7:8", b"::ffff:1.2.3.4", b"\xff", b"\0"),
]

# a result, the class of an error, or None if more bytes are needed
Outcome: TypeAlias = "ProxyResult | type[ProxyProtocolError] | None"
Mutation: TypeAlias = Callable[[Random, bytes], bytes]


def flip_bits(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def set_byte(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes((random.choice(ODD_NUMBERS),)) + data[at + 1 :]


def set_fixed_part(random: Random, data: bytes) -> bytes:
    at = random.randrange(12, 16)
    return data[:at] + bytes((random.choice(ODD_NUMBERS),)) + data[at + 1 :]


def cut_end(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def cut_out(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.randrange(1, 9) :]


def repeat(random: Random, data: bytes) -> bytes:
    at, size = random.randrange(len(data)), random.randrange(1, 30)
    return data[: at + size] + data[at:]


def splice(random: Random, data: bytes) -> bytes:
    other = random.choice(SEEDS)
    return data[: random.randrange(len(data))] + other[random.randrange(len(other) + 1) :]


def append(random: Random, data: bytes) -> bytes:
    return data + random.choice(
        (b"GET /", b"\r\n", b"\0", random.choice(SEEDS), random.randbytes(random.randrange(40)))
    )


def change_field(random: Random, data: bytes) -> bytes:
    fields = data.split(b" ")
    fields[random.randrange(len(fields))] = random.choice(ODD_FIELDS)
    if random.random() < 0.2:
        random.shuffle(fields)
    return b" ".join(fields)


def change_length(random: Random, data: bytes) -> bytes:
    length = int.from_bytes(data[14:16], "big") + random.choice((-300, -12, -3, -1, 1, 3, 7, 12, 300))
    return data[:14] + (length & 0xFFFF).to_bytes(2, "big") + data[16:]


def parts_of(data: bytes) -> list[bytes]:
    """Split a version 2 header into the bytes before its TLVs, by its family, and each TLV."""
    at = 16 + {1: 12, 2: 36, 3: 216}.get(data[13] >> 4 if len(data) > 13 else 0, 0)
    parts = [data[:at]]
    while at < len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        parts.append(data[at:end])
        at = end
    return parts


def reorder_tlvs(random: Random, data: bytes) -> bytes:
    head, *tlvs = parts_of(data)
    random.shuffle(tlvs)
    return head + b"".join(tlvs)


def add_tlv(random: Random, data: bytes) -> bytes:
    kind = random.choice((*range(6), 0x20, 0x21, 0x28, 0x30, 0xE0, 0xEA, 0xEE, random.randrange(256)))
    value = random.choice((b"", bytes(4), bytes(5), random.randbytes(random.randrange(20)), random.choice(SEEDS)[16:]))
    parts = parts_of(data)
    parts.insert(random.randrange(1, len(parts) + 1), tlv(kind, value))
    return b"".join(parts)


_EITHER: tuple[Mutation, ...] = (flip_bits, set_byte, cut_end, cut_out, repeat, splice, append)
MUTATIONS: dict[bool, tuple[Mutation, ...]] = {
    True: (*_EITHER, set_fixed_part, change_length, reorder_tlvs, reorder_tlvs, add_tlv, add_tlv),
    False: (*_EITHER, change_field, change_field),
}


def repair(random: Random, data: bytes) -> bytes:
    """Correct the length and the checksum of a version 2 header: otherwise nearly every error would be one of these."""
    if len(data) < 16 or len(data) > NO_LIMIT:
        return data
    data = data[:14] + (len(data) - 16).to_bytes(2, "big") + data[16:]
    at = data.find(b"\x03\x00\x04", 16) + 3
    if at < 16 or at + 4 > len(data):
        return data
    zeroed = data[:at] + bytes(4) + data[at + 4 :]
    return zeroed[:at] + crc32c.crc32c(zeroed).to_bytes(4, "big") + zeroed[at + 4 :]


def mutated(random: Random) -> bytes:
    data = random.choice(SEEDS)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if data:
            data = random.choice(MUTATIONS[data.startswith(b"\r")])(random, data)
    if data.startswith(b"\r") and random.random() < 0.8:
        data = repair(random, data)
    return append(random, data) if random.random() < 0.2 else data


def random_pieces(random: Random, data: bytes) -> list[bytes]:
    if random.random() < 0.03:
        return single_bytes(data)
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(1, 7)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def parse(codec: ProxyProtocol, pieces: list[bytes]) -> tuple[Outcome, bytes]:
    """Feed pieces. Return the outcome, and the bytes that followed the header."""
    parser = HeaderParser(codec, max_header=NO_LIMIT)
    for number, piece in enumerate(pieces):
        try:
            if parser.feed(piece) is not None:
                return parser.result, parser.trailing + b"".join(pieces[number + 1 :])
        except ProxyProtocolError as error:
            return type(error), b""
    assert parser.needed > 0
    return None, b""


def unpack(call: Callable[[bytes], ProxyResult], data: bytes) -> Outcome:
    try:
        return call(data)
    except ProxyProtocolIncompleteError:
        return None
    except ProxyProtocolError as error:
        return type(error)


def check_exact_reads(codec: ProxyProtocol, data: bytes, size: int) -> None:
    """Read only needed bytes, count the reads, and check that none went past the header."""
    parser, at, reads = HeaderParser(codec, max_header=NO_LIMIT), 0, 0
    while parser.result is None:
        piece = data[at : at + parser.needed]
        parser.feed(piece)
        at, reads = at + len(piece), reads + 1
    assert at == size
    assert reads <= (3 if data.startswith(b"\r") else 15 if data.startswith(b"PROXY TCP") else 93)


def check_datagram(data: bytes, expected: Outcome, trailing: bytes) -> None:
    outcome = unpack(lambda data: unpack_datagram(data)[0], data)
    # no datagram continues another
    assert outcome == (ProxyProtocolSyntaxError if expected is None else expected)
    if isinstance(outcome, ProxyResult):
        assert unpack_datagram(data)[1] == trailing


def check_policy(policy: HeaderPolicy, pieces: list[bytes], expected: Outcome, trailing: bytes) -> None:
    connection = RECEIVERS[policy].connection(None, None)
    left = list(pieces)
    error: ProxyProtocolError | None = None
    while left and not connection.begun and error is None:
        try:
            connection.feed(left.pop(0))
        except ProxyProtocolError as caught:
            error = caught
    rest = connection.trailing + b"".join(left)
    plain = policy is HeaderPolicy.SKIP or (
        policy is HeaderPolicy.OPTIONAL
        and DETECT.begins(b"".join(pieces)) is False
        and not isinstance(expected, ProxyResult)
    )
    if plain:
        assert (connection.begun, connection.result, rest, error) == (True, None, b"".join(pieces), None)
    elif isinstance(expected, ProxyResult):
        assert (connection.begun, connection.result, rest, error) == (True, expected, trailing, None)
        assert policy is not HeaderPolicy.IGNORE or connection.effective is None
    else:
        assert (connection.begun, connection.result) == (False, None)
        assert error is None if expected is None else type(error) is expected


@functools.cache
def properties(kind: type) -> list[str]:
    return [name for parent in kind.__mro__ for name, value in vars(parent).items() if isinstance(value, property)]


def use(result: ProxyResult) -> None:
    """Read every property of a result."""
    for thing in (result, result.tlv, result.tlv.ssl, result.tlv.ext):
        for name in properties(type(thing)):
            getattr(thing, name)
        assert hash(pickle.loads(pickle.dumps(thing))) == hash(thing)
        assert repr(thing).isascii() or repr(thing).isprintable()
        if isinstance(thing, TLV):
            assert {kind: thing.getall(kind)[-1] for kind in thing} == dict(thing)


def without_checksum(result: ProxyResult) -> dict[int, list[bytes]]:
    return {kind: result.tlv.getall(kind) for kind in result.tlv if kind != 0x03}


def check_packing(result: ProxyResult) -> None:
    for codec in (V2, V2_CRC):
        again = codec.unpack(codec.pack(result))
        assert describe(again)[:-1] == describe(result)[:-1]
        assert without_checksum(again) == without_checksum(result)
        assert codec.pack(again) == codec.pack(result)
    if is_ipv4(result) or is_ipv6(result) or is_unknown(result):
        line, said = V1.unpack(V1.pack(result)), UNKNOWN if result.protocol is SOCK_DGRAM else result
        assert (type(line), line.peername, line.sockname) == (type(said), said.peername, said.sockname)


def check(random: Random, data: bytes) -> bool:
    """Parse data in every way. Return whether it was a header."""
    pieces = random_pieces(random, data)
    outcome, trailing = parse(DETECT, [data])
    assert parse(DETECT, pieces) == (outcome, trailing)
    binary = data.startswith(b"\r")
    for codec in (V2 if binary else V1, NAMED if len(data) >= 8 else DETECT):
        assert parse(codec, pieces) == (outcome, trailing)
        assert unpack(codec.unpack, data) == outcome
    assert unpack((V1 if binary else V2).unpack, data) == (ProxyProtocolSyntaxError if data else None)
    check_datagram(data, outcome if binary or not data else ProxyProtocolSyntaxError, trailing)
    for policy in (random.choice((HeaderPolicy.REQUIRE, HeaderPolicy.IGNORE)), HeaderPolicy.OPTIONAL):
        check_policy(policy, pieces, outcome, trailing)
    if not isinstance(outcome, ProxyResult):
        return False
    check_policy(HeaderPolicy.SKIP, pieces, outcome, trailing)
    assert HeaderParser(NOOP).feed(data) == ProxyResultLocal()
    check_exact_reads(DETECT, data, len(data) - len(trailing))
    use(outcome)
    check_packing(outcome)
    return True


@pytest.mark.parametrize("chunk", range(HEADERS // CHUNK))
def test_only_our_errors_escape_for_a_mutated_header(chunk: int) -> None:
    random = Random(chunk)
    accepted = sum(check(random, mutated(random)) for _ in range(CHUNK))
    # otherwise this would test only results, or only errors
    assert CHUNK / 5 < accepted < CHUNK / 2


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary()
)
def test_any_bytes_at_all_are_a_header_or_one_of_our_errors(begin: bytes, data: bytes) -> None:
    check(Random(0), begin + data)


def test_every_mutation_changes_a_header() -> None:
    for signature, mutations in MUTATIONS.items():
        for mutation in mutations:
            seeds = [seed for seed in SEEDS if seed and seed.startswith(b"\r") is signature]
            random = Random(1)
            assert any(mutation(random, seed) != seed for seed in seeds)
