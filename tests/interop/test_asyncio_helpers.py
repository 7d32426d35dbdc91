"""The integrations of aiohttp and aiosmtpd: where they listen, and which peers they serve."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller, UnixSocketController, UnthreadedController
from aiosmtpd.smtp import SMTP

from proxyprotocol import TrustedProxies
from proxyprotocol.integrations.aiohttp import ProxySite
from proxyprotocol.integrations.aiosmtpd import ProxyProtocolMixIn
from proxyprotocol.receiver import Receiver
from proxyprotocol.result import describe_address
from tests.on_asyncio.loops import CLIENT, HEADER, PATIENCE, Log, Run, connected

from ._certificates import Certificates
from ._clients import MailClient
from ._programs import connect

pytestmark = [pytest.mark.usefixtures("log"), pytest.mark.xdist_group("asyncio-helpers")]

REQUEST = b"GET / HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"


# aiohttp


async def who_is_it(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.remote}")


@contextlib.asynccontextmanager
async def site(**keywords: Any) -> AsyncIterator[ProxySite]:
    """Run a site of an application, and clean up its runner at the end."""
    app = web.Application()
    app.router.add_get("/", who_is_it)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        site = ProxySite(runner, **keywords)
        await site.start()
        assert runner.addresses
        yield site
    finally:
        await runner.cleanup()


async def assert_served(address: Any, answer: bytes, header: bytes = HEADER) -> None:
    async with connected(address) as peer:
        await peer.send(header + REQUEST)
        assert (await asyncio.wait_for(peer.hear_all(), PATIENCE)).endswith(b"\r\n\r\n" + answer)


def test_a_site_listens_on_a_port(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()

    async def story() -> None:
        async with site(host=address[0], port=address[1]) as listening:
            assert listening.name == f"http://127.0.0.1:{address[1]}"
            await assert_served(address, b"192.0.2.1")
        with pytest.raises(ConnectionRefusedError):
            connect(address)

    run(story)


def test_a_site_listens_on_a_unix_socket(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a UNIX address

    async def story() -> None:
        async with site(path="site.sock") as listening:
            assert listening.name == "http://unix:site.sock:"
            await assert_served("site.sock", b"192.0.2.1")

    run(story)


def test_a_site_listens_on_a_socket(run: Run, certificates: Certificates) -> None:
    sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    port = sock.getsockname()[1]

    async def story() -> None:
        async with site(sock=sock, ssl_context=certificates.server_context()) as listening:
            assert listening.name == f"https://[::1]:{port}"

    run(story)


def test_the_keywords_of_a_site_configure_its_receiver(run: Run, log: Log) -> None:
    async def story() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        async with site(sock=sock, policy=TrustedProxies(["192.0.2.0/24"])), connected(sock.getsockname()) as peer:
            await peer.send(HEADER + REQUEST)
            assert await peer.hear_all() == b""
            where = describe_address(sock.getsockname())
        assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {where} from 192.0.2.0/24")]
        assert [level for level, _ in log.lines] == ["WARNING"]

    run(story)


def test_a_site_has_the_default_ports_of_aiohttp(run: Run, certificates: Certificates) -> None:
    async def story() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        assert ProxySite(runner).name == web.TCPSite(runner).name
        context = certificates.server_context()
        assert ProxySite(runner, ssl_context=context).name == web.TCPSite(runner, ssl_context=context).name
        await runner.cleanup()

    run(story)


def test_a_site_listens_in_one_place(run: Run) -> None:
    async def story() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        with socket.socket() as sock:
            for places in (
                {"port": 1, "path": "a.sock"},
                {"host": "::1", "sock": sock},
                {"path": "a.sock", "sock": sock},
            ):
                keywords: dict[str, Any] = places
                with pytest.raises(TypeError, match="listens in one place"):
                    ProxySite(runner, **keywords)
        await runner.cleanup()

    run(story)


# aiosmtpd


class Handler:
    """Records the peer of each message."""

    def __init__(self) -> None:
        self.peers: list[Any] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.peers.append(session.peer)
        return "250 OK"


class OnTCP(ProxyProtocolMixIn, Controller):
    pass


class OnUnix(ProxyProtocolMixIn, UnixSocketController):
    pass


class WithoutThread(ProxyProtocolMixIn, UnthreadedController):
    pass


def send_message(address: Any) -> None:
    connection = connect(address)
    connection.sendall(HEADER)
    with MailClient(connection) as client:
        client.sendmail("bob@example.org", "alice@example.com", "text")


def test_a_controller_on_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the whole path may be too long for a UNIX address
    controller = OnUnix(handler := Handler(), "mail.sock")
    controller.start()
    try:
        send_message("mail.sock")
    finally:
        controller.stop()
    assert handler.peers == [CLIENT]


def test_a_controller_without_a_thread() -> None:
    loop = asyncio.new_event_loop()
    controller: Any = WithoutThread(handler := Handler(), "127.0.0.1", 0, loop)
    controller.begin()
    server: Any = controller.server
    address = server.sockets[0].getsockname()
    loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, send_message, address), PATIENCE))
    controller.end()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    asyncio.set_event_loop(None)
    assert handler.peers == [CLIENT]


def test_a_controller_starts_if_the_policy_does_not_trust_this_machine(log: Log) -> None:
    class Trusting(OnTCP):
        receiver = Receiver(policy=TrustedProxies(["192.0.2.0/24"]))

    controller = Trusting(Handler(), "127.0.0.1", 0)
    controller.start()
    try:
        server: Any = controller.server
        where = describe_address(server.sockets[0].getsockname())
        with connect(server.sockets[0].getsockname()) as peer:
            assert peer.recv(1) == b""
    finally:
        controller.stop()
    assert log.starts == [("INFO", f"Reads version 1 and 2 headers on {where} from 192.0.2.0/24")]


def test_a_controller_raises_at_its_start_if_no_server_can_be_made() -> None:
    class Failing(OnTCP):
        def factory(self) -> SMTP:
            raise RuntimeError("cannot be made")

    controller = Failing(Handler(), "127.0.0.1", 0)
    with pytest.raises(RuntimeError, match="cannot be made"):
        controller.start()
    controller.stop()
