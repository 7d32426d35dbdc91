"""Servers of the standard library behind a proxy: handlers see the client, and a bad peer harms no other."""

from __future__ import annotations

import logging
import select
import socket
import socketserver
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolNoop, Receiver, TrustedProxies
from proxyprotocol.sync import ProxyProtocolMixIn
from tests.interop._certificates import Certificates
from tests.interop._programs import Program, connect, wait_for
from tests.sockets.servers import (
    CLIENT,
    DESTINATION,
    FAMILIES,
    HEADER,
    PATIENCE,
    SHORT,
    TLSClient,
    dripping,
    free_address,
    reset,
)
from tests.vectors import IPV4_BLOCK, IPV6_BLOCK, LOCAL, PROXY, paths, single_bytes, tlv, v2


class Handler(socketserver.StreamRequestHandler):
    """Answers the first line, and records what it knows about its client."""

    def handle(self) -> None:
        self.facts = self.request.getpeername(), self.request.gettimeout()
        self.result = self.server.proxy_result(self.request)  # type: ignore[attr-defined]
        self.server.handlers.append(self)  # type: ignore[attr-defined]
        self.line = self.rfile.readline()
        self.wfile.write(b"answer to " + self.line)


class _Base(socketserver.TCPServer):
    """Listens on an address of any family, and records its handlers and errors."""

    request_queue_size = 50

    def __init__(self, address: Any, handler: Any = Handler) -> None:
        self.handlers: list[Any] = []
        self.errors: list[BaseException | None] = []
        if isinstance(address, str):
            self.address_family = socket.AF_UNIX
        elif ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    @property
    def address(self) -> Any:
        """The address to connect to."""
        name = self.socket.getsockname()
        return name if isinstance(name, str) else name[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors.append(sys.exc_info()[1])

    @property
    def handler(self) -> Any:
        """The only handler that has run."""
        wait_for(lambda: len(self.handlers) == 1)
        return self.handlers[0]


class Server(ProxyProtocolMixIn, socketserver.ThreadingMixIn, _Base):
    """A server with a thread for each connection, which it joins when it is closed."""

    receiver = Receiver(trusted="any")


@contextmanager
def serving(
    server: type[_Base] = Server, family: str = "IPv4", handler: Any = Handler, **attributes: Any
) -> Iterator[Any]:
    """Run a server with these class attributes; at the end no thread is left, and no error was raised."""
    threads = threading.active_count()
    with free_address(family) as address, type("Configured", (server,), attributes)(address, handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join(PATIENCE)
            running.server_close()  # waits for the threads of its connections
    deadline = time.monotonic() + PATIENCE  # the cancelled timer of the log takes a moment to end
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == threads
    assert running.errors == []


def ask(address: Any, header: bytes = HEADER, pieces: Callable[[bytes], list[bytes]] = lambda data: [data]) -> bytes:
    """Send a header and a line, and return the whole answer."""
    with connect(address) as client:
        for piece in pieces(header + b"hello\n"):
            client.sendall(piece)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """Receive until the connection ends in any way."""
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


def refusals(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """Return the log lines of a level; none of them may have a traceback."""
    records = [record for record in caplog.records if record.name.startswith("proxyprotocol")]
    assert all(record.exc_info is None for record in records)
    return [record.getMessage() for record in records if record.levelno == level]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pieces", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
def test_a_handler_gets_the_client_and_the_header(family: str, pieces: Any) -> None:
    header = v2(PROXY, 0x11, IPV4_BLOCK, tlv(0x02, b"app.example"))
    with serving(family=family) as server:
        assert ask(server.address, header, pieces) == b"answer to hello\n"

        assert server.handler.client_address == CLIENT
        assert server.handler.result.sockname == DESTINATION
        assert server.handler.result.tlv.authority == "app.example"


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (v2(PROXY, 0x21, IPV6_BLOCK), ("2001:db8::1", 1000, 0, 0)),
        (v2(PROXY, 0x31, paths(b"/run/client", b"/run/server")), "/run/client"),
    ],
)
def test_the_client_has_an_address_of_its_own_family(header: bytes, client: Any) -> None:
    with serving() as server:
        ask(server.address, header)

        assert server.handler.client_address == client


@pytest.mark.parametrize(
    ("receiver", "header"),
    [
        (Receiver(), v2(LOCAL, 0x11, IPV4_BLOCK)),
        (Receiver(), b"PROXY UNKNOWN\r\n"),
        (Receiver(policy=HeaderPolicy.IGNORE), HEADER),
        (Receiver(policy=HeaderPolicy.OPTIONAL), b""),
        (Receiver(policy=HeaderPolicy.SKIP), b""),
        (Receiver(ProxyProtocolNoop()), b""),
        (Receiver(policy=TrustedProxies(["192.0.2.0/24"], otherwise=HeaderPolicy.SKIP)), b""),
    ],
)
def test_if_no_header_names_the_client_it_is_the_peer(receiver: Receiver, header: bytes) -> None:
    with serving(receiver=receiver) as server, connect(server.address) as client:
        client.sendall(header + b"hello\n")

        assert read_all(client) == b"answer to hello\n"
        assert server.handler.client_address == client.getsockname()
        assert (server.handler.result is None) == (header == b"")


def test_the_request_is_the_real_connection() -> None:
    with serving() as server, connect(server.address) as client:
        client.sendall(HEADER + b"hello\n")

        assert server.handler.facts == (client.getsockname(), None)
        read_all(client)


@pytest.mark.parametrize(
    "bases", [(ProxyProtocolMixIn, _Base), (socketserver.ThreadingMixIn, ProxyProtocolMixIn, _Base)]
)
def test_the_mix_in_works_alone_and_after_the_threading_mix_in(bases: tuple[type, ...]) -> None:
    with serving(type("Other", bases, {})) as server:
        assert ask(server.address) == b"answer to hello\n"
        assert server.handler.client_address == CLIENT


FORKING = """if True:
    import socketserver, sys
    from proxyprotocol import Receiver
    from proxyprotocol.sync import ProxyProtocolMixIn

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(f"{self.client_address} ".encode() + self.rfile.readline())

    class Server(ProxyProtocolMixIn, socketserver.ForkingMixIn, socketserver.TCPServer):
        receiver = Receiver(trusted=["127.0.0.0/8", "!127.0.0.9"], timeout=20)

        def service_actions(self):
            super().service_actions()
            if len(self._connections):  # private: no public name shows what the parent keeps
                sys.exit("the parent keeps what belongs to its children")

    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1])
        server.serve_forever(0.01)
"""


def test_a_server_that_forks_reads_the_header_in_the_child(tmp_path: Path) -> None:
    # in a separate process: it is not safe to fork one that has threads
    program = Program([sys.executable, "-c", FORKING], tmp_path)
    try:
        address = ("127.0.0.1", int(program.line()))
        with connect(address) as silent, connect(address) as wrong:
            silent.sendall(HEADER[:10])
            wrong.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(3):
                assert ask(address) == f"{CLIENT} hello\n".encode()
            assert read_all(wrong) == b""
            silent.sendall(HEADER[10:] + b"late\n")
            assert read_all(silent) == f"{CLIENT} late\n".encode()
        assert program.running()
    finally:
        log = program.stop()
    assert log.startswith("Refused a connection from 127.0.0.1:")
    assert log.count("\n") == 1


# Peers


def test_silent_peers_block_no_others_until_their_time_out(caplog: pytest.LogCaptureFixture) -> None:
    with serving(receiver=Receiver(trusted="any", timeout=SHORT * 5)) as server:
        silent = [connect(server.address) for _ in range(10)]
        assert ask(server.address) == b"answer to hello\n"
        assert refusals(caplog) == []

        for client in silent:
            assert read_all(client) == b""
            client.close()
    (_, *lines) = sorted(refusals(caplog))
    assert len(lines) == 9
    assert ": No complete PROXY protocol header came within 1 seconds, only 0 bytes; if 127.0.0.1 is your" in lines[0]
    assert [handler.line for handler in server.handlers] == [b"hello\n"]


def test_a_dripping_peer_gets_no_more_time(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(receiver=Receiver(trusted="any", timeout=SHORT)) as server,
        connect(server.address) as client,
        dripping(client, single_bytes(b"PROXY UNKNOWN " + b"x" * 90), SHORT / 10),
    ):
        assert read_all(client) == b""
    assert len(refusals(caplog)) == 1
    assert server.handlers == []


def test_other_data_is_refused_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server, connect(server.address) as client:
        host, port = client.getsockname()
        client.sendall(b"GET / HTTP/1.1\r\n\x1b[2J")
        assert read_all(client) == b""
    (line,) = refusals(caplog)
    assert line == (
        f"Refused a connection from {host}:{port} on 127.0.0.1:{server.server_address[1]}: There is no PROXY protocol "
        "header: the data begins with b'GET / HTTP/1.1\\r\\n' (at byte 0); if 127.0.0.1 is your proxy, make it send "
        "the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see policy"
    )
    assert server.handlers == []


@pytest.mark.parametrize("lose", [socket.socket.close, reset])
def test_a_check_that_connects_and_leaves_is_only_a_debug_line(caplog: pytest.LogCaptureFixture, lose: Any) -> None:
    caplog.set_level(logging.DEBUG)
    with serving() as server:
        lose(connect(server.address))
        wait_for(lambda: refusals(caplog, logging.DEBUG) != [])
    assert refusals(caplog) == []
    assert server.handlers == []


def test_a_check_that_resets_after_its_header_is_only_a_debug_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving() as server:
        client = connect(server.address)
        client.sendall(v2(LOCAL, 0x00))
        assert server.handler
        reset(client)
        wait_for(lambda: refusals(caplog, logging.DEBUG) != [])
    (line,) = refusals(caplog, logging.DEBUG)
    assert line.startswith("The connection from 127.0.0.1:")
    assert refusals(caplog) == []


def test_the_loss_of_another_connection_is_the_handlers_error() -> None:
    lost = ConnectionResetError("the database's")

    class Losing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise lost

    with serving(handler=Losing) as server:
        assert ask(server.address) == b""
        wait_for(lambda: server.errors == [lost])
        server.errors.clear()


# Policies


def test_a_rejected_peer_costs_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Counting(Server):
        processed = 0

        def process_request(self, request: Any, client_address: Any) -> None:
            self.processed += 1
            super().process_request(request, client_address)

    with serving(Counting, receiver=Receiver(policy=TrustedProxies(["192.0.2.0/24"]))) as server:
        assert ask(server.address) == b""
        assert ask(server.address) == b""
    assert server.processed == 0
    lines = [line.partition(f" on 127.0.0.1:{server.server_address[1]}: ")[2] for line in refusals(caplog)]
    assert lines == ["The peer is not one of the trusted proxies; if it is your proxy, add it to trusted"] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_function_is_called_once_with_both_addresses(family: str) -> None:
    asked = []

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        asked.append((peer, local))
        return HeaderPolicy.REQUIRE

    with serving(family=family, receiver=Receiver(policy=policy)) as server, connect(server.address) as client:
        names = client.getsockname(), client.getpeername()
        client.sendall(HEADER + b"hello\n")
        assert read_all(client) == b"answer to hello\n"
    assert asked == [names]


def test_a_policy_function_that_raises_ends_one_connection_and_not_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mistake = LookupError()

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        raise mistake

    with serving(receiver=Receiver(policy=policy)) as server:
        for _ in range(2):
            assert ask(server.address) == b""
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info and record.exc_info[1] for record in errors] == [mistake] * 2
    assert "The server's policy function raised LookupError()" in errors[0].getMessage()


