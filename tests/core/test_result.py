"""Results are immutable, comparable, hashable and picklable, with addresses in the forms of the socket module."""

from __future__ import annotations

import copy
import itertools
import pickle
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyprotocol import ProxyProtocolV2
from proxyprotocol.result import (
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultType,
    ProxyResultUnix,
    ProxyResultUnknown,
    is_ipv4,
    is_ipv6,
    is_local,
    is_unix,
    is_unknown,
)
from proxyprotocol.tlv import ProxyProtocolTLV
from tests.vectors import IPV4, IPV6, MAPPED, V1, V2, VECTORS, Vector, describe, tlv

H2 = ProxyProtocolTLV(alpn=b"h2")
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
FOUR, SIX = (IPV4[0], IPV4[1]), (IPV6[0], IPV6[1])

# no two of these are equal
DIFFERENT: list[ProxyResult] = [
    ProxyResultLocal(),
    ProxyResultLocal(tlv=H2),
    ProxyResultUnknown(),
    ProxyResultUnknown(tlv=H2),
    ProxyResultUnknown(ValueError("gone")),
    ProxyResultIPv4(*FOUR),
    ProxyResultIPv4(*FOUR, protocol=STREAM),
    ProxyResultIPv4(*FOUR, protocol=DGRAM),
    ProxyResultIPv4(*FOUR, tlv=H2),
    ProxyResultIPv4(FOUR[1], FOUR[0]),
    ProxyResultIPv4((FOUR[0][0], 1), FOUR[1]),
    ProxyResultIPv4(FOUR[0], (FOUR[1][0], 1)),
    ProxyResultIPv4((IPv4Address(0), FOUR[0][1]), FOUR[1]),
    ProxyResultIPv4(FOUR[0], (IPv4Address(0), FOUR[1][1])),
    ProxyResultIPv6(*SIX),
    ProxyResultIPv6(*SIX, protocol=STREAM),
    ProxyResultIPv6(*SIX, tlv=H2),
    ProxyResultIPv6(SIX[1], SIX[0]),
    ProxyResultIPv6(*MAPPED),
    ProxyResultUnix("", ""),
    ProxyResultUnix("", "", protocol=DGRAM),
    ProxyResultUnix("/a", ""),
    ProxyResultUnix("", "/a"),
    ProxyResultUnix("\0a", "", tlv=H2),
]


def test_different_results_differ() -> None:
    for one, other in itertools.combinations(DIFFERENT, 2):
        assert one != other
        assert other != one


def test_a_result_does_not_equal_its_text() -> None:
    assert ProxyResultLocal() != "ProxyResultLocal()"
    assert ProxyResultUnix("/a", "") != "/a"


@pytest.mark.parametrize("result", DIFFERENT, ids=repr)
def test_a_copy_is_equal_and_has_the_same_hash(result: ProxyResult) -> None:
    if not is_unknown(result) or result.exception is None:
        evaluated = eval(repr(result), globals())
        copies: list[ProxyResult] = [evaluated, pickle.loads(pickle.dumps(result)), copy.deepcopy(result)]
    else:
        copies = [copy.copy(result)]
    for other in copies:
        assert other is not result
        assert (other, hash(other), describe(other)) == (result, hash(result), describe(result))


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_parsed_result_equals_a_constructed_one(vector: Vector) -> None:
    read = vector.codec.unpack(vector.header)
    assert (read, hash(read), repr(read)) == (vector.result, hash(vector.result), repr(vector.result))
    assert pickle.loads(pickle.dumps(vector.codec.unpack(vector.header))) == vector.result
    assert {read: 1}[vector.result] == 1


def test_equality_of_tlvs_is_that_of_their_own_class() -> None:
    one, other = (ProxyResultLocal(tlv=ProxyProtocolTLV(wire)) for wire in (tlv(1) + tlv(2), tlv(2) + tlv(1)))
    assert (one, hash(one)) == (other, hash(other))
    assert V2.pack(one) != V2.pack(other)


@pytest.mark.parametrize("result", DIFFERENT, ids=repr)
@pytest.mark.parametrize("name", ["type", "source", "dest", "protocol", "tlv", "peername", "proxied", "whatever"])
def test_a_result_does_not_change(result: ProxyResult, name: str) -> None:
    before = describe(result)
    with pytest.raises(AttributeError):
        setattr(result, name, None)
    assert describe(result) == before


def test_reading_the_tlvs_does_not_change_the_hash() -> None:
    first, second = (V2.unpack(V2.pack(ProxyResultIPv4(*FOUR, tlv=H2))) for _ in range(2))
    assert hash(first) == hash(second)
    assert first.tlv is first.tlv
    assert hash(first) == hash(second)


