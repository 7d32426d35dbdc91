"""`proxyprotocol decode` of raw bytes and of text, right and wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxyprotocol import ProxyProtocolExtTLV, ProxyProtocolTLV, ProxyProtocolV2, ProxyResultIPv4, ProxyResultType
from tests.cli.commands import run
from tests.core.test_spp import MIXED, SPP, SPP6
from tests.vectors import IPV4, IPV4_BLOCK, LOCAL, PROXY, SIGNATURE, VECTORS, Vector, tlv, v2

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
BINARY = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x01, b"h2"), tlv(0x04))
# the first bytes of pcapng and pcap files
CAPTURES = (b"\n\r\r\n", b"\xa1\xb2\xc3\xd4", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1")


def decode(data: bytes, *arguments: str) -> dict[str, Any]:
    """Return the JSON of one header."""
    ran = run("decode", "--json", *arguments, stdin=data)
    (line,) = ran.text.splitlines()
    described: dict[str, Any] = json.loads(line)
    assert ran.status == (0 if described["ok"] else 1)
    return described


# Everything a header says


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_header_is_decoded(vector: Vector) -> None:
    described = decode(vector.header + b"data")
    result = vector.result
    assert (described["ok"], described["error"]) == (True, None)
    assert (described["length"], described["following"]) == (len(vector.header), 4)
    assert described["version"] == (1 if vector.header.startswith(b"PROXY") else 2)
    assert described["command"] == ("LOCAL" if result.type is ProxyResultType.LOCAL else "PROXY")
    assert [described["source"] is None, described["destination"] is None] == [result.source is None] * 2
    assert b"".join(tlv(each["type"], bytes.fromhex(each["hex"])) for each in described["tlvs"]) == bytes(result.tlv)
    for each in described["tlvs"]:
        assert vector.header[each["offset"]] == each["type"]
        for sub in each.get("tlvs", ()):
            assert vector.header[sub["offset"]] == sub["type"]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_every_header_is_shown_to_people(vector: Vector) -> None:
    ran = run("decode", stdin=vector.header)
    assert ran.status == 0
    assert ran.text.startswith(f"PROXY protocol version {1 if vector.header.startswith(b'PROXY') else 2}, ")
    assert all(line.isprintable() for line in ran.text.splitlines())


def test_the_json_of_a_header_is_what_the_documentation_says() -> None:
    assert decode(BINARY + b"GET") == {
        "ok": True,
        "version": 2,
        "length": 36,
        "command": "PROXY",
        "family": "INET",
        "protocol": "STREAM",
        "source": {"address": "192.0.2.1", "port": 1000},
        "destination": {"address": "198.51.100.2", "port": 2000},
        "ignored": 0,
        "tlvs": [
            {"type": 1, "name": "ALPN", "offset": 28, "length": 2, "value": "h2", "hex": "6832"},
            {"type": 4, "name": "NOOP", "offset": 33, "length": 0, "value": None, "hex": ""},
        ],
        "following": 3,
        "error": None,
        "hex": BINARY.hex(),
    }


@pytest.mark.parametrize(
    ("header", "family", "protocol", "ignored"),
    [
        (LINE, "INET", "STREAM", 0),
        (b"PROXY TCP6 ::1 ::2 1 2\r\n", "INET6", "STREAM", 0),
        (b"PROXY UNKNOWN\r\n", "UNKNOWN", None, 0),
        (b"PROXY UNKNOWN 1 2 3\r\n", "UNKNOWN", None, 6),
        (v2(PROXY, 0x12, IPV4_BLOCK), "INET", "DGRAM", 0),
        (v2(PROXY, 0x00), "UNSPEC", "UNSPEC", 0),
        (v2(PROXY, 0x10, IPV4_BLOCK), "INET", "UNSPEC", 12),
        (v2(LOCAL, 0x11, IPV4_BLOCK), "INET", "STREAM", 12),
        (v2(LOCAL, 0x73), "0x7", "0x3", 0),
    ],
)
def test_the_family_is_named_and_ignored_bytes_are_counted(
    header: bytes, family: str, protocol: str | None, ignored: int
) -> None:
    described = decode(header)
    assert (described["family"], described["protocol"], described["ignored"]) == (family, protocol, ignored)


SSL = bytes((3, 0, 0, 0, 1)) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"bob") + tlv(0x28, b"der") + tlv(0x29, b"?")


@pytest.mark.parametrize(
    ("kind", "value", "name", "decoded"),
    [
        (0x01, b"h2", "ALPN", "h2"),
        (0x01, b"\xff", "ALPN", None),
        (0x02, b"a.example", "AUTHORITY", "a.example"),
        (0x05, b"id", "UNIQUE_ID", "id"),
        (0x05, b"\x00id", "UNIQUE_ID", None),
        (0x20, SSL, "SSL", None),
        (0x30, b"ns", "NETNS", "ns"),
        (0xEA, b"\x01vpce-08d2bf15fac5001c9", "AWS", "vpce-08d2bf15fac5001c9"),
        (0xEA, b"\x02?", "AWS", None),
        (0xEE, b"\x01\x2a\x00\x00\x00", "AZURE", 42),
        (0xE0, bytes(7) + b"\x2a", "GCP", 42),
        (0xE1, b"\x01vpc-bp1", "ALIBABA", "vpc-bp1"),
        (0xE1, b"\x02ep-bp1", "ALIBABA", "ep-bp1"),
        (0xE1, b"\x03epsrv-bp1", "ALIBABA", "epsrv-bp1"),
        (0xE1, b"x", "ALIBABA", None),
        (0xE2, b"x", "CUSTOM", None),
        (0xF7, b"x", "EXPERIMENT", None),
        (0xF8, b"x", "FUTURE", None),
        (0x21, b"x", "UNKNOWN", None),
        (0x99, b"x", "UNKNOWN", None),
    ],
)
def test_every_tlv_is_named_and_decoded(kind: int, value: bytes, name: str, decoded: object) -> None:
    (described,) = decode(v2(PROXY, 0x11, IPV4_BLOCK, tlv(kind, value)))["tlvs"]
    assert (described["type"], described["name"], described["value"]) == (kind, name, decoded)
    assert described["hex"] == value.hex()


@pytest.mark.parametrize(
    ("kind", "value", "field", "shown"),
    [
        (0xEA, b"\x01vpce-1", "aws_vpce_id", "AWS (0xea)              VPC endpoint vpce-1"),
        (0xEE, b"\x01\x2a\x00\x00\x00", "azure_link_id", "AZURE (0xee)            private endpoint LINKID 42"),
        (0xE0, bytes(7) + b"\x2a", "gcp_psc_id", "GCP (0xe0)              PSC connection 42"),
        (0xE1, b"\x01vpc-1", "alibaba_vpc_id", "ALIBABA (0xe1)          VPC vpc-1"),
        (0xE1, b"\x02ep-1", "alibaba_endpoint_id", "ALIBABA (0xe1)          endpoint ep-1"),
        (0xE1, b"\x03epsrv-1", "alibaba_service_id", "ALIBABA (0xe1)          endpoint service epsrv-1"),
        (0xE1, b"\x04", None, "ALIBABA (0xe1)          04"),
    ],
)
def test_a_vendors_value_is_shown_with_its_noun(kind: int, value: bytes, field: str | None, shown: str) -> None:
    header = v2(PROXY, 0x11, IPV4_BLOCK, tlv(kind, value))
    (described,) = decode(header)["tlvs"]
    assert described.get("field") == field
    assert shown in run("decode", stdin=header).text


def test_the_sub_tlvs_of_ssl_are_named_too() -> None:
    (described,) = decode(v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x20, SSL)))["tlvs"]
    assert (described["client"], described["verify"], described["client_verified"]) == (["SSL", "CERT_CONN"], 1, False)
    named = [(sub["name"], sub["value"]) for sub in described["tlvs"]]
    fingerprint = f"sha256:{hashlib.sha256(b'der').hexdigest()}"
    assert named == [("VERSION", "TLSv1.3"), ("CN", "bob"), ("CLIENT_CERT", fingerprint), ("UNKNOWN", "?")]
    assert (
        "client certificate not verified (code 1) (CERT_CONN)"
        in run("decode", stdin=v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x20, SSL))).text
    )


def test_the_extension_in_a_noop_is_told_from_padding() -> None:
    ext = ProxyProtocolExtTLV(compression="zlib", secret_bits=256, peercert={"subject": "x"}, dnsbl="bl.example")
    header = ProxyProtocolV2(checksum=False).pack(ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(tlv(4, b"pad"), ext=ext)))
    (described,) = decode(header)["tlvs"]
    assert described["name"] == "NOOP_EXT"
    assert {sub["name"]: sub["value"] for sub in described["tlvs"]} == {
        "COMPRESSION": "zlib",
        "SECRET_BITS": 256,
        "PEERCERT": {"subject": "x"},
        "DNSBL": "bl.example",
    }


# After the header


def test_the_bytes_after_the_header_are_counted() -> None:
    assert decode(LINE + bytes(1_000_000))["following"] == 1_000_000


def test_a_second_header_is_pointed_out() -> None:
    text = run("decode", stdin=LINE + LINE).text
    assert f"{len(LINE)} bytes: another header" in text
    assert "another header" not in run("decode", stdin=LINE + b"GET").text


def test_the_longest_header_is_decoded() -> None:
    header = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0xE1, bytes(65535 - 12 - 3)))
    assert decode(header + b"x")["length"] == 16 + 65535
    assert "longer than" in run("decode", stdin=header).text


# Wrong headers


@pytest.mark.parametrize(
    ("data", "offset", "said"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 99999\r\n", 39, "'99999' is not a number"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 10", 36, "incomplete"),
        (b"GET / HTTP/1.1\r\n", 0, "There is no PROXY protocol header"),
        (SIGNATURE + b"\x31\x11\x00\x0c", 12, "The version of a binary header is 2, not 3"),
        (v2(PROXY, 0x41), 13, "The address family is one of 0 to 3, not 4"),
        (v2(PROXY, 0x11, IPV4_BLOCK, b"\x01\x00\x09h2"), 28, "A TLV of type 0x01 claims 9 bytes where 2 are left"),
        (v2(PROXY, 0x11, IPV4_BLOCK, tlv(3, b"\x01\x02\x03\x04")), 31, "it says 0x01020304 where they make 0x"),
    ],
)
def test_a_wrong_header_gets_a_reason_and_an_offset(data: bytes, offset: int, said: str) -> None:
    error = decode(data)["error"]
    assert error["offset"] == offset
    assert said in error["reason"]

    ran = run("decode", stdin=data)
    assert ran.status == 1
    assert said in ran.text
    assert f"(at byte {offset})." in ran.text
    lines = ran.text.splitlines()
    (mark,) = [number for number, line in enumerate(lines) if line.lstrip().startswith("^^")]
    row, column = lines[mark - 1], lines[mark].index("^")
    if offset < len(data):
        assert row[column : column + 2] == f"{data[offset]:02x}"
        assert row.startswith(f"  {offset // 16 * 16:04x}  ")


def test_an_empty_input_is_not_a_header() -> None:
    assert decode(b"")["error"]["kind"] == "ProxyProtocolMissingError"


def test_a_header_with_a_wrong_checksum_is_shown_and_not_believed() -> None:
    data = v2(PROXY, 0x11, IPV4_BLOCK, tlv(3, bytes(4)))
    ran = run("decode", stdin=data)
    assert ran.status == 1
    assert "which must not be believed" in ran.text
    assert "192.0.2.1:1000" in ran.text
    assert "0x00000000, wrong" in ran.text


@given(st.binary(max_size=80) | st.builds(bytes.__add__, st.sampled_from([SIGNATURE, b"PROXY "]), st.binary()))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    assume(not data.startswith(CAPTURES))
    described = decode(data)
    assert described["ok"] is (described["error"] is None)
    ran = run("decode", stdin=data)
    assert all(line.isprintable() for line in ran.text.splitlines())


# Untrusted text


def test_control_characters_are_escaped() -> None:
    nasty = "\x1b[31m\x9b\x7f\u202e\n\u2028".encode()
    data = v2(PROXY, 0x11, IPV4_BLOCK, tlv(2, nasty), tlv(0x20, bytes(5) + tlv(0x22, nasty)))
    text = run("decode", stdin=data).text
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"\x1b[31m\x9b\x7f\u202e\n\u2028" in text
    (line,) = run("decode", "--json", stdin=data).text.splitlines()
    assert line.isprintable()
    assert json.loads(line)["tlvs"][0]["value"] == nasty.decode()


# Hexadecimal digits


def dumps(data: bytes) -> dict[str, str]:
    """Return the bytes in every notation that --hex reads."""
    return {
        "digits": data.hex(),
        "spaces": data.hex(" "),
        "colons": data.hex(":").upper(),
        "lines": "\n".join(data.hex(" ", 4).split(" ")),
        "0x": ", ".join(f"0x{byte:02x}" for byte in data),
        "escapes": "".join(f"\\x{byte:02x}" for byte in data),
        "literal": repr(data),
        "quotes": '"' + repr(data)[2:-1] + '"\n',
        "octal": "".join(f"\\{byte:03o}" for byte in data),
        "hexdump": "\n".join(
            f"{at:08x}  {data[at : at + 8].hex(' ')}  {data[at + 8 : at + 16].hex(' '):<23}  |{'.' * 16}|"
            for at in range(0, len(data), 16)
        )
        + f"\n{len(data):08x}\n",
    }


DUMPS = dumps(BINARY)
LONG_DUMPS = dumps(v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x04, bytes(3000))))


@pytest.mark.parametrize("name", DUMPS)
def test_hex_reads_many_notations(name: str) -> None:
    assert decode(DUMPS[name].encode(), "--hex")["hex"] == BINARY.hex()


@pytest.mark.parametrize("options", [[], ["-p"], ["-i"], ["-u"], ["-g1"], ["-c8"]])
def test_hex_reads_the_output_of_xxd(options: list[str]) -> None:
    dump = subprocess.run(["xxd", *options], input=BINARY, capture_output=True, check=True).stdout
    assert decode(dump, "--hex")["hex"] == BINARY.hex()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"0d0a0", "5 hexadecimal digits are an odd number"),
        (b"0d\n0a zz", "'z' in line 2 is not a hexadecimal digit"),
        (b"\xff\xfe", "byte 0 is not text: leave out --hex"),
        pytest.param(b"00" * 600_000, "more than the 1048576 characters that --hex reads", id="too long"),
    ],
)
def test_other_text_gets_one_sentence(text: bytes, said: str) -> None:
    ran = run("decode", "--hex", stdin=text)
    assert (ran.status, ran.output) == (2, b"")
    assert said in ran.errors
    assert len(ran.errors.splitlines()) == 1


@pytest.mark.parametrize("options", [[], ["--hex"]], ids=["raw", "hex"])
@pytest.mark.parametrize(
    "text",
    [
        b"00000000  " + b" " * 1_000_000 + b"x",
        b"00000000  " + b"0d " * 300_000 + b"x",
        b"00000000  0d" + b" " * 500_000 + b"|" * 500_000 + b"x",
        b"00000000: 0d" + b" 0d" * 300_000 + b" \t" * 10_000 + b"x\x1fy",
        b"\\" + b"'" * 1_000_000,
        b"b'" + b"\\" * 1_000_000,
        b"0x" * 500_000,
        b"00000000  0d |.|\n" * 60_000 + b"x",
    ],
    ids=["spaces", "pairs", "bars", "colon", "quotes", "backslashes", "prefixes", "lines"],
)
def test_hostile_text_is_rejected_quickly(text: bytes, options: list[str]) -> None:
    # in another process, because nothing can interrupt a regular expression
    command = [sys.executable, "-m", "proxyprotocol", "decode", *options]
    done = subprocess.run(command, input=text, capture_output=True, timeout=20)
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr


@given(st.text(st.sampled_from("0123abcdfx\\: |\nprnb'\""), max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    assert run("decode", "--hex", stdin=text.encode()).status in (0, 1, 2)


def test_text_without_the_option_gets_a_hint() -> None:
    assert "--hex" in run("decode", stdin=BINARY.hex().encode()).errors
    assert run("decode", stdin=b"GET / HTTP/1.1\r\n").errors == ""


@pytest.mark.parametrize("name", DUMPS)
def test_the_hint_needs_only_the_beginning_of_a_long_text(name: str) -> None:
    assert "--hex" in run("decode", stdin=LONG_DUMPS[name].encode()).errors


# Files


def test_a_file_is_read_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "header"
    path.write_bytes(LINE)
    assert run("decode", str(path)).text == run("decode", stdin=LINE).text


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    ran = run("decode", path)
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors.startswith(f"proxyprotocol: {path}: ")
    assert len(ran.errors.splitlines()) == 1


# The Simple Proxy Protocol


def test_the_simple_proxy_protocol_is_decoded_if_asked_for() -> None:
    described = decode(SPP + b"query", "--spp")
    assert described == {
        "ok": True,
        "version": "spp",
        "length": 38,
        "command": "PROXY",
        "family": "INET",
        "protocol": "DGRAM",
        "source": {"address": "203.0.113.7", "port": 5678},
        "destination": {"address": "198.51.100.9", "port": 53},
        "ignored": 0,
        "tlvs": [],
        "following": 5,
        "error": None,
        "hex": SPP.hex(),
    }
    assert [decode(header, "--spp")["family"] for header in (SPP6, MIXED)] == ["INET6", "INET6"]
    assert run("decode", "--spp", "--hex", stdin=SPP6.hex().encode()).text.splitlines()[0::3] == [
        "Simple Proxy Protocol, 38 bytes",
        "  source                  [2001:db8::7]:5678",
    ]


def test_a_wrong_header_of_the_simple_proxy_protocol_is_shown_with_its_byte() -> None:
    cut = decode(SPP[:37], "--spp")["error"]
    assert (cut["kind"], cut["offset"]) == ("ProxyProtocolIncompleteError", 37)
    wrong = decode(b"\x56\xed" + SPP[2:], "--spp")["error"]
    assert (wrong["kind"], wrong["offset"]) == ("ProxyProtocolSyntaxError", 1)


def test_the_simple_proxy_protocol_is_not_guessed() -> None:
    ran = run("decode", stdin=SPP)
    assert ran.status == 1
    assert ran.errors == "This looks like a header of the Simple Proxy Protocol: try --spp.\n"
