"""`proxyprotocol decode` of captures: real ones by tcpdump, and packets made here in any order a network may choose.

In captures/ HAProxy connects to a server: with version 2 over IPv4 and, for another client, version 1 over IPv6.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether, Loopback
from scapy.packet import Raw
from scapy.utils import PcapNgWriter, PcapWriter, rdpcap

from proxyprotocol.cli._decode.streams import MAX_EARLY, MAX_STREAMS, Segment, StreamHeaders
from tests.cli.commands import Ran, run
from tests.core.test_spp import SPP, SPP6
from tests.vectors import IPV4_BLOCK, PROXY, SIGNATURE, tlv, v2

CAPTURES = Path(__file__).parent.parent / "captures"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
BINARY = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE2, b"x" * 100))
START = 2**32 - 20  # so that sequence numbers wrap within a header


def written(packets: list[Any], form: type[Any] = PcapWriter) -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        with form(file.name) as writer:
            for packet in packets:
                writer.write(packet)
        return Path(file.name).read_bytes()


def decode(packets: list[Any] | bytes, form: type[Any] = PcapWriter) -> tuple[Ran, list[dict[str, Any]]]:
    ran = run("decode", "--json", stdin=packets if isinstance(packets, bytes) else written(packets, form))
    return ran, [json.loads(line) for line in ran.text.splitlines()]


def segment(at: int, data: bytes = b"", flags: str = "A", port: int = 4000, **fields: Any) -> Any:
    """A segment whose first byte is the stream's byte *at*."""
    sequence = (START + 1 + at) % 2**32 if flags != "S" else START
    ends = {"src": "10.0.0.1", "dst": "10.0.0.2", **fields}
    return Ether() / IP(**ends) / TCP(sport=port, dport=80, seq=sequence, flags=flags) / Raw(data)


SYN = segment(0, flags="S")


# Real captures


@pytest.mark.parametrize("name", ["ethernet.pcap", "linux_cooked.pcap"])
def test_the_headers_in_a_real_capture_are_found(name: str) -> None:
    ran = run("decode", "--json", str(CAPTURES / name))
    first, second = (json.loads(line) for line in ran.text.splitlines())
    assert (ran.status, ran.errors) == (0, "")
    assert (first["version"], first["from"].split(":")[0], first["destination"]["port"]) == (2, "127.0.0.1", 18082)
    assert [each["name"] for each in first["tlvs"]] == ["CRC32C", "UNIQUE_ID"]
    assert (second["version"], second["to"], second["destination"]["port"]) == (1, "[::1]:18081", 18083)


def test_the_text_names_the_packet() -> None:
    text = run("decode", str(CAPTURES / "ethernet.pcap")).text
    assert "Packet 4, TCP from 127.0.0.1:" in text
    assert text.count("PROXY protocol version") == 2


def test_a_real_capture_may_have_the_newer_format() -> None:
    packets = list(rdpcap(str(CAPTURES / "ethernet.pcap")))
    ran, found = decode(packets, PcapNgWriter)
    assert ran.output == run("decode", "--json", str(CAPTURES / "ethernet.pcap")).output
    assert len(found) == 2


# Segments as a network may deliver them