@pytest.mark.parametrize(
    ("result", "kind", "family", "proxied"),
    [
        (ProxyResultLocal(), ProxyResultType.LOCAL, socket.AF_UNSPEC, False),
        (ProxyResultUnknown(), ProxyResultType.UNKNOWN, socket.AF_UNSPEC, True),
        (ProxyResultIPv4(*FOUR), ProxyResultType.IPv4, socket.AF_INET, True),
        (ProxyResultIPv6(*SIX), ProxyResultType.IPv6, socket.AF_INET6, True),
        (ProxyResultUnix("", ""), ProxyResultType.UNIX, socket.AF_UNIX, True),
    ],
)
def test_each_result_has_one_kind(result: ProxyResult, kind: ProxyResultType, family: int, proxied: bool) -> None:
    assert (result.type, result.family, result.type.family, result.proxied) == (kind, family, family, proxied)
    told = [is_local(result), is_unknown(result), is_ipv4(result), is_ipv6(result), is_unix(result)]
    assert told == [other is kind for other in ProxyResultType]


def test_a_result_without_a_client_has_no_addresses() -> None:
    results: list[ProxyResult] = [ProxyResultLocal(tlv=H2), ProxyResultUnknown(tlv=H2)]
    for result in results:
        assert (result.source, result.dest, result.peername, result.sockname, result.protocol) == (None,) * 5
        assert result.tlv is H2


def test_an_unknown_result_keeps_its_exception() -> None:
    error = OSError("gone")
    assert ProxyResultUnknown(error).exception is error
    assert ProxyResultUnknown().exception is None
    assert repr(ProxyResultUnknown(error)) == "ProxyResultUnknown(OSError('gone'))"