def test_the_servers_own_verification_runs_too() -> None:
    class Verifying(socketserver.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    class Both(Server, Verifying):
        pass

    with serving(Both) as server:
        assert ask(server.address) == b""
    assert server.handlers == []


@pytest.mark.parametrize("networks", [["192.0.2.0/24"], ["127.0.0.0/8"]])
def test_an_override_of_verify_request_does_not_bypass_the_policy(networks: list[str]) -> None:
    class Instead(Server):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return True

    with serving(Instead, receiver=Receiver(policy=TrustedProxies(networks))) as server:
        trusted = networks == ["127.0.0.0/8"]
        assert ask(server.address) == (b"answer to hello\n" if trusted else b"")
        assert not trusted or server.handler.result.peername == CLIENT


def test_a_peer_that_is_gone_before_accept_causes_no_pause(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(socketserver.TCPServer):
        def get_request(self) -> Any:
            raise BlockingIOError

    class Server(ProxyProtocolMixIn, Gone):
        pass

    with Server(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server, pytest.raises(BlockingIOError):
        server.get_request()
    assert len(caplog.messages) == 1  # the start line


def test_a_datagram_server_is_a_type_error() -> None:
    class Datagrams(ProxyProtocolMixIn, socketserver.UDPServer):
        pass

    with pytest.raises(TypeError, match="unpack_datagram"):
        Datagrams(("127.0.0.1", 0), Handler)


def test_nothing_is_kept_of_a_closed_connection() -> None:
    requests = []

    class Noting(Server):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            requests.append(weakref.ref(request))
            return super().verify_request(request, client_address)

    with serving(Noting, handler=socketserver.BaseRequestHandler) as server:
        for header in (HEADER, b"wrong"):
            ask(server.address, header)
        wait_for(lambda: [request() for request in requests] == [None, None])


# TLS after the header


@contextmanager
def tls_serving(certificates: Certificates, **attributes: Any) -> Iterator[Any]:
    with serving(tls_context=certificates.server_context(), **attributes) as server:
        yield server


def test_tls_begins_after_the_header_even_if_the_client_hello_came_with_it(certificates: Certificates) -> None:
    with tls_serving(certificates) as server, connect(server.address) as client:
        tls = TLSClient(client, certificates)
        client.sendall(HEADER + tls.greeting())
        tls.shake_hands(b"hello\n")

        assert tls.read() == b"answer to hello\n"
        assert server.handler.client_address == CLIENT
        assert server.handler.result.peername == CLIENT
        assert isinstance(server.handler.request, ssl.SSLSocket)
        assert server.handler.facts == (client.getsockname(), None)


@pytest.mark.parametrize("receiver", [Receiver(policy=HeaderPolicy.OPTIONAL), Receiver(policy=HeaderPolicy.SKIP)])
def test_tls_begins_without_a_header_if_the_policy_allows_that(certificates: Certificates, receiver: Receiver) -> None:
    with tls_serving(certificates, receiver=receiver) as server, connect(server.address) as client:
        tls = TLSClient(client, certificates)
        client.sendall(tls.greeting())
        tls.shake_hands(b"hello\n")

        assert tls.read() == b"answer to hello\n"
        assert server.handler.client_address == client.getsockname()


def test_an_answer_that_fills_every_buffer_ends_with_close_notify(certificates: Certificates) -> None:
    handled = threading.Event()

    class Long(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            self.wfile.write(b"x" * 150_000)
            # then there is no room for another byte until the client reads
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            handled.set()

    with tls_serving(certificates, family="UNIX", handler=Long) as server, connect(server.address) as client:
        tls = TLSClient(client, certificates)
        client.sendall(HEADER + tls.greeting())
        tls.shake_hands(b"hello\n")
        assert handled.wait(PATIENCE)
        time.sleep(SHORT)  # nothing shows whether the server has tried to end TLS too early

        assert len(tls.read()) == 150_000


def test_a_client_that_keeps_its_connection_open_delays_nothing(certificates: Certificates) -> None:
    with tls_serving(certificates) as server, connect(server.address) as client:
        tls = TLSClient(client, certificates)
        client.sendall(HEADER + tls.greeting())
        tls.shake_hands(b"hello\n")
        assert tls.read() == b"answer to hello\n"
        begun = time.monotonic()
        server.shutdown()
        server.server_close()
        assert time.monotonic() - begun < server.tls_timeout / 2


@pytest.mark.parametrize("lose", [socket.socket.close, reset, lambda client: client.sendall(b"no TLS record" * 9)])
def test_a_peer_that_breaks_off_tls_is_only_a_debug_line(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, lose: Any
) -> None:
    """And the handler leaves no traceback, which would be in ``server.errors``."""
    caplog.set_level(logging.DEBUG)

    class Reading(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.request.recv(1 << 16):
                self.wfile.write(b"x" * (1 << 20))

    with tls_serving(certificates, handler=Reading) as server:
        client = connect(server.address)
        tls = TLSClient(client, certificates)
        client.sendall(HEADER + tls.greeting())
        tls.shake_hands(b"hello\n")
        client.recv(1)
        lose(client)
        server.shutdown()
        server.server_close()
        client.close()
        assert server.errors == []
        assert [record.levelname for record in caplog.records if "was lost" in record.getMessage()] in ([], ["DEBUG"])


def test_a_failed_answer_ends_without_close_notify(certificates: Certificates) -> None:
    mistake = LookupError()

    class Failing(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"half of the ans")
            raise mistake

    with tls_serving(certificates, handler=Failing) as server, connect(server.address) as client:
        tls = TLSClient(client, certificates)
        client.sendall(HEADER + tls.greeting())
        tls.shake_hands(b"hello\n")
        with pytest.raises((ssl.SSLEOFError, ConnectionError)):
            tls.read()
        wait_for(lambda: server.errors == [mistake])
        server.errors.clear()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_peer_that_is_silent_in_the_handshake_is_refused_at_the_time_out(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with tls_serving(certificates, tls_timeout=SHORT) as server, connect(server.address) as client:
        host, port = client.getsockname()
        client.sendall(HEADER + sent)
        assert read_all(client) == b""
    (line,) = refusals(caplog)
    assert line.startswith(
        f"Refused a connection from 192.0.2.1:1000, relayed by {host}:{port} on 127.0.0.1:{server.server_address[1]}: "
        "the TLS handshake failed: "
    )
    assert "timed out" in line
    assert server.handlers == []


def test_other_data_instead_of_tls_is_refused_with_one_line(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_serving(certificates) as server:
        assert b"answer" not in ask(server.address)
    (line,) = refusals(caplog)
    assert line.startswith("Refused a connection from 192.0.2.1:1000, relayed by 127.0.0.1:")
    assert server.handlers == []


@pytest.mark.parametrize("lose", [socket.socket.close, reset])
def test_a_peer_that_leaves_before_the_handshake_is_only_a_debug_line(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, lose: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    with tls_serving(certificates) as server:
        client = connect(server.address)
        client.sendall(HEADER)
        lose(client)
        wait_for(lambda: refusals(caplog, logging.DEBUG) != [])
    assert refusals(caplog) == []
    assert server.handlers == []


def test_a_peer_that_is_gone_before_tls_leaves_no_socket_open(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    class Late(Server):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            poll = select.poll()
            poll.register(request, 0)
            return bool(poll.poll(PATIENCE * 1000)) and super().verify_request(request, client_address)

    # Python warns about sockets that are left open
    with tls_serving(certificates, server=Late, receiver=Receiver(policy=HeaderPolicy.SKIP)) as server:
        reset(connect(server.address))
        wait_for(lambda: refusals(caplog, logging.DEBUG) != [])
    assert refusals(caplog) == []