SEGMENTS = {
    "whole": [segment(0, BINARY + b"GET")],
    "byte by byte": [segment(at, BINARY[at : at + 1]) for at in range(len(BINARY))],
    "out of order": [segment(50, BINARY[50:]), segment(20, BINARY[20:50]), segment(0, BINARY[:20])],
    "sent again": [segment(0, BINARY[:50]), segment(0, BINARY[:50]), segment(0, BINARY), segment(0, BINARY)],
    "overlapping": [segment(0, BINARY[:50]), segment(30, BINARY[30:])],
    "SYN again within it": [segment(0, BINARY[:50]), SYN, segment(50, BINARY[50:])],
    "SYN again after it": [segment(0, BINARY), SYN, segment(0, BINARY)],
    "with the SYN": [],
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_header_is_put_together_from_its_segments(name: str) -> None:
    first = SYN if SEGMENTS[name] else segment(0, BINARY, "S")
    ran, found = decode([first, *SEGMENTS[name]])
    assert ran.status == 0
    assert [each["tlvs"][0]["hex"] for each in found] == [(b"x" * 100).hex()]


def test_each_of_two_connections_between_the_same_ends_has_its_own_header() -> None:
    again = [segment(5000, flags="A")[TCP].seq]
    second = segment(0, flags="S")
    second[TCP].seq = again[0]
    header = segment(5001, LINE)
    _, found = decode([SYN, segment(0, BINARY), second, header])
    assert [each["version"] for each in found] == [2, 1]


def test_a_stream_without_a_syn_is_examined_once() -> None:
    _, found = decode(
        [
            segment(0, BINARY),
            segment(len(BINARY), LINE),
            segment(9000, b"data", port=4001),
            segment(9004, LINE, port=4001),
        ]
    )
    assert [each["version"] for each in found] == [2]


def test_a_servers_answer_is_not_a_header() -> None:
    answer = segment(0, b"220 ready\r\n", port=4000)
    ran, found = decode([SYN, segment(0, flags="SA", src="10.0.0.2", dst="10.0.0.1"), answer])
    assert (ran.status, found) == (1, [])
    assert "No header in 3 packets: 1 TCP streams" in ran.errors


@pytest.mark.parametrize("last", [[], [segment(30, flags="FA")], [segment(30, flags="R")]], ids=["cut", "FIN", "RST"])
def test_a_header_that_never_ends_is_wrong(last: list[Any]) -> None:
    ran, (found,) = decode([SYN, segment(0, BINARY[:30]), *last])
    assert ran.status == 1
    assert (found["error"]["kind"], found["packet"]) == ("ProxyProtocolIncompleteError", 2)


def test_a_wrong_header_does_not_hide_the_right_ones() -> None:
    wrong = [segment(0, b"PROXY TCP4 x\r\n"), segment(0, SIGNATURE + b"\x31\x11", port=4001)]
    ran, found = decode([*wrong, segment(0, LINE, port=4002)])
    assert ran.status == 1
    assert [each["ok"] for each in found] == [False, False, True]


# Networks


LAYERS = {
    "VLAN": Ether() / Dot1Q(vlan=7) / IP() / TCP(flags="A") / Raw(LINE),
    "IPv6": Ether() / IPv6() / TCP(flags="A") / Raw(LINE),
    "IPv6 with an extension": Ether() / IPv6() / IPv6ExtHdrHopByHop() / TCP(flags="A") / Raw(LINE),
    "IP options": Ether() / IP(options=b"\x01\x01\x01\x00") / TCP(flags="A") / Raw(LINE),
    "tunnel": Ether() / IP(src="10.9.9.9") / IP(src="10.0.0.1") / TCP(flags="A") / Raw(LINE),
    "padding": Ether(bytes(Ether() / IP(src="10.0.0.1") / TCP(flags="A") / Raw(LINE)) + bytes(9)),
    "loopback": Loopback(type=2) / IP() / TCP(flags="A") / Raw(LINE),
    "bare IP": IP() / TCP(flags="A") / Raw(LINE),
}


@pytest.mark.parametrize("form", [PcapWriter, PcapNgWriter])
@pytest.mark.parametrize("name", LAYERS)
def test_a_header_is_found_under_every_layer(name: str, form: type[Any]) -> None:
    ran, (found,) = decode([LAYERS[name]], form)
    assert (ran.status, found["ok"], found["following"]) == (0, True, 0)
    if name == "tunnel":
        assert found["from"].startswith("10.0.0.1:")


def test_packets_that_are_neither_tcp_nor_udp_are_counted() -> None:
    ran, found = decode([Ether() / ARP(), Ether() / IP() / Raw(b"x")])
    assert found == []
    assert "2 packets that are neither TCP nor UDP" in ran.errors


def test_an_unknown_network_is_named() -> None:
    data = bytearray(written([SYN]))
    data[20:24] = (147).to_bytes(4, "little")
    ran, _ = decode(bytes(data))
    assert (ran.status, ran.output) == (2, b"")
    assert "link type 147" in ran.errors


# Datagrams


def datagram(data: bytes) -> Any:
    return Ether() / IP(src="10.0.0.1") / UDP(sport=4000, dport=53) / Raw(data)


def test_the_header_of_each_datagram_is_found() -> None:
    _, found = decode([datagram(BINARY + b"query"), datagram(b"plain"), datagram(BINARY), datagram(b"")])
    assert [(each["transport"], each["packet"], each["following"]) for each in found] == [("UDP", 1, 5), ("UDP", 3, 0)]


@pytest.mark.parametrize(
    ("data", "said"),
    [(LINE, "version 1, which is only for streams"), (BINARY[:30], "has 30 bytes, but its header needs at least 131")],
)
def test_a_datagram_needs_a_whole_header_of_version_2(data: bytes, said: str) -> None:
    ran, (found,) = decode([datagram(data)])
    assert ran.status == 1
    assert said in found["error"]["reason"]


def test_a_datagram_with_a_wrong_checksum_is_described() -> None:
    _, (found,) = decode([datagram(v2(PROXY, 0x12, IPV4_BLOCK, tlv(3, bytes(4))))])
    assert (found["error"]["kind"], found["protocol"]) == ("ProxyProtocolChecksumError", "DGRAM")


# Limits and damaged files


def test_of_many_silent_streams_the_newest_are_followed() -> None:
    begun = [segment(0, flags="S", port=port) for port in range(1, MAX_STREAMS + 2)]
    # in two pieces, because a segment that starts like a header is followed again
    headers = [segment(at, data, port=port) for port in (1, 2) for at, data in ((0, LINE[:3]), (3, LINE[3:]))]
    _, (found,) = decode([*begun, *headers])
    assert found["from"] == "10.0.0.1:2"


def test_too_many_early_bytes_are_dropped() -> None:
    early = [segment(len(LINE) + at, bytes(40_000)) for at in (0, 40_000)]
    _, (found,) = decode([SYN, *early, segment(0, LINE)])
    assert found["following"] == 0
    _, (found,) = decode([SYN, early[0], segment(0, LINE)])
    assert found["following"] == 40_000


def test_too_many_early_segments_are_dropped() -> None:
    early = [segment(len(LINE) + at, b"x") for at in range(MAX_EARLY + 1)]
    _, (found,) = decode([SYN, *early[:-1], segment(0, LINE)])
    assert found["following"] == MAX_EARLY
    _, (found,) = decode([SYN, *early, segment(0, LINE)])
    assert found["following"] == 0


def test_dropped_segments_no_longer_count() -> None:
    early = [segment(len(LINE) + at, bytes(40_000)) for at in (0, 40_000, 0)]
    _, (found,) = decode([SYN, *early, segment(0, LINE)])
    assert found["following"] == 40_000


def test_early_segments_that_found_their_place_no_longer_count() -> None:
    data = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE2, bytes(65_000)))
    pieces = [segment(at, data[at : at + 1000]) for at in range(0, len(data), 1000)]
    # pairs of pieces, the later one first: together more than may be early at a time
    swapped = [piece for at in range(0, len(pieces), 2) for piece in reversed(pieces[at : at + 2])]
    _, (found,) = decode([SYN, *swapped])
    assert found["ok"]


