"""DNS block lists with dnspython, against a DNS server that answers, refuses, sends nonsense, or is silent."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import dns.asyncresolver
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from proxyprotocol.dnsbl import Dnsbl
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.sock import SocketInfo, SocketInfoProxy

PATIENCE = 10.0  # seconds; only a very busy machine needs more than a fraction of one
SHORT = 0.3  # seconds; for time-outs that a test waits for
DEFAULT = 5.0  # dnspython's own time-out

IPV6_DIGITS = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"

Answer = Callable[[dns.message.Message], list[bytes]]


class NameServer:
    """A DNS server on a UDP socket, in a thread of its own.

    Attributes:
        port: Where it listens.
        answer: Returns the datagrams that answer a question.
        questions: The names in the questions so far.
    """

    def __init__(self) -> None:
        self.answer: Answer = silence
        self.questions: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(65535)
            if not data:
                return
            question = dns.message.from_wire(data)
            self.questions.append(question.question[0].name.to_text())
            for answer in self.answer(question):
                self._socket.sendto(answer, client)

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(PATIENCE)
        self._socket.close()


def silence(question: dns.message.Message) -> list[bytes]:
    return []


def listed(*addresses: str) -> Answer:
    def answer(question: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(question)
        response.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "A", *addresses))
        return [response.to_wire()]

    return answer


def failing(code: dns.rcode.Rcode) -> Answer:
    def answer(question: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(question)
        response.set_rcode(code)
        return [response.to_wire()]

    return answer


def nonsense(question: dns.message.Message) -> list[bytes]:
    return [b"\xff" * 7, b"HTTP/1.1 400 Bad Request\r\n\r\n"]


def cut(question: dns.message.Message) -> list[bytes]:
    return [listed("127.0.0.2")(question)[0][:-3]]


def of_another(question: dns.message.Message) -> list[bytes]:
    (answer,) = listed("127.0.0.2")(question)
    return [bytes([answer[0] ^ 0xFF]) + answer[1:]]


def text_instead(question: dns.message.Message) -> list[bytes]:
    response = dns.message.make_response(question)
    response.answer.append(dns.rrset.from_text(question.question[0].name, 60, "IN", "TXT", '"127.0.0.2"'))
    return [response.to_wire()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server, the only one that dnspython knows. It is silent by default."""
    running = NameServer()
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = running.port
    resolver.search = [dns.name.from_text("search.example")]
    resolver.use_search_by_default = True
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    yield running
    running.stop()


class Transport:
    def get_extra_info(self, name: str, default: object = None) -> object:
        raise AssertionError(f"{name} was asked for")


def info_of(result: ProxyResult) -> SocketInfo:
    return SocketInfoProxy(Transport(), result)


IPV4 = info_of(ProxyResultIPv4((IPv4Address("192.0.2.1"), 5), (IPv4Address("198.51.100.2"), 25)))
IPV6 = info_of(ProxyResultIPv6((IPv6Address("2001:db8::1"), 5), (IPv6Address("2001:db8::2"), 25)))


def ask(info: SocketInfo = IPV4, host: str = "bl.example", timeout: float | None = PATIENCE) -> str | None:
    return asyncio.run(Dnsbl.load(host, timeout=timeout).lookup(info))


@pytest.mark.parametrize(("info", "name"), [(IPV4, "1.2.0.192"), (IPV6, IPV6_DIGITS)], ids=["IPv4", "IPv6"])
def test_the_server_is_asked_once_and_its_answer_counts(server: NameServer, info: SocketInfo, name: str) -> None:
    server.answer = listed("127.0.0.2")
    assert ask(info) == "bl.example"
    assert server.questions == [f"{name}.bl.example."]


def test_a_host_may_end_with_a_dot(server: NameServer) -> None:
    server.answer = listed("127.0.0.2")
    assert ask(host="bl.example.") == "bl.example."
    assert server.questions == ["1.2.0.192.bl.example."]


def test_the_answer_of_spamhaus_names_the_list(server: NameServer) -> None:
    server.answer = listed("127.0.0.4")
    assert ask(IPV6, "zen.spamhaus.org") == "https://www.spamhaus.org/xbl/"


@pytest.mark.parametrize("code", [dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NOERROR])
def test_a_client_is_not_listed_if_the_server_says_so_or_refuses(server: NameServer, code: dns.rcode.Rcode) -> None:
    server.answer = failing(code)
    assert ask() is None
    assert set(server.questions) == {"1.2.0.192.bl.example."}


def test_a_record_without_an_address_lists_no_client(server: NameServer) -> None:
    server.answer = text_instead
    assert ask() is None


@pytest.mark.parametrize("answer", [nonsense, cut, of_another, silence])
def test_nonsense_and_silence_end_with_the_time_out(server: NameServer, answer: Answer) -> None:
    server.answer = answer
    begun = time.monotonic()
    assert ask(timeout=SHORT) is None
    assert time.monotonic() - begun < DEFAULT - 1
    assert server.questions


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "a." * 130, "\u0130" * 70])
def test_an_invalid_host_causes_no_query(server: NameServer, host: str) -> None:
    assert ask(host=host) is None
    assert server.questions == []


def test_a_server_that_is_down_lists_no_client(server: NameServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        dns.asyncresolver.get_default_resolver().port = nobody.getsockname()[1]
    assert ask(timeout=SHORT) is None


def test_after_the_time_out_nothing_is_left_of_many_queries(server: NameServer) -> None:
    # more than a loop's own resolver has threads, which would all stay busy
    many = 50

    async def lookups() -> tuple[list[str | None], int, int]:
        block_list = Dnsbl.load("bl.example", timeout=SHORT)
        before = len(os.listdir("/proc/self/fd"))
        answers = await asyncio.gather(*(block_list.lookup(IPV4) for _ in range(many)))
        return answers, before, len(os.listdir("/proc/self/fd"))

    threads = threading.active_count()
    begun = time.monotonic()
    answers, before, after = asyncio.run(lookups())

    assert answers == [None] * many
    assert time.monotonic() - begun < DEFAULT - 1
    assert after <= before
    assert threading.active_count() == threads


def test_a_lookup_that_is_cancelled_closes_its_socket(server: NameServer) -> None:
    async def cancelled() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))
        lookup = asyncio.ensure_future(Dnsbl.load("bl.example").lookup(IPV4))
        deadline = time.monotonic() + PATIENCE
        while not server.questions and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        await asyncio.sleep(0)
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(cancelled())
    assert after <= before
