"""Datagrams on asyncio and uvloop: the client's address for the application, its answers to the proxy that asked."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolSPP, ProxyProtocolV1, ProxyProtocolV2, Receiver, TrustedProxies
from proxyprotocol.asyncio import create_datagram_endpoint
from tests.core.test_spp import SPP, SPP6
from tests.on_asyncio.datagrams import CLIENT, CLIENT6, HEADER, HEADER6, App, Peer, keep_quiet, listening, peer_of
from tests.on_asyncio.loops import Log, Run, turns, until
from tests.vectors import IPV4_BLOCK, LOCAL, PROXY, paths, tlv, v2

pytestmark = pytest.mark.usefixtures("log")


def test_the_application_sees_the_client_and_its_answer_goes_to_the_proxy(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as here:
            with peer_of(here) as proxy:
                assert await proxy.ask(HEADER + b"a", HEADER6 + b"b") == [b"re: a", b"re: b"]
        assert app.datagrams == [(b"a", CLIENT), (b"b", CLIENT6)]
        assert [result.sockname for result in app.results if result] == [
            ("198.51.100.2", 2000),
            ("2001:db8:ffff::2", 2000, 0, 0),
        ]

    run(story)


@pytest.mark.usefixtures("ipv6")
def test_an_ipv6_socket_serves_clients_of_either_family(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, "::1", policy=TrustedProxies(["::1"])) as here:
            with peer_of(here) as proxy:
                # the loop's own sendto would fail for the second client: it has IPv4, and the socket IPv6
                assert await proxy.ask(HEADER6 + b"a", HEADER + b"b") == [b"re: a", b"re: b"]
                assert await proxy.ask(v2(LOCAL, 0x00) + b"c") == [b"re: c"]
                assert app.datagrams == [(b"a", CLIENT6), (b"b", CLIENT), (b"c", proxy.sock.getsockname())]
        async with listening(App(), "::1", pp=ProxyProtocolSPP(), trusted=["::1"]) as here:
            with peer_of(here) as proxy:
                assert await proxy.ask(SPP6 + b"a", SPP + b"b") == [SPP6 + b"re: a", SPP + b"re: b"]

    run(story)


def test_an_answer_to_the_simple_proxy_protocol_begins_with_the_same_header(run: Run, log: Log) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, pp=ProxyProtocolSPP(), trusted=["127.0.0.1"]) as here:
            with peer_of(here) as proxy:
                assert await proxy.ask(SPP + b"a", SPP6 + b"b") == [SPP + b"re: a", SPP6 + b"re: b"]
                app.transport.sendto(bytearray(b"later"), ("203.0.113.7", 5678))
                assert await proxy.hear() == SPP + b"later"
                proxy.send(HEADER + b"c", SPP[:37])
                await until(lambda: len(log.lines) == 2)
                with pytest.raises(ValueError, match="needs the address of its client"):
                    app.transport.sendto(b"for nobody")
                assert proxy.has_heard_nothing()
        assert app.datagrams == [(b"a", ("203.0.113.7", 5678)), (b"b", ("2001:db8::7", 5678, 0, 0))]
        assert [result.sockname for result in app.results if result] == [
            ("198.51.100.9", 53),
            ("2001:db8:ffff::9", 443, 0, 0),
        ]

    run(story)
    assert log.starts[0][1].startswith("Reads Simple Proxy Protocol headers on 127.0.0.1:")
    (_, version), (_, short) = log.lines
    assert "A version 2 header came, but only SPP is accepted here (at byte 0); see pp" in version
    assert short.endswith("The datagram has 37 bytes, but its header needs at least 38")


@pytest.mark.parametrize("header", [v2(LOCAL, 0x00), v2(PROXY, 0x00), v2(LOCAL, 0x12, IPV4_BLOCK)])
def test_a_proxy_that_speaks_for_itself_is_the_client(run: Run, header: bytes) -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as here:
            with peer_of(here) as proxy:
                assert await proxy.ask(header + b"check") == [b"re: check"]
                assert app.datagrams == [(b"check", proxy.sock.getsockname())]
                assert app.results != [None]

    run(story)


def test_get_proxy_result_returns_the_whole_header(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as here:
            with peer_of(here) as proxy:
                await proxy.ask(v2(PROXY, 0x12, IPV4_BLOCK, tlv(0xE5, b"shop")) + b"a")
            assert [result and result.tlv[0xE5] for result in app.results] == [b"shop"]
            # later too
            assert app.transport.get_proxy_result(CLIENT).tlv[0xE5] == b"shop"
            assert app.transport.get_proxy_result(("192.0.2.1", 1)) is None

    run(story)


def test_a_late_answer_goes_to_the_proxy_that_spoke_last(run: Run) -> None:
    async def story() -> None:
        app = App(keep_quiet)
        async with listening(app) as here:
            with peer_of(here) as first, peer_of(here) as second:
                first.send(HEADER + b"a")
                await until(lambda: len(app.datagrams) == 1)
                app.transport.sendto(b"one", CLIENT)
                assert await first.hear() == b"one"
                second.send(HEADER + b"b")
                await until(lambda: len(app.datagrams) == 2)
                app.transport.sendto(bytearray(b"two"), CLIENT)
                assert await second.hear() == b"two"
                assert first.has_heard_nothing()

    run(story)


def test_two_proxies_that_ask_for_the_same_client_are_each_answered_at_once(run: Run) -> None:
    async def story() -> None:
        async with listening(App()) as here:
            with peer_of(here) as first, peer_of(here) as second:
                for turn in range(20):
                    first.send(HEADER + b"1 %d" % turn)
                    second.send(HEADER + b"2 %d" % turn)
                for turn in range(20):
                    assert await first.hear() == b"re: 1 %d" % turn
                    assert await second.hear() == b"re: 2 %d" % turn

    run(story)


def test_a_direct_client_is_answered_directly_even_if_a_proxy_spoke_for_it_before(run: Run) -> None:
    async def story() -> None:
        async with listening(App(), policy=HeaderPolicy.OPTIONAL) as here:
            with peer_of(here) as proxy, peer_of(here, ("127.0.0.1", 0)) as direct:
                number = direct.sock.getsockname()[1].to_bytes(2, "big")
                header = v2(PROXY, 0x12, socket.inet_aton("127.0.0.1"), IPV4_BLOCK[4:8], number, IPV4_BLOCK[10:])
                assert await proxy.ask(header + b"a") == [b"re: a"]
                assert await direct.ask(b"b") == [b"re: b"]
                assert proxy.has_heard_nothing()

    run(story)


def test_an_address_without_a_proxy_is_sent_to_directly_if_the_policy_accepts_direct_clients(run: Run) -> None:
    async def story() -> None:
        app = App(keep_quiet)
        async with listening(app, policy=HeaderPolicy.OPTIONAL) as here:
            with peer_of(here) as stranger:
                app.transport.sendto(b"hello", stranger.sock.getsockname())
                assert await stranger.hear() == b"hello"

    run(story)


def test_a_late_answer_never_goes_directly_to_an_address_that_only_a_header_named(run: Run, log: Log) -> None:
    """It once did: whoever could send one datagram could make the application send to any address."""

    async def story() -> None:
        app = App(keep_quiet)
        async with listening(app, max_clients=1) as here:
            with peer_of(here) as proxy, peer_of(here, ("127.0.0.1", 0)) as named:
                port = named.sock.getsockname()[1]
                number = port.to_bytes(2, "big")
                header = v2(PROXY, 0x12, socket.inet_aton("127.0.0.1"), IPV4_BLOCK[4:8], number, IPV4_BLOCK[10:])
                proxy.send(header + b"a", v2(LOCAL, 0x00) + b"b")
                await until(lambda: len(app.datagrams) == 2)
                assert app.datagrams[0][1] == named.sock.getsockname()
                app.transport.sendto(b"late", app.datagrams[0][1])
                # an answer that was sent earlier would have arrived by now
                app.transport.sendto(b"last", app.datagrams[1][1])
                assert await proxy.hear() == b"last"
                assert named.has_heard_nothing()
                assert app.errors == []
                assert log.lines == [("DEBUG", f"No proxy is known for 127.0.0.1:{port}: its answer is dropped")]

    run(story)


def test_sendto_a_host_name_is_left_to_the_loop(run: Run) -> None:
    async def story() -> None:
        app = App(keep_quiet)
        async with listening(app, policy=HeaderPolicy.OPTIONAL) as here:
            with peer_of(here) as stranger:
                name = ("localhost", stranger.sock.getsockname()[1])
                if run.on_uvloop:
                    with pytest.raises(ValueError, match="DNS lookup is required"):
                        app.transport.sendto(b"hello", name)
                else:
                    app.transport.sendto(b"hello", name)
                    assert await stranger.hear() == b"hello"

    run(story)


def test_a_client_is_forgotten_in_time(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, client_timeout=0.05) as here:
            with peer_of(here) as proxy:
                await proxy.ask(HEADER + b"a")
            await until(lambda: app.transport.get_proxy_result(CLIENT) is None)

    run(story)


FOREIGN = {
    "IPv6 from an IPv4 socket": ("127.0.0.1", HEADER6, "[2001:db8::1]:1000"),
    "UNIX from an IPv4 socket": ("127.0.0.1", v2(PROXY, 0x32, paths(b"/client", b"/x")), "UNIX socket '/client'"),
    "IPv4 from an IPv6 socket": ("::1", HEADER, "192.0.2.1:1000"),
    "UNIX from an IPv6 socket": ("::1", v2(PROXY, 0x32, paths(b"/client", b"/x")), "UNIX socket '/client'"),
}


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize(("host", "header", "client"), FOREIGN.values(), ids=FOREIGN)
def test_a_late_answer_to_a_forgotten_client_of_another_family_closes_nothing(
    run: Run, host: str, header: bytes, client: str
) -> None:
    """With such an address a plain asyncio loop closes the socket, and uvloop raises."""

    async def story() -> None:
        app = App(keep_quiet)
        async with listening(app, host, max_clients=1, policy=HeaderPolicy.OPTIONAL) as here:
            with peer_of(here) as proxy:
                proxy.send(header + b"a", v2(LOCAL, 0x00) + b"b")
                await until(lambda: len(app.datagrams) == 2)
                app.transport.sendto(b"late", app.datagrams[0][1])
                (error,) = app.errors
                assert isinstance(error, OSError)
                assert error.strerror == f"No proxy is known for {client}, and its address family is not the socket's"
                app.transport.sendto(b"still here", app.datagrams[1][1])
                assert await proxy.hear() == b"still here"

    run(story)


# the application


def test_an_error_of_the_application_goes_to_the_loop(run: Run) -> None:
    def raise_mistake(app: App, data: bytes, addr: Any) -> None:
        raise ZeroDivisionError("the application's")

    class Bare(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            raise ZeroDivisionError("the application's")

    async def story() -> None:
        loop = asyncio.get_running_loop()
        bare, _ = await loop.create_datagram_endpoint(Bare, ("127.0.0.1", 0))
        with peer_of(bare.get_extra_info("sockname")) as client:
            client.send(b"bad")
            await until(lambda: len(run.complaints) == 1)
        bare.close()
        app = App(raise_mistake)
        async with listening(app) as here:
            with peer_of(here) as proxy:
                proxy.send(HEADER + b"bad")
                await until(lambda: len(run.complaints) == 2)
                # outside of that call the answer goes to the newest proxy
                with peer_of(here) as other:
                    other.send(HEADER + b"bad")
                    await until(lambda: len(run.complaints) == 3)
                    app.transport.sendto(b"late", CLIENT)
                    assert await other.hear() == b"late"
        first, second, _ = run.complaints
        assert first.get("message") == second.get("message")
        assert first.keys() == second.keys()
        assert run.take_mistakes(ZeroDivisionError) == 3

    run(story)


def test_everything_but_sendto_is_the_real_transport_s(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as here:
            transport = app.transport
            assert issubclass(type(transport), asyncio.DatagramTransport)
            assert transport.get_extra_info("socket").getsockname() == here
            assert transport.get_extra_info("nothing", "default") == "default"
            assert transport.get_write_buffer_size() == 0
            assert repr(transport).startswith("<ProxyProtocolDatagramTransport over <")
            assert not transport.is_closing()
        assert transport.is_closing()

    run(story)


def test_it_can_be_aborted(run: Run) -> None:
    async def story() -> None:
        app = App()
        async with listening(app):
            app.transport.abort()
            await until(lambda: app.lost == [None])

    run(story)


def test_set_protocol_replaces_the_application(run: Run) -> None:
    async def story() -> None:
        app, other = App(), App()
        async with listening(app) as here:
            assert app.transport.get_protocol() is app
            other.transport = app.transport
            app.transport.set_protocol(other)
            assert app.transport.get_protocol() is other
            with peer_of(here) as proxy:
                assert await proxy.ask(HEADER + b"a") == [b"re: a"]
            assert (app.datagrams, other.datagrams) == ([], [(b"a", CLIENT)])
            app.transport.set_protocol(app)

    run(story)


def test_a_connected_endpoint_sends_to_its_proxy_with_an_address_or_without(run: Run) -> None:
    async def story() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
            app = App()
            async with listening(app, remote_addr=sock.getsockname()) as here:
                sock.connect(here)
                proxy = Peer(sock)
                assert await proxy.ask(HEADER + b"a") == [b"re: a"]
                app.transport.sendto(b"unasked")
                app.transport.sendto(b"late", CLIENT)
                assert [await proxy.hear(), await proxy.hear()] == [b"unasked", b"late"]
                sock.close()
                app.transport.sendto(b"gone")
                await until(lambda: app.errors)
                assert isinstance(app.errors[0], ConnectionRefusedError)

    run(story)


def test_the_application_is_told_when_to_pause(run: Run, short_path: Path) -> None:
    def numbered(number: int) -> bytes:
        return b"%05d" % number * 200

    async def story() -> None:
        app, path = App(keep_quiet), str(short_path / "app")
        async with listening(app, sock=bound(path)) as here:
            # less than one datagram; not 0, because CPython 3.13.0 never counts down to it again (its issue 135444)
            app.transport.set_write_buffer_limits(high=500)
            with peer_of(here, str(short_path / "proxy")) as proxy:
                proxy.send(HEADER + b"a")
                await until(lambda: app.datagrams)
                sent = 0
                while not app.events:
                    assert sent < 10_000, "of datagrams that nobody takes a UNIX socket holds far less"
                    app.transport.sendto(numbered(sent), CLIENT)
                    sent += 1
                assert [await proxy.hear() for _ in range(sent)] == [numbered(number) for number in range(sent)]
                await until(lambda: app.events == ["pause", "resume"])

    run(story)


# UNIX sockets


def bound(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    return sock


def test_datagrams_on_unix_sockets(run: Run, short_path: Path) -> None:
    async def story() -> None:
        app, path = App(), str(short_path / "app")
        async with listening(app, sock=bound(path), policy=TrustedProxies(["unix"])) as here:
            name = str(short_path / "proxy")
            with peer_of(here, name) as proxy:
                headers = HEADER, v2(PROXY, 0x32, paths(b"/client", b"/x")), v2(LOCAL, 0x00)
                assert await proxy.ask(*(header + b"a" for header in headers)) == [b"re: a"] * 3
            assert app.datagrams == [(b"a", CLIENT), (b"a", "/client"), (b"a", name)]

    run(story)


def test_an_answer_to_a_proxy_without_an_address_is_lost(run: Run, short_path: Path) -> None:
    """Linux gives None for its address: no policy recognises a UNIX socket by it, and asyncio cannot send to it."""

    async def story() -> None:
        app, path = App(), str(short_path / "app")
        async with listening(app, sock=bound(path), policy=TrustedProxies(["unix"])) as here:
            with peer_of(here) as nameless:
                nameless.send(HEADER + b"a", v2(LOCAL, 0x00) + b"b")
                await until(lambda: len(app.datagrams) == 2)
            assert app.datagrams == [(b"a", CLIENT), (b"b", "")]
            app.transport.sendto(b"late", "")
            await turns()
            assert app.errors == []

    run(story)


def test_a_forgotten_client_cannot_be_sent_to_from_a_unix_socket(run: Run, short_path: Path) -> None:
    async def story() -> None:
        app = App()
        async with listening(app, sock=bound(str(short_path / "app")), policy=HeaderPolicy.OPTIONAL):
            app.transport.sendto(b"late", CLIENT)
            assert ["No proxy is known for 192.0.2.1:1000" in str(error) for error in app.errors] == [True]

    run(story)


# the keywords


def test_keywords_of_the_receiver_and_of_the_loop_are_accepted(run: Run, log: Log) -> None:
    async def story() -> None:
        app = App()
        receiver = Receiver(ProxyProtocolV2(), max_header=30, timeout=None)
        async with listening(app, receiver=receiver, family=socket.AF_INET, reuse_port=True) as here:
            assert app.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            with peer_of(here) as proxy:
                proxy.send(v2(PROXY, 0x12, IPV4_BLOCK, tlv(4)))
                assert await proxy.ask(HEADER + b"a") == [b"re: a"]
        assert ["The header has 31 bytes where max_header allows 30" in line for _, line in log.lines] == [True]

    run(story)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "version 1": ({"pp": ProxyProtocolV1()}, ValueError, "Version 1 is only for streams"),
    "a receiver and its keywords": ({"receiver": Receiver(), "max_header": 30}, TypeError, "max_header= cannot be"),
    "an unknown keyword": ({"max_headers": 30}, TypeError, "max_headers"),
    "room for nobody": ({"max_clients": 0}, ValueError, "max_clients must be at least 1"),
    "no time": ({"client_timeout": -1}, ValueError, "client_timeout must be a number of seconds above 0"),
}


@pytest.mark.parametrize(("keywords", "kind", "message"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_keywords_are_refused_at_once(
    run: Run, keywords: dict[str, Any], kind: type[Exception], message: str
) -> None:
    async def story() -> None:
        with pytest.raises(kind, match=message):
            await create_datagram_endpoint(App, ("127.0.0.1", 0), **keywords)

    run(story)