def test_repr_names_all_that_the_header_says() -> None:
    assert repr(ProxyResultLocal()) == "ProxyResultLocal()"
    assert repr(ProxyResultUnix("/a", "\0b", protocol=DGRAM, tlv=H2)) == (
        "ProxyResultUnix('/a', '\\x00b', protocol=socket.SOCK_DGRAM, tlv=ProxyProtocolTLV(b'\\x01\\x00\\x02h2'))"
    )


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ProxyResultLocal(tlv=H2), "LOCAL"),
        (ProxyResultUnknown(ValueError("gone")), "UNKNOWN"),
        (ProxyResultIPv4(*FOUR, tlv=H2), "192.0.2.1:1000 -> 198.51.100.2:2000"),
        (ProxyResultIPv6(*SIX), "[2001:db8::1]:1000 -> [2001:db8:ffff::2]:2000"),
        (ProxyResultUnix("/run/a\n", ""), "UNIX socket '/run/a\\n' -> an unnamed UNIX socket"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_str_is_one_line_for_a_log(result: ProxyResult, text: str) -> None:
    assert str(result) == text


@pytest.mark.parametrize("result", DIFFERENT, ids=repr)
def test_replace_changes_only_what_it_names(result: ProxyResult) -> None:
    same = result.replace()
    assert same is not result
    assert (type(same), same, hash(same)) == (type(result), result, hash(result))
    before, other = describe(result), ProxyProtocolTLV(netns="n")
    changed = result.replace(tlv=other)
    assert changed.tlv is other
    assert changed.replace(tlv=result.tlv) == result
    assert describe(result) == before


def test_replace_takes_the_arguments_of_the_class() -> None:
    four = ProxyResultIPv4(*FOUR, protocol=STREAM, tlv=H2)
    assert four.replace(dest=FOUR[0], protocol=DGRAM) == ProxyResultIPv4(FOUR[0], FOUR[0], protocol=DGRAM, tlv=H2)
    assert ProxyResultUnix("/a", "/b").replace(source="/c") == ProxyResultUnix("/c", "/b")
    assert V2.unpack(V2.pack(four)).replace(tlv=ProxyProtocolTLV()) == ProxyResultIPv4(*FOUR, protocol=STREAM)
    with pytest.raises(TypeError, match="source"):
        ProxyResultLocal().replace(source=FOUR[0])
    with pytest.raises(ValueError, match="A port is a number"):
        four.replace(source=(FOUR[0][0], -1))


def test_names_have_the_form_of_the_socket_module() -> None:
    four = ProxyResultIPv4(*FOUR)
    assert (four.peername, four.sockname) == (("192.0.2.1", 1000), ("198.51.100.2", 2000))
    six = ProxyResultIPv6(*SIX)
    assert (six.peername, six.sockname) == (("2001:db8::1", 1000, 0, 0), ("2001:db8:ffff::2", 2000, 0, 0))
    unix = ProxyResultUnix("/a", "\0b")
    assert (unix.peername, unix.sockname) == ("/a", "\0b")


@pytest.mark.parametrize(
    "text", ["::ffff:1.2.3.4", "::", "::1", "1:0:0:2::", "::1.2.3.4", "::2", "2001:db8:0:1:1:1:1:1"]
)
def test_the_text_of_an_address_is_inet_ntops(text: str) -> None:
    result = ProxyResultIPv6((IPv6Address(text), 1), (IPv6Address(text), 2))
    assert result.peername[0] == socket.inet_ntop(socket.AF_INET6, IPv6Address(text).packed)
    assert result.sockname[0] == result.peername[0]
    assert result.source[0] == IPv6Address(text)


def test_a_mapped_address_is_written_with_its_ipv4_on_every_python() -> None:
    assert ProxyResultIPv6(*MAPPED).peername[0] == "::ffff:192.0.2.1"


def test_a_scope_id_is_dropped() -> None:
    assert ProxyResultIPv6((IPv6Address("fe80::1%eth0"), 1), SIX[1]).peername == ("fe80::1", 1, 0, 0)


@pytest.mark.parametrize("port", [-1, 65536, "80", None, 1.5])
def test_a_port_out_of_range_is_a_value_error(port: Any) -> None:
    for source, dest in (((FOUR[0][0], port), FOUR[1]), (FOUR[0], (FOUR[1][0], port))):
        with pytest.raises(ValueError, match="A port is a number from 0 to 65535"):
            ProxyResultIPv4(source, dest)
    with pytest.raises(ValueError, match="A port is a number from 0 to 65535"):
        ProxyResultIPv6((SIX[0][0], port), SIX[1])


def test_an_address_of_the_other_family_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ProxyResultIPv4(SIX[0], FOUR[1])  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        ProxyResultIPv6(SIX[0], FOUR[1])  # type: ignore[arg-type]


_tlv = st.one_of(
    st.just(ProxyProtocolTLV()), st.binary(max_size=9).map(lambda value: ProxyProtocolTLV(init={0xE0: value}))
)
_protocol = st.sampled_from([STREAM, DGRAM])
_four = st.tuples(st.ip_addresses(v=4), st.integers(0, 65535))
_six = st.tuples(st.ip_addresses(v=6), st.integers(0, 65535))
# a path that fits in a header: 108 bytes at most, NULs only in an abstract name
_path = st.one_of(
    st.binary(max_size=108).map(lambda path: path.replace(b"\0", b"/")),
    st.binary(min_size=1, max_size=106).map(lambda name: b"\0" + name + b"x"),
).map(lambda path: path.decode("utf-8", "surrogateescape"))
_results: st.SearchStrategy[ProxyResult] = st.one_of(
    st.builds(ProxyResultIPv4, _four, _four, protocol=_protocol, tlv=_tlv),
    st.builds(ProxyResultIPv6, _six, _six, protocol=_protocol, tlv=_tlv),
    st.builds(ProxyResultUnix, _path, _path, protocol=_protocol, tlv=_tlv),
    st.builds(ProxyResultLocal, tlv=_tlv),
    st.builds(ProxyResultUnknown, tlv=_tlv),
)


@given(_results)
def test_version_2_round_trips(result: ProxyResult) -> None:
    assert describe(V2.unpack(V2.pack(result))) == describe(result)


@given(st.one_of(st.builds(ProxyResultIPv4, _four, _four), st.builds(ProxyResultIPv6, _six, _six)))
def test_version_1_round_trips(result: ProxyResultIPv4 | ProxyResultIPv6) -> None:
    line = V1.pack(result)
    assert len(line) <= (56 if is_ipv4(result) else 104)
    read = V1.unpack(line)
    assert (type(read), read.source, read.dest, read.protocol) == (type(result), result.source, result.dest, STREAM)


@given(_results, _results)
def test_results_are_equal_exactly_if_they_say_the_same(one: ProxyResult, other: ProxyResult) -> None:
    assert (one == other) is (describe(one) == describe(other))


@pytest.mark.parametrize("path", ["/run/a\0b", "/run/a\0", "\0abstract\0"])
def test_a_unix_path_that_a_header_would_cut_is_rejected(path: str) -> None:
    with pytest.raises(ValueError, match=r"A header would cut the UNIX path .*: only an abstract name holds NULs"):
        ProxyProtocolV2().pack(ProxyResultUnix(path, ""))


def test_a_nul_inside_an_abstract_name_survives() -> None:
    result = ProxyResultUnix("\0a\0b", "", protocol=socket.SOCK_STREAM)
    assert ProxyProtocolV2(checksum=False).unpack(ProxyProtocolV2(checksum=False).pack(result)) == result