@pytest.mark.parametrize("data", [b"", b"x"], ids=["without data", "with data"])
def test_many_segments_after_a_gap_are_quick(data: bytes) -> None:
    flow = ("10.0.0.1", 4000, "10.0.0.2", 80)
    streams = StreamHeaders()
    streams.add(Segment(1, flow, 0, True, False, b""))
    begun = time.monotonic()
    for at in range(20_000):
        streams.add(Segment(2 + at, flow, 1 + len(LINE) + at, False, False, data))
    # hundredths of a second; half a minute when each segment was compared with all earlier ones
    assert time.monotonic() - begun < 5
    found = streams.add(Segment(20_002, flow, 1, False, False, LINE))
    assert found is not None
    assert found.data.startswith(LINE)


def test_of_many_finished_streams_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyprotocol.cli._decode.streams._MAX_DONE", 2)
    headers = [segment(0, LINE, port=port) for port in (1, 2, 3)]
    _, found = decode([*headers, headers[2], headers[0]])
    assert [each["from"] for each in found] == [f"10.0.0.1:{port}" for port in (1, 2, 3, 1)]


def test_a_block_of_gigabytes_is_not_read() -> None:
    data = bytearray(written([SYN], PcapNgWriter))
    at = data.index((6).to_bytes(4, "little"), 28)
    data[at + 4 : at + 8] = (0xF0000000).to_bytes(4, "little")
    ran, found = decode(bytes(data))
    assert (ran.status, found) == (2, [])
    assert "the capture is damaged" in ran.errors


@pytest.mark.parametrize("form", [PcapWriter, PcapNgWriter])
def test_a_capture_that_is_cut_short_gives_its_headers(form: type[Any]) -> None:
    data = written([SYN, segment(0, BINARY), segment(len(BINARY), b"GET" * 100)], form)
    _, found = decode(data[:-150])
    assert [each["ok"] for each in found] == [True]


@pytest.mark.parametrize("form", [PcapWriter, PcapNgWriter])
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_capture_never_gives_a_traceback(form: type[Any], seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(written([SYN, segment(0, BINARY), datagram(BINARY), LAYERS["VLAN"]], form))
    for _ in range(chance.choice([1, 5, 50])):
        data[chance.randrange(4, len(data))] = chance.randrange(256)
    ran, _ = decode(bytes(data[: chance.randrange(4, len(data) + 1)]))
    assert ran.status in (0, 1, 2)
    assert len(ran.errors.splitlines()) <= 1


def test_without_scapy_the_extra_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['scapy'] = None; from proxyprotocol.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "decode", str(CAPTURES / "ethernet.pcap")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'proxyprotocol[pcap]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_simple_proxy_protocol_is_found_in_questions_and_answers_if_asked_for() -> None:
    ends = ("10.0.0.1", 4000), ("10.0.0.2", 53)
    packets = [
        Ether() / IP(src=source[0], dst=dest[0]) / UDP(sport=source[1], dport=dest[1]) / Raw(data)
        for source, dest, data in ((*ends, SPP + b"query"), (*ends[::-1], SPP + b"answer"), (*ends, SPP6[:20]))
    ]
    ran = run("decode", "--json", "--spp", stdin=written([segment(0, SPP), *packets]))
    question, answer, cut = (json.loads(line) for line in ran.text.splitlines())
    assert ran.status == 1
    assert [each["version"] for each in (question, answer)] == ["spp", "spp"]
    assert (question["from"], answer["from"]) == ("10.0.0.1:4000", "10.0.0.2:53")
    assert question["source"] == answer["source"] == {"address": "203.0.113.7", "port": 5678}
    assert cut["error"]["reason"] == "The datagram has 20 bytes, but its header needs at least 38"
    assert decode(packets)[1] == []
