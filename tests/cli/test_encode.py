"""`proxyprotocol encode` writes headers that the library reads, and rejects anything else in one sentence."""

from __future__ import annotations

import ssl
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import SOCK_DGRAM, SOCK_STREAM

import pytest

from proxyprotocol import (
    HeaderParser,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyResult,
    ProxyResultIPv4,
    ProxyResultIPv6,
    ProxyResultLocal,
    ProxyResultUnix,
    ProxyResultUnknown,
)
from tests.cli.commands import run
from tests.core.test_spp import SPP, SPP6
from tests.vectors import tlv

ADDRESSES = ("--source", "192.0.2.1:1000", "--dest", "198.51.100.2:2000")
IPV4 = (IPv4Address("192.0.2.1"), 1000), (IPv4Address("198.51.100.2"), 2000)
IPV6 = (IPv6Address("2001:db8::1"), 1000), (IPv6Address("2001:db8::2"), 2000)


def encode(*arguments: str) -> bytes:
    ran = run("encode", *arguments)
    assert (ran.status, ran.errors) == (0, "")
    return ran.output


def read(*arguments: str) -> ProxyResult:
    parser = HeaderParser()
    result = parser.feed(encode(*arguments))
    assert result is not None
    assert parser.trailing == b""
    return result


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (ADDRESSES, ProxyResultIPv4(*IPV4, protocol=SOCK_STREAM)),
        ((*ADDRESSES, "--dgram"), ProxyResultIPv4(*IPV4, protocol=SOCK_DGRAM)),
        (
            ("--source", "[2001:db8::1]:1000", "--dest", "[2001:db8::2]:2000"),
            ProxyResultIPv6(*IPV6, protocol=SOCK_STREAM),
        ),
        (("--source", "unix:/c", "--dest", "unix:/s"), ProxyResultUnix("/c", "/s", protocol=SOCK_STREAM)),
        (("--source", "unix:", "--dest", "unix:/s"), ProxyResultUnix("", "/s", protocol=SOCK_STREAM)),
        (("--local",), ProxyResultLocal()),
        (("--unknown",), ProxyResultUnknown()),
    ],
)
def test_version_2_names_the_client(arguments: tuple[str, ...], result: ProxyResult) -> None:
    assert encode(*arguments) == ProxyProtocolV2().pack(result)
    assert encode(*arguments, "--v2", "--no-checksum") == ProxyProtocolV2(checksum=False).pack(result)


def test_version_1_names_the_client() -> None:
    assert encode(*ADDRESSES, "--v1") == b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
    assert encode("--unknown", "--v1") == ProxyProtocolV1().pack(ProxyResultUnknown())


def test_every_tlv_has_an_option() -> None:
    vectors = read(
        *ADDRESSES,
        *("--alpn", "h2", "--authority", "a.example", "--unique-id", "id", "--netns", "ns"),
        *("--aws-vpce-id", "vpce-1", "--azure-link-id", "0x2a", "--gcp-psc-id", str(2**64 - 1)),
        *("--alibaba-service-id", "epsrv-1", "--alibaba-vpc-id", "vpc-1", "--alibaba-endpoint-id", "ep-1"),
    ).tlv
    assert (vectors.alpn, vectors.authority, vectors.unique_id, vectors.netns) == (b"h2", "a.example", b"id", "ns")
    assert (vectors.aws_vpce_id, vectors.azure_link_id, vectors.gcp_psc_id) == ("vpce-1", 42, 2**64 - 1)
    assert vectors.getall(0xE1) == [b"\1vpc-1", b"\2ep-1", b"\3epsrv-1"]
    assert vectors.crc32c is not None


def test_tlv_takes_a_number_or_name_and_text_or_digits_in_the_given_order() -> None:
    arguments = ("--tlv", "0xE2=text", "--tlv", "226=0x00ff", "--tlv", "unique-id=a=b", "--tlv", "noop=")
    expected = tlv(0xE2, b"text") + tlv(0xE2, b"\x00\xff") + tlv(5, b"a=b") + tlv(4)
    assert bytes(read(*ADDRESSES, "--no-checksum", *arguments).tlv) == expected


def test_options_describe_the_clients_tls(tmp_path: Path) -> None:
    names = ("version", "cipher", "cn", "sig-alg", "key-alg", "group", "sig-scheme")
    arguments = [word for name in names for word in (f"--tls-{name}", f"the {name}")]
    said = read(*ADDRESSES, *arguments, "--verified").tlv.ssl
    assert [said.version, said.cipher, said.cn, said.sig_alg, said.key_alg, said.group, said.sig_scheme] == [
        f"the {name}" for name in names
    ]
    assert (said.has_ssl, said.client_verified) == (True, True)


@pytest.mark.parametrize(
    ("arguments", "shown", "verify"),
    [(("--tls",), False, 0), (("--tls-cn", "bob"), True, 1), (("--tls-cn", "bob", "--verified"), True, 0)],
)
def test_a_certificate_counts_as_verified_only_with_the_option(
    arguments: tuple[str, ...], shown: bool, verify: int
) -> None:
    said = read(*ADDRESSES, *arguments).tlv.ssl
    assert (said.has_ssl, said.has_cert_conn, said.verify) == (True, shown, verify)


def test_without_a_tls_option_there_is_no_ssl_tlv() -> None:
    assert not read(*ADDRESSES).tlv.ssl


DER = b"\x30" + bytes(range(200))


