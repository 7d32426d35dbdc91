"""A wrong argument of proxyprotocol-server: one sentence on standard error, and exit status 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proxyprotocol.server.main import main
from tests.interop._certificates import Certificates
from tests.server.relays import Relaying

FORM = "is not an address such as HOST:PORT, ssl://HOST:PORT, unix:PATH or systemd:NAME"
HELP = "(see proxyprotocol-server --help)"
TLV = (
    "drop, none, pass:TYPE+TYPE, TYPE:VALUE and unique-id, authority, alpn, ssl, client-cert, ext, with commas between "
    "them"
)
UNEXPECTED = "but an address without accept= expects none"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "At least one --service is needed: where to listen, and where to connect to"),
        (["--service", "a:1"], f"--service needs SOURCE:PORT DEST:PORT after it {HELP}"),
        (["--service", "a", "b:1"], f"'a' {FORM}"),
        (["--service", ":x", "b:1"], f"':x' {FORM}: the port is not a number from 0 to 65535"),
        (["--service", "[::1:80", "b:1"], f"'[::1:80' {FORM}: Invalid IPv6 URL"),
        (["--service", "http://:0", "b:1"], f"'http://:0' {FORM}"),
        (["--service", "unix:", "b:1"], "'unix:' lacks the path of a UNIX socket: write unix:/run/app.sock"),
        (["--service", "systemd:", "b:1"], "'systemd:' lacks the name of a socket of systemd: write systemd:web, or "),
        (["--service", ":0", "systemd:x"], "'systemd:x' is a socket to listen on, not to connect to\n"),
        (
            ["--service", "systemd:x?cert=y", "b:1"],
            "'systemd:x?cert=y': cert= is an option for ssl:// addresses\n",
        ),
        (
            ["--service", "systemd:x", "b:1"],
            "systemd:x needs a socket from systemd, which has passed none: start the relay by its .socket unit\n",
        ),
        (["--service", ":0", "ssl://.a:1"], "'.a' cannot be the name in a certificate: "),
        (["--service", ":0", ":1"], "':1' lacks the host to connect to"),
        (["--service", ":0", "b:0"], "'b:0' has port 0: write the port to connect to"),
        (
            ["--service", ":0", "b:1?cert=x"],
            "'b:1?cert=x': cert= is an option for ssl:// addresses",
        ),
        (["--service", ":0", "b:1?pp=v3"], "pp= takes noop, detect, v1 or v2, not 'v3'"),
        (
            ["--service", ":0", "b:1?tlv=x"],
            f"tlv= takes {TLV}, not 'x': unknown word x\n",
        ),
        (["--service", ":0", "b:1?tlv=ssl,uniqueid"], f"tlv= takes {TLV}, not 'uniqueid': unknown word uniqueid; did "),
        (
            ["--service", ":0", "b:1?tlv=pass:0xEA%2Bawss"],
            f"tlv= takes {TLV}, not 'pass:0xEA+awss': expected a number of 0 to 255, such as 0xE2, or a name: unknown "
            "type awss; did you mean aws?\n",
        ),
        (
            ["--service", ":0", "b:1?tlv=0x1E1:x"],
            f"tlv= takes {TLV}, not '0x1E1:x': expected a number of 0 to 255, such as 0xE2, or a name: unknown type ",
        ),
        (
            ["--service", ":0", "b:1?tlv=0xE1:0x1"],
            f"tlv= takes {TLV}, not '0xE1:0x1': expected pairs of hexadecimal digits after 0x, not '1'\n",
        ),
        (
            ["--service", ":0", "b:1?tlv=0xE1:a,225:b"],
            f"tlv= takes {TLV}, not '225:b': the type 0xe1 is there twice; write it once\n",
        ),
        (
            ["--service", ":0", "b:1?tlv=crc32c:0x01020304"],
            f"tlv= takes {TLV}, not 'crc32c:0x01020304': the relay computes the CRC32C itself\n",
        ),
        (
            ["--service", ":0", "b:1?tlv=ssl:x"],
            f"tlv= takes {TLV}, not 'ssl:x': The SSL TLV has 1 bytes, fewer than 5",
        ),
        (
            ["--service", ":0", "b:1?tlv=drop,pass:0xEA"],
            "tlv=drop,pass:0xEA contradicts itself: drop leaves out the TLVs that pass: passes on\n",
        ),
        (["--service", ":0", "b:1?tlv=none,0xEA:x"], "tlv=none,0xEA:x contradicts itself: none adds nothing\n"),
        (
            ["--service", ":0", "b:1?tlv=0xEA:x&pp=v1"],
            "tlv=0xEA:x needs version 2 (pp=v2): only its header has TLVs\n",
        ),
        (["--service", ":0?alpn=h2", "b:1"], "':0?alpn=h2': alpn= is an option for ssl:// addresses\n"),
        (
            ["--service", ":0", "ssl://b:1?alpn=h2,"],
            "alpn= takes names of protocols, such as h2,http/1.1, not 'h2,'\n",
        ),
        (
            ["--service", ":0", "b:1?tlv=ssl&pp=v1"],
            "tlv=ssl needs version 2 (pp=v2): only its header has TLVs",
        ),
        (["--service", ":0", "b:1?transparent=1"], "transparent= takes yes or no, not '1'\n"),
        (
            ["--service", ":0", "unix:/x?transparent=yes"],
            "transparent=yes needs a destination HOST:PORT, not unix:/x\n",
        ),
        (["--service", ":0", "b:1?tlv=client-cert"], "tlv=client-cert is part of ssl: write tlv=ssl,client-cert"),
        (["--service", ":0?accept=v3", "b:1"], "accept= takes noop, detect, v1 or v2, not 'v3'"),
        (["--service", ":0?pp=v3", "b:1"], "pp= takes noop, detect, v1 or v2, not 'v3'"),
        (["--service", ":0", "b:1?accept=v3"], "accept= takes noop, detect, v1 or v2, not 'v3'"),
        (
            ["--service", ":0?pp=v2&accept=v2", "b:1"],
            "':0?pp=v2&accept=v2': accept= and pp= mean the same; write one of them\n",
        ),
        (
            ["--service", ":0?accept=v2&trust=::1", "b:1"],
            "':0?accept=v2&trust=::1': unknown option trust; did you mean trusted?\n",
        ),
        (
            ["--service", ":0?accept=v2&trusted=::1&trusted=any", "b:1"],
            "':0?accept=v2&trusted=::1&trusted=any': trusted= is there 2 times; write it once\n",
        ),
        (["--service", ":0?Accept=v2", "b:1"], "':0?Accept=v2': unknown option Accept; did you mean accept?\n"),
        (["--service", ":0", "b:1?xyz=1"], "'b:1?xyz=1': unknown option xyz; known are accept, pp, tlv, transparent\n"),
        (
            ["--service", ":0", "b:1?trusted=::1"],
            "'b:1?trusted=::1': trusted= is an option for the address to listen on\n",
        ),
        (["--service", ":0?tlv=ssl", "b:1"], "':0?tlv=ssl': tlv= is an option for the address to connect to\n"),
        (
            ["--service", ":0?accept=v2&trusted=10.1.2.3/8", "b:1"],
            "trusted takes networks, addresses and unix, with commas between them, @FILE, or any: A trusted proxy is "
            "an address, a network without host bits, or 'unix', not '10.1.2.3/8' (it has host bits set; did you mean "
            "10.0.0.0/8?)\n",
        ),
        (
            ["--service", ":0?accept=v2&trusted=@/nowhere", "b:1"],
            "trusted takes networks, addresses and unix, with commas between them, @FILE, or any: [Errno 2] No such "
            "file or directory: '/nowhere'\n",
        ),
        (
            ["--service", ":0?accept=v2&trusted=any&untrusted=direct", "b:1"],
            "untrusted means nothing with trusted=any\n",
        ),
        (
            ["--service", ":0?accept=noop&timeout=1", "b:1"],
            "timeout= is an option for headers, but accept=noop expects none",
        ),
        (["--service", ":0?trusted=::1", "b:1"], f"trusted= is an option for headers, {UNEXPECTED}"),
        (["--service", ":0?timeout=1", "b:1"], f"timeout= is an option for headers, {UNEXPECTED}"),
        (
            ["--service", ":0?tls_timeout=1", "b:1"],
            "':0?tls_timeout=1': tls_timeout= is an option for ssl:// addresses",
        ),
        (["--service", "ssl://:0?tls_timeout=0", "b:1"], "tls_timeout= takes a number of seconds above 0, not '0'"),
        (
            ["--service", ":0?accept=v1&untrusted=direct", "b:1"],
            "untrusted needs trusted, which names the proxies to trust",
        ),
        (["--service", ":0?backlog=0", "b:1"], "backlog= takes a number of connections, at least 1, not '0'"),
        (["--service", ":0?reuse_port=1", "b:1"], "reuse_port= takes yes or no, not '1'"),
        (["--service", "ssl://:0", "b:1"], "'ssl://:0' needs cert=, the file with the server's certificate"),
        (
            ["--service", ":0", "ssl://b:1?key=x"],
            "'ssl://b:1?key=x' has key= but lacks cert=, the file with the certificate",
        ),
        (
            ["--service", "ssl://:0?cert=/nowhere", "b:1"],
            "cert=/nowhere cannot be read: No such file or directory",
        ),
        (
            ["--service", ":0", "ssl://b:1?capath=/nowhere"],
            "capath=/nowhere cannot be read: No such file or directory",
        ),
        (["--service", "nowhere.invalid:1", "b:1"], "The host of nowhere.invalid:1 has no address: "),
        (["--service", "192.0.2.1:1", "b:1"], "Cannot listen on 192.0.2.1:1: Cannot assign requested address"),
        (["--workers", "0"], f"--workers takes a number from 1 to 256, not '0' {HELP}"),
        (["--buf-len", "1"], f"--buf-len takes a number of bytes from 4096 to 16777216, not '1' {HELP}"),
        (["--drain", "nan"], f"--drain takes a number of seconds, not 'nan' {HELP}"),
        (
            ["--metrics", "x", "--service", ":0", "b:1"],
            "--metrics takes PORT, HOST:PORT or [IPV6]:PORT, not ",
        ),
        (
            ["--metrics", "unix:/x", "--service", ":0", "b:1"],
            "--metrics takes PORT, HOST:PORT or [IPV6]:PORT, not ",
        ),
        (
            ["--metrics", "nowhere.invalid:1", "--service", ":0", "b:1"],
            "--metrics: The host of nowhere.invalid:1 has no address: ",
        ),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"proxyprotocol-server: {sentence}")
    assert error.count("\n") == 1


def test_a_file_without_a_certificate_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem = tmp_path / "cert.pem"
    pem.write_text("nothing")
    assert main(["--service", f"ssl://:0?cert={pem}", "b:1"]) == 2
    assert capsys.readouterr().err.startswith(f"proxyprotocol-server: The certificate {pem} cannot be used: ")


def test_verifying_clients_needs_authorities(certificates: Certificates, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--service", f"ssl://:0?cert={certificates.server}&verify=cert_required", "b:1"]) == 2
    assert "needs cafile= or capath=, the certificates of the authorities to trust" in capsys.readouterr().err


def test_a_port_in_use_says_so(relaying: Relaying, capsys: pytest.CaptureFixture[str]) -> None:
    taken = relaying.backend().address
    assert main(["--service", taken, "b:1"]) == 2
    assert capsys.readouterr().err == f"proxyprotocol-server: Cannot listen on {taken}: Address already in use\n"
    assert main(["--metrics", taken, "--service", "127.0.0.1:0", "b:1"]) == 2
    assert (
        capsys.readouterr().err
        == f"proxyprotocol-server: --metrics: Cannot listen on {taken}: Address already in use\n"
    )


def test_metrics_without_their_library_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["--metrics", "0", "--service", "127.0.0.1:0", "b:1"]) == 2
    assert "the extra proxyprotocol[metrics] installs it" in capsys.readouterr().err


def test_a_system_without_transparent_sockets_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["--service", ":0", "b:1?transparent=yes"]) == 2
    assert capsys.readouterr().err == (
        "proxyprotocol-server: transparent=yes needs Linux and its IP_TRANSPARENT, which darwin does not have\n"
    )
