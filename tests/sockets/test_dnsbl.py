"""DNS block lists with a loop's own resolver; test_dnsbl_server.py asks a real server."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from proxyprotocol import dnsbl
from proxyprotocol.dnsbl import BasicDnsbl, Dnsbl, NoopDnsbl, SpamhausDnsbl
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6, ProxyResultUnix, ProxyResultUnknown
from proxyprotocol.sock import SocketInfo, SocketInfoLocal, SocketInfoProxy


class Transport:
    """A transport that must not be used."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        raise AssertionError(f"{name} was asked for")


class Loop:
    """A loop whose resolver gives a fixed answer and records the questions."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self._answer = answer
        self.questions: list[tuple[Any, ...]] = []

    async def getaddrinfo(self, host: str, port: int, *, family: int, type: int) -> Any:
        self.questions.append((host, port, family, type))
        return await self._answer()


def answering(*addresses: str) -> Loop:
    async def answer() -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    return Loop(answer)


def failing(exception: BaseException) -> Loop:
    async def answer() -> Any:
        raise exception

    return Loop(answer)


def info_of(result: ProxyResult) -> SocketInfo:
    return SocketInfoProxy(Transport(), result)


def ipv4(address: str = "192.0.2.1") -> SocketInfo:
    return info_of(ProxyResultIPv4((IPv4Address(address), 5), (IPv4Address("198.51.100.2"), 25)))


def ipv6(address: str) -> SocketInfo:
    return info_of(ProxyResultIPv6((IPv6Address(address), 5), (IPv6Address("2001:db8::2"), 25)))


def ask(block_list: Dnsbl, info: SocketInfo, loop: Loop) -> str | None:
    return asyncio.run(block_list.lookup(info, loop=loop))  # type: ignore[arg-type]


# Kinds of lists


def test_without_a_host_there_is_no_query() -> None:
    block_list = Dnsbl.load(None, timeout=3)
    loop = answering("127.0.0.2")
    assert isinstance(block_list, NoopDnsbl)
    assert ask(block_list, ipv4(), loop) is None
    assert loop.questions == []


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("bl.example", BasicDnsbl),
        ("", BasicDnsbl),
        ("zen.spamhaus.org", SpamhausDnsbl),
        ("key.zen.spamhaus.org", SpamhausDnsbl),
        ("spamhaus.org", BasicDnsbl),
        ("notspamhaus.org", BasicDnsbl),
        ("zen.spamhaus.org.example", BasicDnsbl),
    ],
)
def test_a_host_of_spamhaus_gets_its_own_kind(host: str, kind: type[BasicDnsbl]) -> None:
    block_list = Dnsbl.load(host, timeout=3)
    assert type(block_list) is kind
    assert isinstance(block_list, BasicDnsbl)
    assert (block_list.host, block_list.timeout) == (host, 3)


def test_there_is_no_timeout_by_default() -> None:
    block_list = Dnsbl.load("bl.example")
    assert isinstance(block_list, BasicDnsbl)
    assert block_list.timeout is None


# Questions


@pytest.mark.parametrize("info", [ipv4("192.0.2.1"), ipv6("::ffff:192.0.2.1")])
def test_a_query_for_ipv4_has_the_numbers_reversed(info: SocketInfo) -> None:
    loop = answering("127.0.0.2")
    assert ask(Dnsbl.load("bl.example"), info, loop) == "bl.example"
    assert loop.questions == [("1.2.0.192.bl.example", 0, socket.AF_INET, socket.SOCK_STREAM)]


def test_a_query_for_ipv6_has_the_digits_reversed() -> None:
    loop = answering("127.0.0.2")
    assert ask(Dnsbl.load("bl.example"), ipv6("2001:db8::567:89ab"), loop) == "bl.example"
    digits = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"  # of RFC 3596, section 2.5
    assert loop.questions == [(f"{digits}.bl.example", 0, socket.AF_INET, socket.SOCK_STREAM)]


def test_a_query_leaves_out_the_zone() -> None:
    class LinkLocal(Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return {"peername": ("fe80::1%eth0", 5, 0, 2), "socket": self}.get(name, default)

        family = socket.AF_INET6

    loop = answering("127.0.0.2")
    assert ask(Dnsbl.load("bl.example"), SocketInfoLocal(LinkLocal()), loop) == "bl.example"
    assert loop.questions[0][0].startswith("1.0.0.0.0.")


@pytest.mark.parametrize("info", [info_of(ProxyResultUnix("/c", "/s")), info_of(ProxyResultUnknown())])
def test_a_client_without_an_ip_address_causes_no_query(info: SocketInfo) -> None:
    loop = answering("127.0.0.2")
    assert ask(Dnsbl.load("bl.example"), info, loop) is None
    assert loop.questions == []


def test_without_dnspython_the_running_loop_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = answering("127.0.0.2")
    # private: the module decides this once, when it is imported
    monkeypatch.setattr(dnsbl, "_HAS_DNSPYTHON", False)

    async def lookup() -> str | None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", stub.getaddrinfo)
        return await BasicDnsbl("bl.example", 5.0).lookup(ipv4())

    assert asyncio.run(lookup()) == "bl.example"
    assert len(stub.questions) == 1


# Answers


@pytest.mark.parametrize(
    ("addresses", "listed"),
    [
        ([], None),
        (["127.0.0.2"], "https://www.spamhaus.org/sbl/"),
        (["127.0.0.3"], "https://www.spamhaus.org/css/"),
        (["127.0.0.4"], "https://www.spamhaus.org/xbl/"),
        (["127.0.0.5"], "https://www.spamhaus.org/xbl/"),
        (["127.0.0.6"], "https://www.spamhaus.org/xbl/"),
        (["127.0.0.7"], "https://www.spamhaus.org/xbl/"),
        (["127.0.0.8"], "zen.spamhaus.org"),
        (["127.0.0.9"], "zen.spamhaus.org"),
        (["127.0.0.10"], "https://www.spamhaus.org/pbl/"),
        (["127.0.0.11"], "https://www.spamhaus.org/pbl/"),
        (["127.255.255.254"], "zen.spamhaus.org"),
        (["127.0.0.4", "127.0.0.2"], "https://www.spamhaus.org/xbl/"),
        (["127.0.0.20", "127.0.0.4"], "zen.spamhaus.org"),
    ],
)
def test_the_first_address_of_spamhaus_names_the_list(addresses: list[str], listed: str | None) -> None:
    assert ask(Dnsbl.load("zen.spamhaus.org"), ipv4(), answering(*addresses)) == listed


@pytest.mark.parametrize(("addresses", "listed"), [([], None), (["127.0.0.2", "192.0.2.7"], "bl.example")])
def test_another_list_is_named_by_its_host(addresses: list[str], listed: str | None) -> None:
    assert ask(Dnsbl.load("bl.example"), ipv4(), answering(*addresses)) == listed


def test_a_subclass_may_define_what_an_answer_means() -> None:
    class Counting(BasicDnsbl):
        def map_results(self, addresses: Any) -> str | None:
            return f"{len(addresses)}: {addresses!r}"

    assert ask(Counting("bl.example", None), ipv4(), answering("127.0.0.2")) == "1: [IPv4Address('127.0.0.2')]"
    assert ask(Counting("bl.example", None), ipv4(), answering()) == "0: []"


def test_only_ipv4_addresses_in_an_answer_count() -> None:
    async def answer() -> Any:
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))]

    assert ask(Dnsbl.load("bl.example"), ipv4(), Loop(answer)) is None


def test_a_loop_may_leave_the_family_out_of_its_answer() -> None:
    async def answer() -> Any:
        return [(None, None, None, None, ("127.0.0.2", 0))]

    assert ask(Dnsbl.load("bl.example"), ipv4(), Loop(answer)) == "bl.example"


# Failures


@pytest.mark.parametrize(
    "exception",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError("no buffer space"),
        asyncio.TimeoutError(),
        UnicodeError("label empty or too long"),
        ValueError("embedded null byte"),
        RuntimeError("Executor shutdown has been called"),
    ],
)
@pytest.mark.parametrize("host", ["bl.example", "zen.spamhaus.org"])
def test_a_client_is_not_listed_when_the_resolver_fails(exception: Exception, host: str) -> None:
    assert ask(Dnsbl.load(host), ipv4(), failing(exception)) is None


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "nul\0.example"])
def test_an_invalid_host_lists_no_client(host: str) -> None:
    async def lookup() -> str | None:
        return await Dnsbl.load(host).lookup(ipv4(), loop=asyncio.get_running_loop())

    # the system's resolver rejects these before it sends a query
    assert asyncio.run(lookup()) is None


def test_the_module_can_be_imported_without_dnspython() -> None:
    # an import of it fails, as if it were not installed
    program = """if True:
        import sys
        sys.modules["dns"] = None
        from proxyprotocol import dnsbl
        print(type(dnsbl.Dnsbl.load("bl.example")).__name__, dnsbl._HAS_DNSPYTHON)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout == "BasicDnsbl False\n", run.stderr