@pytest.mark.parametrize(
    "content",
    [
        DER,
        ssl.DER_cert_to_PEM_cert(DER).encode(),
        b"for people\n" + (ssl.DER_cert_to_PEM_cert(DER) + ssl.DER_cert_to_PEM_cert(b"of the issuer")).encode(),
    ],
    ids=["DER", "PEM", "chain"],
)
def test_the_certificate_of_a_client_is_read_from_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "certificate"
    path.write_bytes(content)
    said = read(*ADDRESSES, "--client-cert", str(path)).tlv.ssl
    assert said.client_cert == DER
    assert not said.verified


def test_decode_reads_the_digits() -> None:
    digits = encode(*ADDRESSES, "--hex", "--authority", "a.example")
    assert digits.endswith(b"\n")
    assert "a.example" in run("decode", "--hex", stdin=digits).text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the client with --source and --dest, or give one of"),
        (("--local", "--unknown"), "name the client with --source and --dest, or give one of"),
        ((*ADDRESSES, "--local"), "name the client with --source and --dest, or give one of"),
        (("--source", "192.0.2.1:1"), "--dest is missing"),
        (("--dest", "192.0.2.1:1"), "--source is missing"),
        (("--source", "", "--dest", ""), "name the client with --source and --dest, or give one of"),
        (("--source", "192.0.2.1", "--dest", "192.0.2.1:1"), "--source takes an IP address and a port"),
        (("--source", "192.0.2.1:1", "--dest", "[::1]:1"), "of one family"),
        (
            ("--source", "unix:/a", "--dest", "192.0.2.1:1"),
            "take two UNIX sockets, such as unix:/run/app, or none, not 'unix:/a' and",
        ),
        (("--source", f"unix:{'x' * 109}", "--dest", "unix:/s"), "109 bytes does not fit"),
        (("--v1", "--local"), "Version 1 cannot say LOCAL"),
        (("--v1", "--source", "unix:/c", "--dest", "unix:/s"), "version 1 cannot say this"),
        (("--v1", *ADDRESSES, "--alpn", "h2"), "version 1 has no place for TLVs"),
        (("--v1", *ADDRESSES, "--dgram"), "version 1 has no place for TLVs or datagrams"),
        (("--v1", "--v2", *ADDRESSES), "--v2 excludes --v1"),
        ((*ADDRESSES, "--tlv", "1"), "--tlv takes TYPE=VALUE, such as 0xE2=text or netns=blue, not '1'"),
        ((*ADDRESSES, "--tlv", "256=x"), "a number of 0 to 255, such as 0xE2, or a name: unknown type 256 (see "),
        ((*ADDRESSES, "--tlv", "nonsense=x"), "unknown type nonsense"),
        ((*ADDRESSES, "--tlv", "netn=x"), "unknown type netn; did you mean netns?"),
        ((*ADDRESSES, "--tlv", "1=0x123"), "pairs of hexadecimal digits after 0x, not '123'"),
        ((*ADDRESSES, "--tlv", "3=x"), "The CRC32C has 1 bytes instead of 4"),
        ((*ADDRESSES, "--unique-id", "x" * 129), "The UNIQUE_ID has 129 bytes, more than 128"),
        ((*ADDRESSES, "--authority", "x" * 65536), "65536 bytes, more than 65535"),
        ((*ADDRESSES, "--tlv", f"1={'x' * 65535}"), "no room for"),
        (
            (*ADDRESSES, "--azure-link-id", str(2**32)),
            "--azure-link-id takes a number of 32 bits, such as 7 or 0x1F, not",
        ),
        ((*ADDRESSES, "--gcp-psc-id", "-1"), "--gcp-psc-id"),
        (
            (*ADDRESSES, "--client-cert", "missing"),
            "--client-cert takes a file, which cannot be read: missing: No such file or directory",
        ),
        ((*ADDRESSES, "--tls-"), "unknown option --tls-; did you mean --tls?"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ran = run("encode", *arguments)
    assert (ran.status, ran.output) == (2, b"")
    assert said in ran.errors
    assert len(ran.errors.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n",
        b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nM\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_file_without_a_certificate_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "client.pem"
    path.write_bytes(content)
    ran = run("encode", *ADDRESSES, "--client-cert", str(path))
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors == f"proxyprotocol: --client-cert takes a certificate in PEM or DER, and {path} has none\n"


@pytest.mark.parametrize(
    ("source", "dest", "header"),
    [
        ("203.0.113.7:5678", "198.51.100.9:53", SPP),
        ("[2001:db8::7]:5678", "[2001:db8:ffff::9]:443", SPP6),
    ],
)
def test_the_simple_proxy_protocol_names_the_client(source: str, dest: str, header: bytes) -> None:
    assert encode("--spp", "--source", source, "--dest", dest) == header


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--local",),
            "The Simple Proxy Protocol names IPv4 and IPv6 clients of UDP, it cannot say ProxyResultLocal()",
        ),
        (("--source", "unix:/c", "--dest", "unix:/s"), "it cannot say ProxyResultUnix('/c', '/s'"),
        ((*ADDRESSES, "--alpn", "h2"), "the Simple Proxy Protocol has no place for TLVs: leave them out, or"),
        ((*ADDRESSES, "--v1"), "--v1 excludes --spp"),
    ],
)
def test_what_the_simple_proxy_protocol_cannot_say_is_one_sentence(arguments: tuple[str, ...], says: str) -> None:
    ran = run("encode", "--spp", *arguments)
    assert (ran.status, ran.output) == (2, b"")
    assert says in ran.errors
    assert ran.errors.count("\n") == 1
