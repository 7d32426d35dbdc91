"""Every kind of application sees the client, on asyncio and uvloop, with and without TLS after the header."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, ProxyProtocolV1, Receiver, TrustedProxies
from proxyprotocol.asyncio import create_unix_server, start_unix_server, wrap_protocol_factory
from proxyprotocol.typing import SockAddr
from tests.interop._certificates import Certificates
from tests.on_asyncio.loops import (
    CLIENT,
    CUTS,
    DESTINATION,
    HEADER,
    KINDS,
    App,
    Apps,
    BufferedApp,
    Run,
    Security,
    StreamApps,
    connected,
    listening,
    turns,
    until,
)
from tests.vectors import IPV6_BLOCK, LOCAL, PROXY, TCP4, TCP6, paths, tlv, v2

pytestmark = pytest.mark.usefixtures("log")

every_kind = pytest.mark.parametrize("new_apps", KINDS.values(), ids=KINDS)
QUESTION, ANSWER = b"a question\n", b"answer to a question\n"


@CUTS
@every_kind
@pytest.mark.parametrize(
    ("header", "result"),
    [(HEADER, TCP4), (v2(PROXY, 0x21, IPV6_BLOCK, tlv(5, b"id")), None)],
    ids=["v1 IPv4", "v2 IPv6"],
)
def test_the_application_sees_the_client_as_it_begins(
    run: Run, security: Security, new_apps: Callable[[], Apps], cut: Any, header: bytes, result: Any
) -> None:
    apps = new_apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, cut=cut, **security.client) as peer:
            await peer.begin(header, QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            facts = apps.app.facts
            assert facts.proxy_peername == peer.sock.getsockname()
            assert (facts.sslcontext is not None) == bool(security)
            if result is None:
                assert facts.proxy_protocol.tlv.unique_id == b"id"
                assert (facts.peername, facts.sockname) == (TCP6.peername, TCP6.sockname)
                assert facts.family == socket.AF_INET6
            else:
                assert facts.proxy_protocol == result
                assert (facts.peername, facts.sockname) == (CLIENT, DESTINATION)
                assert facts.family == socket.AF_INET
            assert facts.socket_names == (facts.peername, facts.sockname)

    run(story)


@every_kind
def test_nothing_reaches_the_application_before_the_header(
    run: Run, security: Security, new_apps: Callable[[], Apps]
) -> None:
    apps = new_apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.send(HEADER[:-1])
            await turns()
            assert apps.made == []
            await peer.begin(HEADER[-1:], QUESTION)
            assert await peer.hear(b"\n") == ANSWER

    run(story)


@pytest.mark.parametrize("kind", [App, BufferedApp])
def test_finished_request_and_close_notify_in_one_segment_get_an_answer(
    run: Run, certificates: Certificates, kind: Any
) -> None:
    apps = Apps(kind)

    async def story() -> None:
        security = Security(certificates)
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.shake_hands(HEADER, last=False)
            await peer.say(QUESTION, and_close=True)
            assert await peer.hear_all() == ANSWER
            await until(lambda: apps.app.lost)

    run(story)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_versions_of_tls(run: Run, certificates: Certificates, version: str) -> None:
    apps, context = Apps(), certificates.server_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

    async def story() -> None:
        client = certificates.client_context()
        async with listening(apps, ssl=context) as server, connected(server, context=client) as peer:
            await peer.begin(HEADER, QUESTION)
            assert await peer.hear(b"\n") == ANSWER

    run(story)


def test_the_transport_answers_for_tls(run: Run, certificates: Certificates) -> None:
    apps, context = Apps(), certificates.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.authority)
    context.set_alpn_protocols(["h2"])
    client = certificates.client_context(certified=True)
    client.set_alpn_protocols(["h2"])

    async def story() -> None:
        async with listening(apps, ssl=context) as server, connected(server, context=client) as peer:
            await peer.begin(HEADER, QUESTION)
            await peer.hear(b"\n")
            transport = apps.app.transport
            assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            assert transport.get_extra_info("peercert")["subject"]
            assert transport.get_extra_info("cipher")

    run(story)


REAL = {
    "LOCAL": v2(LOCAL, 0x00),
    "UNKNOWN": b"PROXY UNKNOWN ::1 ::1 1 2\r\n",
    "UNSPEC": v2(PROXY, 0x00),
}


@pytest.mark.parametrize("header", REAL.values(), ids=REAL)
def test_without_an_address_in_the_header_the_real_addresses_are_shown(
    run: Run, security: Security, header: bytes
) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, **security.server) as server, connected(server, **security.client) as peer:
            await peer.begin(header, QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            facts, names = apps.app.facts, (peer.sock.getsockname(), peer.sock.getpeername())
            assert (facts.peername, facts.sockname) == facts.socket_names == names
            assert facts.proxy_peername == names[0]
            assert facts.proxy_protocol is not None

    run(story)


def test_an_ignored_header_is_still_available(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps, policy=HeaderPolicy.IGNORE) as server, connected(server) as peer:
            await peer.send(HEADER + QUESTION)
            await peer.hear(b"\n")
            facts = apps.app.facts
            assert (facts.peername, facts.proxy_protocol) == (peer.sock.getsockname(), TCP4)

    run(story)


@every_kind
def test_a_policy_that_skips_the_header_serves_at_once(
    run: Run, security: Security, new_apps: Callable[[], Apps]
) -> None:
    apps = new_apps()
    policy = TrustedProxies(["192.0.2.0/24"], otherwise=HeaderPolicy.SKIP)

    async def story() -> None:
        async with (
            listening(apps, policy=policy, **security.server) as server,
            connected(server, **security.client) as peer,
        ):
            await peer.begin(b"", b"PROXY\n")
            assert await peer.hear(b"\n") == b"answer to PROXY\n"
            facts = apps.app.facts
            assert facts.peername == facts.proxy_peername == peer.sock.getsockname()
            assert facts.proxy_protocol is None

    run(story)


@CUTS
@every_kind
def test_an_optional_header_may_be_missing(
    run: Run, security: Security, new_apps: Callable[[], Apps], cut: Any
) -> None:
    apps = new_apps()

    async def story() -> None:
        async with (
            listening(apps, policy=HeaderPolicy.OPTIONAL, **security.server) as server,
            connected(server, cut=cut, **security.client) as peer,
        ):
            await peer.begin(b"", b"PROX?\n")
            assert await peer.hear(b"\n") == b"answer to PROX?\n"
            assert apps.app.facts.proxy_protocol is None

    run(story)


@CUTS
def test_an_optional_header_may_come(run: Run, security: Security, cut: Any) -> None:
    apps = Apps()

    async def story() -> None:
        async with (
            listening(apps, policy=HeaderPolicy.OPTIONAL, **security.server) as server,
            connected(server, cut=cut, **security.client) as peer,
        ):
            await peer.begin(HEADER, QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            assert apps.app.facts.peername == CLIENT

    run(story)


def test_an_application_may_speak_first_if_the_header_is_optional(run: Run, security: Security) -> None:
    apps = Apps(begin=lambda app: app.transport.write(b"a greeting\n"))

    async def story() -> None:
        async with (
            listening(apps, policy=HeaderPolicy.OPTIONAL, timeout=0.01, **security.server) as server,
            connected(server, **security.client) as peer,
        ):
            if security:
                await peer.shake_hands()
            assert await peer.hear(b"\n") == b"a greeting\n"

    run(story)


def test_a_silent_client_is_served_if_the_header_is_optional(run: Run) -> None:
    apps = Apps(begin=lambda app: app.transport.write(b"a greeting\n"))

    async def story() -> None:
        async with listening(apps, policy=HeaderPolicy.OPTIONAL) as server, connected(server) as peer:
            peer.sock.shutdown(socket.SHUT_WR)
            assert await peer.hear_all() == b"a greeting\n"
            assert (apps.app.ended, apps.app.lost) == (True, [None])

    run(story)


def test_ipv6_listeners(run: Run, security: Security) -> None:
    apps = Apps()

    async def story() -> None:
        policy = TrustedProxies(["::1"])
        async with (
            listening(apps, host="::1", policy=policy, **security.server) as server,
            connected(server, **security.client) as peer,
        ):
            await peer.begin(HEADER, QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            assert (apps.app.facts.peername, apps.app.facts.family) == (CLIENT, socket.AF_INET)
            assert apps.app.facts.proxy_peername == peer.sock.getsockname()

    run(story)


def test_unix_listeners(run: Run, security: Security, tmp_path: Path) -> None:
    apps, path = Apps(), str(tmp_path / "app.sock")

    async def story() -> None:
        server = await create_unix_server(apps, path, policy=TrustedProxies(["unix"]), **security.server)
        async with server, connected(path, **security.client) as peer:
            await peer.begin(HEADER, QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            facts = apps.app.facts
            assert (facts.peername, facts.family, facts.proxy_peername) == (CLIENT, socket.AF_INET, "")
            apps.app.transport.abort()

    run(story)


def test_a_unix_client_over_tcp(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(v2(PROXY, 0x31, paths(b"/client", b"/server")) + QUESTION)
            await peer.hear(b"\n")
            facts = apps.app.facts
            assert (facts.peername, facts.sockname, facts.family) == ("/client", "/server", socket.AF_UNIX)

    run(story)


def test_tcp_options_are_ignored_on_a_unix_socket(run: Run, tmp_path: Path) -> None:
    """Servers set them because the client speaks TCP, but the proxy's UNIX socket does not have them."""
    apps, path = Apps(), str(tmp_path / "app.sock")
    nodelay, keepalive = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    def set_and_get(app: Any) -> list[int]:
        sock = app.transport.get_extra_info("socket")
        for option in (nodelay, keepalive):
            sock.setsockopt(*option, 1)
        known = [keepalive] if sock.fileno() and isinstance(app.facts.proxy_peername, str) else [nodelay, keepalive]
        return [sock.getsockopt(*option) for option in known]

    async def story() -> None:
        unix = await create_unix_server(apps, path)
        async with listening(apps) as tcp, unix, connected(path) as first, connected(tcp) as second:
            await first.send(HEADER)
            await second.send(HEADER)
            await until(lambda: len(apps.made) == 2 and all(app.transport for app in apps.made))
            assert sorted(map(set_and_get, apps.made)) == [[1], [1, 1]]
            for app in apps.made:
                app.transport.abort()

    run(story)