def test_a_cancellation_is_raised() -> None:
    with pytest.raises(asyncio.CancelledError):
        ask(Dnsbl.load("bl.example"), ipv4(), failing(asyncio.CancelledError()))


def test_a_slow_list_is_given_up_at_the_time_out() -> None:
    async def answer() -> Any:
        await asyncio.get_running_loop().create_future()

    assert ask(BasicDnsbl("bl.example", 0.001), ipv4(), Loop(answer)) is None


def test_the_timeout_ends_the_wait_but_not_the_look_up() -> None:
    # as the documentation warns, the resolver's thread stays busy
    begun, end = threading.Event(), threading.Event()

    def resolve() -> Any:
        begun.set()
        return end.wait(30)

    async def lookup() -> tuple[str | None, bool]:
        futures: list[asyncio.Future[Any]] = []

        async def answer() -> Any:
            loop = asyncio.get_running_loop()
            futures.append(loop.run_in_executor(None, resolve))
            return await asyncio.shield(futures[0])

        listed = await BasicDnsbl("bl.example", 0.001).lookup(ipv4(), loop=Loop(answer))  # type: ignore[arg-type]
        still_busy = begun.wait(30) and not futures[0].done()
        end.set()
        await futures[0]
        return listed, still_busy

    assert asyncio.run(lookup()) == (None, True)
