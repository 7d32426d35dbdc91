"""`proxyprotocol check` against real servers: ours, Python's own, and small ones that imitate other projects."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyprotocol import ProxyProtocolError, ProxyResultType
from proxyprotocol.result import describe_address
from proxyprotocol.sync import read_header
from tests.cli.commands import Ran, run
from tests.interop._applications import running, twistd
from tests.interop._certificates import make_certificates

PATIENCE = 20.0  # seconds; every wait takes a fraction of one, unless the machine is very busy
QUICK = ("--timeout", "0.3")  # for servers that never answer
PATIENT = ("--timeout", "2")  # for those that answer some headers only

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def serving(serve: Serve, host: str = "127.0.0.1") -> Iterator[str]:
    """Run a server that serves one connection after the other, and yield its address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:

        def accept() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                connection.settimeout(PATIENCE)
                with connection, contextlib.suppress(OSError, ProxyProtocolError):
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield describe_address(listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


@contextlib.contextmanager
def twisted_web(directory: Path, *options: str) -> Iterator[str]:
    """Run a web server of Twisted on our endpoint, and yield its address."""
    listen = ":".join(("proxyprotocol:tcp:0:interface=127.0.0.1", *options))
    with running(twistd("web", "--listen", listen, "--path", str(directory)), directory) as server:
        yield f"127.0.0.1:{server.ports[0]}"


def outcomes(ran: Ran) -> dict[str, str]:
    """Return the outcome for each kind of header."""
    return dict(re.findall(r"^  (\w.*?)  +(.*)$", ran.text, re.MULTILINE))


@pytest.fixture
def silent_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a greeting: the servers of these tests never speak first, and each would cost a second."""
    monkeypatch.setattr("proxyprotocol.cli.check._FIRST_WORD", 0.05)  # no option sets it


# Real servers


@pytest.mark.usefixtures("silent_at_first")
def test_our_own_endpoint_wants_a_header_and_takes_every_one(tmp_path: Path) -> None:
    with twisted_web(tmp_path) as server:
        ran = run("check", server)
    assert (ran.status, ran.errors) == (0, "")
    assert "It wants a header, and takes versions 1 and 2." in ran.text
    assert "LOCAL, which health checks send: served too." in ran.text
    assert "UNKNOWN, for clients without an IP address: served too." in ran.text
    seen = outcomes(ran)
    assert len(seen) == 7
    assert all("answered 'HTTP/1.1 " in seen[name] for name in ("version 1", "version 2", "version 2, LOCAL"))
    assert all("connection" in seen[name] for name in ("without a header", "version 1, wrong", "version 2, wrong"))


@pytest.mark.usefixtures("silent_at_first")
@pytest.mark.parametrize(("version", "other"), [(1, 2), (2, 1)])
def test_a_server_may_take_one_version_only(tmp_path: Path, version: int, other: int) -> None:
    with twisted_web(tmp_path, f"ppVersion=v{version}") as server:
        ran = run("check", server)
    assert ran.status == 0
    assert f"takes version {version} only" in ran.text
    assert f"A wrong header of version {other}" not in ran.text


@pytest.mark.usefixtures("silent_at_first")
def test_pythons_own_server_wants_no_header(tmp_path: Path) -> None:
    server_class = http.server.ThreadingHTTPServer
    handler = type("Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *arguments: None})
    with server_class(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        ran = run("check", f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join(PATIENCE)
    assert ran.status == 1
    assert "It wants no header" in ran.text
    assert outcomes(ran)["without a header"] == "answered 'HTTP/1.0 200 OK'"


# Servers that behave like those of other projects


def greeting(connection: socket.socket) -> None:
    """Speak first, and complain of every line, as mail servers do."""
    connection.sendall(b"220 mail.example ESMTP\r\n")
    for _ in connection.makefile("rb"):
        connection.sendall(b"500 what?\r\n")


def greeting_after_a_header(connection: socket.socket) -> None:
    read_header(connection, trusted="any")
    greeting(connection)


def test_a_server_that_speaks_first_wants_no_header() -> None:
    with serving(greeting) as server:
        ran = run("check", server, *PATIENT)
    assert ran.status == 1
    assert "It wants no header" in ran.text
    assert outcomes(ran)["without a header"] == "answered '220 mail.example ESMTP'"


def test_a_server_that_speaks_first_after_a_header_wants_one() -> None:
    with serving(greeting_after_a_header) as server:
        ran = run("check", server, "--send", "", *PATIENT)
    assert ran.status == 0
    assert "It wants a header, and takes versions 1 and 2. Without one it did not answer in time." in ran.text


def has_header(connection: socket.socket) -> bool:
    try:
        return read_header(connection, trusted="any") is not None
    except ProxyProtocolError:
        return False


def refusing_in_words(connection: socket.socket) -> None:
    """Without a header, answer with a sentence and close, as Postfix does."""
    if has_header(connection):
        greeting(connection)
    else:
        connection.sendall(b"421 4.3.0 mail.example Server local error\r\n")


def refusing_later(connection: socket.socket) -> None:
    """Greet every client, and refuse each command of a client without a header, as Exim does."""
    answer = b"500 what?\r\n" if has_header(connection) else b"503 Proxy negotiation failed\r\n"
    connection.sendall(b"220 mail.example ESMTP\r\n")
    for _ in connection.makefile("rb"):
        connection.sendall(answer)


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (refusing_in_words, "421 4.3.0 mail.example Server local error"),
        (refusing_later, "503 Proxy negotiation failed"),
    ],
)
def test_a_refusal_in_words_is_a_refusal(serve: Serve, said: str) -> None:
    """The command said that they serve clients without a header."""
    with serving(serve) as server:
        ran = run("check", server, *PATIENT)
    assert ran.status == 0, ran
    assert f"It wants a header, and takes versions 1 and 2. Without one it answered '{said}" in ran.text


def test_a_limit_on_connections_does_not_look_like_a_wish_for_headers() -> None:
    connections = itertools.count()

    def tiring(connection: socket.socket) -> None:
        if next(connections) < 4:  # the silent connection, and those up to the first wrong header
            greeting(connection)
        connection.sendall(b"421 too many connections\r\n")

    with serving(tiring) as server:
        ran = run("check", server, *PATIENT)
    assert ran.status == 1
    assert "It answers the same bytes differently each time: no conclusion is possible." in ran.text


def binary(connection: socket.socket) -> None:
    """Greet in binary, take a header if one comes, and drop a wrong one, as MariaDB does."""
    connection.sendall(b"d\0\0\0\n5.5.5\n")
    read_header(connection, trusted="any")
    connection.recv(65536)


def test_the_end_of_a_connection_tells_binary_answers_apart() -> None:
    with serving(binary) as server:
        ran = run("check", server, *PATIENT)
    assert ran.status == 0
    assert "It takes a header, versions 1 and 2, and connections without one too." in ran.text


def echo(connection: socket.socket) -> None:
    connection.sendall(connection.recv(65536))


@pytest.mark.usefixtures("silent_at_first")
def test_send_chooses_the_text_after_the_header() -> None:
    with serving(echo) as server:
        ran = run("check", server, "--send", r"\x41\r\nB")
    assert ran.status == 1
    assert "It wants no header" in ran.text
    assert outcomes(ran)["without a header"] == "answered 'A'"


@pytest.mark.usefixtures("silent_at_first")
def test_a_server_that_answers_headers_like_data_takes_none() -> None:
    with serving(echo) as server:
        ran = run("check", server, "--send", "", *QUICK)
    assert ran.status == 1
    assert "It takes no header: its answers show that it treats headers as client data." in ran.text


def optional(connection: socket.socket) -> None:
    """Take a header if one comes."""
    begin = connection.recv(1, socket.MSG_PEEK)
    if begin in (b"P", b"\r"):
        read_header(connection, trusted="any")
    connection.recv(65536)
    connection.sendall(b"hello\n")


@pytest.mark.usefixtures("silent_at_first")
def test_it_warns_of_a_server_that_takes_connections_with_and_without_a_header() -> None:
    with serving(optional) as server:
        ran = run("check", server)
    assert ran.status == 0
    assert "It takes a header, versions 1 and 2, and connections without one too." in ran.text
    assert "it should trust only its proxies" in ran.text


def only_proxied(connection: socket.socket) -> None:
    """Serve only PROXY headers with a client, so health checks get no answer."""
    result = read_header(connection, trusted="any")
    if result is not None and result.source is not None:
        echo(connection)


@pytest.mark.usefixtures("silent_at_first")
def test_it_says_that_a_server_serves_no_health_checks() -> None:
    with serving(only_proxied) as server:
        ran = run("check", server)
    assert ran.status == 0
    assert "LOCAL, which health checks send: not served, it " in ran.text
    assert "UNKNOWN, for clients without an IP address: not served, it " in ran.text


def constant(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"busy\n")


def dropping(connection: socket.socket) -> None:
    """Close every connection, like a server that trusts only its proxies."""


def resetting(connection: socket.socket) -> None:
    """Reset each connection at once, as a firewall or an overloaded server does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_a_reset_before_the_client_sends_is_an_answer(tls: list[str]) -> None:
    with serving(resetting) as server:
        for _ in range(5):  # the reset may or may not come while the client connects
            ran = run("check", server, *QUICK, *tls)
            assert (ran.status, ran.errors) == (1, "")
            assert set(outcomes(ran).values()) == {"reset the connection without a word"}
            assert "If it trusts only its proxies, run this on one of them" in ran.text


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        (constant, "It answers everything the same: no conclusion is possible"),
        (dropping, "If it trusts only its proxies, run this on one of them"),
        (silent, "It may want other bytes after the header"),
    ],
)
def test_it_says_that_no_conclusion_is_possible(serve: Serve, said: str) -> None:
    with serving(serve) as server:
        ran = run("check", server, *QUICK)
    assert ran.status == 1
    assert "no conclusion is possible" in ran.text
    assert said in ran.text