def test_streams_on_a_unix_listener(run: Run, tmp_path: Path) -> None:
    apps, path = StreamApps(), str(tmp_path / "app.sock")

    async def story() -> None:
        async with await start_unix_server(apps.connected, path), connected(path) as peer:
            await peer.send(HEADER + QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            assert apps.app.facts.peername == CLIENT
            peer.sock.close()
            await until(lambda: apps.app.ended)

    run(story)


def test_a_callback_of_streams_may_be_a_function(run: Run) -> None:
    async def story() -> None:
        apps, streams = StreamApps(), []
        apps.connected = lambda *both: streams.append(both)  # type: ignore[method-assign,assignment]
        async with listening(apps) as server, connected(server) as peer:
            await peer.send(HEADER + QUESTION)
            await until(lambda: streams)
            reader, writer = streams[0]
            assert await reader.readline() == QUESTION
            assert writer.get_extra_info("peername") == CLIENT
            writer.close()
            await writer.wait_closed()

    run(story)


def test_the_caller_may_pass_a_listening_socket(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(wrap_protocol_factory(apps), sock=sock)
        async with connected(server) as peer:
            await peer.send(HEADER + QUESTION)
            assert await peer.hear(b"\n") == ANSWER
            assert apps.app.facts.peername == CLIENT
        server.close()
        await until(lambda: apps.app.lost)

    run(story)


def test_the_policy_gets_the_real_addresses(run: Run) -> None:
    seen: list[tuple[SockAddr, SockAddr]] = []

    def policy(peer: SockAddr, local: SockAddr) -> HeaderPolicy:
        seen.append((peer, local))
        return HeaderPolicy.REQUIRE

    async def story() -> None:
        async with listening(Apps(), policy=policy) as server, connected(server) as peer:
            await peer.send(HEADER + QUESTION)
            await peer.hear(b"\n")
            assert seen == [(peer.sock.getsockname(), peer.sock.getpeername())]

    run(story)


def test_a_receiver_replaces_its_keywords(run: Run) -> None:
    apps = Apps()

    async def story() -> None:
        receiver = Receiver(ProxyProtocolV1())
        async with listening(apps, receiver=receiver) as server, connected(server) as peer:
            await peer.send(HEADER + QUESTION)
            assert await peer.hear(b"\n") == ANSWER

    run(story)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a receiver and its keywords": ({"receiver": Receiver(), "timeout": 3}, TypeError, "timeout="),
    "an unknown keyword": ({"time_out": 3}, TypeError, "time_out"),
    "a time-out below 0": ({"timeout": -1}, ValueError, "timeout"),
    "TLS without a context": ({"ssl": True}, TypeError, "SSLContext"),
    "a time for TLS without TLS": ({"ssl_handshake_timeout": 3}, ValueError, "without ssl"),
}


@pytest.mark.parametrize(("keywords", "kind", "text"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_keywords_are_refused(run: Run, keywords: Any, kind: type[Exception], text: str) -> None:
    async def story() -> None:
        with pytest.raises(kind, match=text):
            await Apps().listen(**keywords)

    run(story)


def test_tls_time_outs_must_be_above_0(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="ssl_handshake_timeout must be a number of seconds above 0, not 0"):
        wrap_protocol_factory(App, ssl=certificates.server_context(), ssl_handshake_timeout=0)


def test_ssl_shutdown_timeout_needs_python_3_11(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    with pytest.raises(TypeError, match=r"ssl_shutdown_timeout needs Python 3\.11"):
        wrap_protocol_factory(App, ssl=certificates.server_context(), ssl_shutdown_timeout=3)


def test_a_factory_that_reads_a_header_is_not_wrapped_again() -> None:
    with pytest.raises(TypeError, match="already reads a header"):
        wrap_protocol_factory(wrap_protocol_factory(App))


def test_importing_it_brings_in_no_twisted_and_no_checksum_library(project_root: Path) -> None:
    program = "import sys, proxyprotocol.asyncio; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    modules = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True).stdout.split()
    assert "proxyprotocol.asyncio.server" in modules
    assert not {"twisted", "zope.interface", "crc32c", "uvloop"} & set(modules)
