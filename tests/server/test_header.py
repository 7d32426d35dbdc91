"""The header that the relay sends: with its own facts, and with the client of a header that it received."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

import pytest

from proxyprotocol import (
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from proxyprotocol.tlv import ProxyProtocolTLV
from tests.server.relays import Relaying, lines, receive

SOURCE, DEST = (IPv4Address("192.0.2.1"), 1000), (IPv4Address("198.51.100.2"), 2000)
# not in order, with a duplicate, padding, a vendor's TLV and an experimental one
VECTORS = (
    b"\xea\x00\x05\x01vpce"
    + b"\x02\x00\x01a"
    + b"\x02\x00\x01b"
    + b"\x04\x00\x03\0\0\0"
    + b"\xf1\x00\x00"
    + b"\x01\x00\x02h2"
)


def relayed(relaying: Relaying, header: bytes, source: str = "accept=detect", options: str = "") -> ProxyResult:
    """Send a header and data to the relay, and return the header that the server receives before the data."""
    backend = relaying.backend()
    running = relaying.relay(backend.address + options, f"127.0.0.1:0?{source}")
    relaying.keep(running.connect_and_send(header + b"hello"))
    accepted = backend.accept()
    assert accepted.first == b"hello"
    assert accepted.result is not None
    return accepted.result


def result(wire: bytes = b"") -> ProxyResultIPv4:
    return ProxyResultIPv4(SOURCE, DEST, protocol=socket.SOCK_STREAM, tlv=ProxyProtocolTLV(wire))


def test_the_outgoing_header_names_the_client_of_the_incoming_one(relaying: Relaying) -> None:
    assert relayed(relaying, ProxyProtocolV1().pack(result())) == result()


def test_a_line_with_mixed_families_is_passed_on_with_a_mapped_address(relaying: Relaying) -> None:
    line = b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 17013\r\n"
    passed = relayed(relaying, line, "accept=v1&ipv4_in_tcp6=yes", "?pp=v1")
    assert (passed.peername, passed.sockname) == (("2001:db8::1", 1234, 0, 0), ("::ffff:127.0.0.1", 17013, 0, 0))


def test_tlvs_are_passed_on_byte_for_byte(relaying: Relaying) -> None:
    header = ProxyProtocolV2(checksum=False).pack(result(VECTORS))
    passed = relayed(relaying, header)

    assert bytes(passed.tlv) == VECTORS
    assert passed.peername == ("192.0.2.1", 1000)


@pytest.mark.parametrize("piece", [1, 20, 1000])
@pytest.mark.parametrize("checksum", [True, False])
def test_a_header_without_changes_is_passed_on_byte_for_byte(relaying: Relaying, piece: int, checksum: bool) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect")
    client = relaying.keep(running.connect())
    sent = ProxyProtocolV2(checksum=checksum).pack(result(VECTORS)) + b"hello"
    for at in range(0, len(sent), piece):
        client.sendall(sent[at : at + piece])
    assert receive(backend.accept(header=False).sock, len(sent)) == sent


def test_the_bytes_after_the_nul_of_a_path_are_not_passed_on(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect")
    client = relaying.keep(running.connect())
    header = ProxyProtocolV2(checksum=False).pack(ProxyResultUnix("/a", "/b", protocol=socket.SOCK_STREAM))
    client.sendall(header.replace(b"/a" + bytes(7), b"/a\0secret"))
    assert receive(backend.accept(header=False).sock, len(header)) == header


def test_a_checksum_is_computed_again_if_there_was_one(relaying: Relaying) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), options="?tlv=unique-id")

    assert passed.tlv.crc32c is not None
    assert passed.tlv.crc32c != ProxyProtocolV2().unpack(ProxyProtocolV2().pack(result(VECTORS))).tlv.crc32c
    assert len(passed.tlv.unique_id) == 16
    assert passed.tlv.getall(2) == [b"a", b"b"]


@pytest.mark.parametrize("types", ["0xEA+0x01", "234+alpn", "AWS%2BALPN"])
def test_tlv_pass_passes_on_the_tlvs_of_these_types_only(relaying: Relaying, types: str) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), options=f"?tlv=pass:{types}")
    assert bytes(passed.tlv) == b"\xea\x00\x05\x01vpce" + b"\x01\x00\x02h2"


def test_tlv_pass_keeps_duplicates_and_a_crc32c_and_takes_an_addition(relaying: Relaying) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), options="?tlv=pass:2+crc32c,unique-id")
    assert set(passed.tlv) == {2, 3, 5}
    assert passed.tlv.getall(2) == [b"a", b"b"]


def test_tlv_pass_alone_adds_what_the_relay_adds_to_a_connection_without_a_header(relaying: Relaying) -> None:
    pair = relaying.connected(options="?tlv=pass:0xEA")
    assert pair.result is not None
    assert len(pair.result.tlv.unique_id) == 16


@pytest.mark.parametrize(("came", "added"), [(b"", b"zone a"), (b"\xe1\x00\x01x", b"x")], ids=["missing", "there"])
def test_a_fixed_tlv_is_added_if_the_header_that_came_in_lacks_it(
    relaying: Relaying, came: bytes, added: bytes
) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(came)), options="?tlv=0xE1:zone a,netns:0x6162")
    assert dict(passed.tlv) == {0xE1: added, 0x30: b"ab", 3: passed.tlv[3]}


def test_a_fixed_tlv_counts_where_the_others_are_dropped(relaying: Relaying) -> None:
    header = ProxyProtocolV2().pack(result(b"\xe1\x00\x01x" + VECTORS))
    assert dict(relayed(relaying, header, options="?tlv=drop,0xE1:mine").tlv) == {0xE1: b"mine"}


@pytest.mark.parametrize(("options", "types"), [("0xE1:Me", {0xE1, 3}), ("0xE1:Me,unique-id", {0xE1, 5, 3})])
def test_a_fixed_tlv_of_a_connection_without_a_header(relaying: Relaying, options: str, types: set[int]) -> None:
    pair = relaying.connected(options=f"?tlv={options}")
    assert pair.result is not None
    assert set(pair.result.tlv) == types
    assert pair.result.tlv[0xE1] == b"Me"


def test_tlv_drop_removes_the_tlvs(relaying: Relaying) -> None:
    assert not relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), options="?tlv=drop").tlv


def test_tlv_drop_and_an_addition_replace_the_tlvs(relaying: Relaying) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), options="?tlv=drop,unique-id")
    assert set(passed.tlv) == {5}


def test_a_received_unique_id_is_kept(relaying: Relaying) -> None:
    header = ProxyProtocolV2(checksum=False).pack(result(b"\x05\x00\x02id"))
    assert relayed(relaying, header, options="?tlv=unique-id").tlv.unique_id == b"id"


def test_local_stays_local_in_version_2(relaying: Relaying) -> None:
    tlv = ProxyProtocolTLV(b"\xe1\x00\x01x")
    passed = relayed(relaying, ProxyProtocolV2(checksum=False).pack(ProxyResultLocal(tlv=tlv)))
    assert passed == ProxyResultLocal(tlv=tlv)


def test_local_names_the_relay_s_own_connection_in_version_1(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address + "?pp=v1", "127.0.0.1:0?accept=v2")
    relaying.keep(running.connect_and_send(ProxyProtocolV2().pack(ProxyResultLocal())))
    accepted = backend.accept()
    assert accepted.result is not None
    assert accepted.result.peername == accepted.sock.getpeername()


@pytest.mark.parametrize("came", [ProxyResultUnknown(), ProxyResultUnix("/a", "/b")])
def test_a_client_that_version_1_cannot_name_is_unknown_in_it(relaying: Relaying, came: ProxyResult) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(came), options="?pp=v1")
    assert passed == ProxyResultUnknown()


@pytest.mark.parametrize("came", [ProxyResultUnknown(), ProxyResultUnix("/a", "/b", protocol=socket.SOCK_STREAM)])
def test_version_2_passes_every_kind_on(relaying: Relaying, came: ProxyResult) -> None:
    passed = relayed(relaying, ProxyProtocolV2(checksum=False).pack(came), options="?tlv=unique-id")
    assert passed.type is came.type
    assert passed.source == came.source
    assert len(passed.tlv.unique_id) == 16


def test_untrusted_direct_serves_an_untrusted_peer_under_its_own_address(relaying: Relaying) -> None:
    header = ProxyProtocolV1().pack(result())
    backend = relaying.backend()
    source = "127.0.0.1:0?accept=detect&trusted=192.0.2.0/24&untrusted=direct"
    client = relaying.keep(relaying.relay(backend.address, source).connect_and_send(header))
    accepted = backend.accept()

    assert accepted.result is not None
    assert accepted.result.peername == client.getsockname()
    assert accepted.first == header


def test_an_ignored_header_names_no_client(relaying: Relaying) -> None:
    passed = relayed(relaying, ProxyProtocolV2().pack(result(VECTORS)), "accept=detect&policy=ignore")
    assert passed.peername is not None
    assert passed.peername[0] == "127.0.0.1"
    assert 0xEA not in passed.tlv


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (b"GET / HTTP/1.0\r\n", "", "There is no PROXY protocol header"),
        (b"PROXY TCP4 ", "&timeout=0.3", "No complete PROXY protocol header came within 0.3 seconds"),
        (b"", "&trusted=192.0.2.1", "The peer is not one of the trusted proxies"),
    ],
)
def test_a_connection_that_is_refused_is_one_line_and_never_reaches_the_destination(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, data: bytes, options: str, reason: str
) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, f"127.0.0.1:0?accept=detect{options}")
    client = relaying.keep(running.connect_and_send(data))
    assert closed(client)

    (line,) = lines(caplog)
    assert line.startswith("Refused a connection from 127.0.0.1:")
    assert reason in line
    backend.sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        backend.sock.accept()


def test_a_health_check_that_sends_nothing_is_not_worth_a_line(
    relaying: Relaying, caplog: pytest.LogCaptureFixture
) -> None:
    running = relaying.relay(relaying.backend().address, "127.0.0.1:0?accept=detect")
    running.connect().close()
    running.wait_until_empty()
    assert lines(caplog) == []


def test_an_optional_header_may_be_missing_and_the_server_speaks_first_then(relaying: Relaying) -> None:
    backend = relaying.backend()
    running = relaying.relay(backend.address, "127.0.0.1:0?accept=detect&policy=optional&timeout=0.3")
    client = relaying.keep(running.connect())
    server = backend.accept().sock
    server.sendall(b"220 ready")
    assert client.recv(10) == b"220 ready"

    ended = relaying.keep(running.connect())
    ended.shutdown(socket.SHUT_WR)
    assert backend.accept().sock.recv(10) == b""


@pytest.mark.parametrize("checksum", [True, False])
def test_a_header_that_does_not_fit_closes_the_client(
    relaying: Relaying, caplog: pytest.LogCaptureFixture, checksum: bool
) -> None:
    header = ProxyProtocolV2(checksum=checksum).pack(result(b"\xe1\xff\xe6" + bytes(65510)))
    backend = relaying.backend()
    running = relaying.relay(backend.address + "?tlv=unique-id", "127.0.0.1:0?accept=v2&max_header=65551")
    client = relaying.keep(running.connect())
    client.sendall(header)
    assert closed(client)
    assert "the header cannot be written" in lines(caplog)[-1]


def closed(client: socket.socket) -> bool:
    """Wait for the end of a connection, in whatever way it comes."""
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True