def nasty(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x1b[31mred\x9b\n")


@pytest.mark.usefixtures("silent_at_first")
def test_control_characters_in_an_answer_are_escaped() -> None:
    with serving(nasty) as server:
        ran = run("check", server)
    assert all(line.isprintable() for line in ran.text.splitlines())


@pytest.mark.usefixtures("silent_at_first")
def test_an_answer_is_escaped_once() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"caf\xe9 na\xc3\xafve\x1b C:\\temp\n")

    with serving(serve) as server:
        ran = run("check", server)
    assert outcomes(ran)["without a header"] == r"answered 'caf\xe9 naïve\x1b C:\\temp'"


def dripping(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


def flooding(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65536)


@pytest.mark.parametrize("serve", [dripping, flooding])
@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_no_server_can_hold_it_for_long(serve: Serve, tls: list[str]) -> None:
    begun = time.monotonic()
    with serving(serve) as server:
        ran = run("check", server, *QUICK, *tls)
    assert time.monotonic() - begun < PATIENCE
    assert ran.errors == ""


# TLS


@pytest.fixture(scope="module")
def tls_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    return context


def shake_hands(connection: socket.socket, context: ssl.SSLContext) -> None:
    with context.wrap_socket(connection, server_side=True) as tls:
        tls.recv(65536)


@pytest.mark.usefixtures("silent_at_first")
def test_it_speaks_tls_after_a_header(tls_context: ssl.SSLContext) -> None:
    def serve(connection: socket.socket) -> None:
        read_header(connection, trusted="any")
        shake_hands(connection, tls_context)

    with serving(serve) as server:
        ran = run("check", server, "--tls")
    assert ran.status == 0
    assert "It wants a header, and takes versions 1 and 2." in ran.text
    assert outcomes(ran)["version 2"] == "TLS was agreed upon"


@pytest.mark.usefixtures("silent_at_first")
def test_a_tls_server_may_want_no_header(tls_context: ssl.SSLContext) -> None:
    with serving(lambda connection: shake_hands(connection, tls_context)) as server:
        ran = run("check", server, "--tls")
    assert ran.status == 1
    assert "It wants no header" in ran.text


@pytest.mark.usefixtures("silent_at_first")
def test_it_says_that_a_server_does_not_speak_tls() -> None:
    with serving(constant) as server:
        ran = run("check", server, "--tls")
    assert ran.status == 1
    assert "try without --tls" in ran.text


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("nothing",),
            "HOST:PORT takes a name or an address and a port, such as localhost:8080 or [::1]:8080, not 'nothing'",
        ),
        (("a:0",), "not 'a:0'"),
        (("a:65536",), "not 'a:65536'"),
        (("::1:80",), "not '::1:80'; did you mean [::1]:80?"),
        (("http://a:8080/x",), "not 'http://a:8080/x'; did you mean a:8080?"),
        (("https://a/",), "not 'https://a/'; did you mean a:443?"),
        (("http://",), "not 'http://'"),
        (("",), "not ''"),
        (("a:80", "--timeout", "0"), "a number of seconds above 0"),
        (("a:80", "--timeout", "soon"), "a number of seconds above 0"),
        (("a:80", "--timeout", "nan"), "a number of seconds above 0"),
        (("a:80", "--timeout", "-1"), "a number of seconds above 0"),
        (("a:80", "--timeout", "1e5"), "up to 10000, not '1e5'"),
        (("a..b:80",), "a..b"),
        (("\u00ff" * 70 + ":80",), "is not a valid host name"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    ran = run("check", *arguments)
    assert (ran.status, ran.output) == (2, b"")
    assert said in ran.errors
    assert len(ran.errors.splitlines()) == 1


@pytest.mark.usefixtures("silent_at_first")
@pytest.mark.parametrize("seconds", ["1e1", ".5", "2", "9999.5"])
def test_seconds_are_written_as_for_the_relay(seconds: str) -> None:
    with serving(echo) as server:
        assert run("check", server, "--timeout", seconds).errors == ""


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ran = run("check", f"127.0.0.1:{port}")
    assert (ran.status, ran.output) == (2, b"")
    assert ran.errors == f"proxyprotocol: Cannot connect to 127.0.0.1:{port}: Connection refused\n"


@pytest.mark.usefixtures("silent_at_first")
def test_a_server_is_asked_over_ipv6() -> None:
    families = set()

    def serve(connection: socket.socket) -> None:
        result = read_header(connection, trusted="any")
        families.add(None if result is None else result.type)
        echo(connection)

    with serving(serve, "::1") as server:
        ran = run("check", server)
    assert ran.status == 0
    assert "takes versions 1 and 2" in ran.text
    assert families == {ProxyResultType.IPv6, ProxyResultType.LOCAL, ProxyResultType.UNKNOWN}
