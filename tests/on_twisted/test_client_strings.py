"""Endpoint strings of clients: ``proxyprotocol:`` before any description, a plugin of Twisted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from zope.interface.verify import verifyObject

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.twisted import ProxyProtocolClientEndpoint
from proxyprotocol.twisted.strings import ClientStringParser
from tests.on_twisted import tls
from tests.on_twisted.clients import LOCAL, peers, saying
from tests.on_twisted.reactors import AppFactory, listen, run, until
from tests.on_twisted.tls import SERVER_NAME, Files, answering

pytestmark = tls.OLD_WAYS

IPV4 = ProxyResultIPv4((IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443))
IPV6 = ProxyResultIPv6((IPv6Address("2001:db8::1"), 443), (IPv6Address("2001:db8::2"), 80))
SENT = {
    "": LOCAL,
    ":ppVersion=v2": LOCAL,
    r":ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443": ProxyProtocolV2().pack(IPV4),
    r":ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443:ppVersion=v1": ProxyProtocolV1().pack(IPV4),
    r":ppDest=[2001\:db8\:\:2]\:80:ppSource=[2001\:db8\:\:1]\:443": ProxyProtocolV2().pack(IPV6),
}


@pytest.mark.parametrize(("options", "header"), SENT.items(), ids=SENT)
def test_the_options_choose_the_header(reactor: Any, options: str, header: bytes) -> None:
    server = peers()

    async def scenario() -> None:
        port = listen(reactor, server).getHost().port
        endpoint = clientFromString(reactor, f"proxyprotocol:tcp:127.0.0.1:{port}{options}")
        app: Any = await endpoint.connect(AppFactory(begin=saying(b"hello")))
        assert app.transport.protocol is app
        await until(reactor, lambda: server.apps and server.app.received)

    run(reactor, scenario())
    assert server.app.segments == [header + b"hello"]


def test_version_1_names_the_connections_own_addresses(reactor: Any) -> None:
    server = peers()

    async def scenario() -> None:
        port = listen(reactor, server).getHost().port
        await clientFromString(reactor, f"proxyprotocol:tcp:127.0.0.1:{port}:ppVersion=v1").connect(AppFactory())
        await until(reactor, lambda: server.apps and server.app.received)
        line = f"PROXY TCP4 127.0.0.1 127.0.0.1 {server.app.peer.port} {port}\r\n"
        assert server.app.segments == [line.encode()]

    run(reactor, scenario())


def test_a_client_string_connects_to_a_server_string(reactor: Any) -> None:
    server = AppFactory(read=answering)

    async def scenario() -> None:
        listening: Any = await serverFromString(reactor, "proxyprotocol:tcp:0:interface=127.0.0.1").listen(server)
        where = f"proxyprotocol:tcp:127.0.0.1:{listening.getHost().port}"
        named = r"ppSource=[2001\:db8\:\:1]\:443:ppDest=[2001\:db8\:\:2]\:80"
        app: Any = await clientFromString(reactor, f"{where}:{named}").connect(AppFactory(begin=saying(b"question")))
        await until(reactor, lambda: app.received)
        assert app.received == b"answer to question"

    run(reactor, scenario())
    assert (server.app.peer.host, server.app.peer.port) == ("2001:db8::1", 443)
    assert (server.app.host.host, server.app.host.port) == ("2001:db8::2", 80)


@pytest.mark.parametrize("kind", ["ssl", "tls"])
def test_tls_starts_after_the_header(reactor: Any, files: Files, tmp_path: Path, kind: str) -> None:
    server = AppFactory(read=answering)
    (tmp_path / "root.pem").write_bytes(files.root.read_bytes())
    roots, certificate = quoteStringArgument(str(tmp_path)), quoteStringArgument(str(files.client))

    def description(port: int) -> str:
        if kind == "ssl":
            certified = f"caCertsDir={roots}:certKey={certificate}:privateKey={certificate}"
            return f"ssl:127.0.0.1:{port}:hostname={SERVER_NAME}:{certified}"
        certified = f"trustRoots={roots}:certificate={certificate}:privateKey={certificate}"
        return rf"tls:{SERVER_NAME}:1:endpoint=tcp\:127.0.0.1\:{port}:{certified}"

    async def scenario() -> None:
        listening: Any = await serverFromString(
            reactor, files.string("proxyprotocol:ssl:0:interface=127.0.0.1")
        ).listen(server)
        string = f"proxyprotocol:{description(listening.getHost().port)}"
        named = r"ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443"
        app: Any = await clientFromString(reactor, f"{string}:{named}").connect(AppFactory(begin=saying(b"question")))
        await until(reactor, lambda: app.received)
        assert app.received == b"answer to question"

    run(reactor, scenario())
    assert (server.app.peer.host, server.app.peer.port) == ("203.0.113.7", 5678)


def test_a_tls_string_resolves_the_host_as_without_the_wrapper(reactor: Any) -> None:
    endpoint: Any = clientFromString(reactor, f"proxyprotocol:tls:{SERVER_NAME}:443")

    assert isinstance(endpoint, ProxyProtocolClientEndpoint)
    assert isinstance(endpoint._endpoint, HostnameEndpoint)


def test_the_parser_wraps_the_described_endpoint() -> None:
    string = "proxyprotocol:tcp:host=app.example:port=8080:timeout=7:ppVersion=v1:bindAddress=10.0.0.1"
    tcp: Any = clientFromString(MemoryReactorClock(), string)._endpoint

    assert isinstance(tcp, TCP4ClientEndpoint)
    where = tcp._host, tcp._port, tcp._timeout, tcp._bindAddress
    assert where == ("app.example", 8080, 7, ("10.0.0.1", 0))


@pytest.mark.parametrize("path", ["/run/app.sock", "/run/a=b.sock", "/run/a:b.sock", "/run/a\\b.sock", "/run/ppA=1"])
def test_a_unix_socket_may_have_any_path(path: str) -> None:
    quoted = quoteStringArgument(path).replace("=", r"\=")
    endpoint: Any = clientFromString(MemoryReactorClock(), f"proxyprotocol:unix:{quoted}:ppVersion=v2")

    assert isinstance(endpoint._endpoint, UNIXClientEndpoint)
    assert endpoint._endpoint._path == path


TAKES = "takes an IP address and a port, such as"
WRONG = {
    "ppVersion=detect": r"ppVersion takes v1 or v2, not 'detect'",
    "ppVersion=v3": r"ppVersion takes v1 or v2, not 'v3'",
    r"ppSource=203.0.113.7\:1": "ppSource and ppDest need each other: ppDest is missing",
    r"ppDest=203.0.113.7\:1": "ppSource and ppDest need each other: ppSource is missing",
    r"ppSource=203.0.113.7\:1:ppDest=[\:\:1]\:2": r"take addresses of one family, not .*7:1' and '\[::1\]:2'",
    # a colon without a backslash cuts a value short
    "ppSource=203.0.113.7:1:ppDest=198.51.100.9:2": rf"ppSource {TAKES}.* '203\.0\.113\.7' \(a colon .* written \\:\)",
    r"ppSource=203.0.113.7\:1:ppDest=/run/app": f"ppDest {TAKES}.*, not '/run/app'",
    r"ppDest=1.2.3.4\:1:ppDest=1.2.3.4\:2": "^ppDest is given twice: give it once$",
    "ppSuorce=1": "^unknown option ppSuorce; did you mean ppSource[?]$",
    "ppVersion": "^ppVersion takes a value: ppVersion=...$",
    "ppTrusted": "^ppTrusted takes a value: ppTrusted=...$",
    "ppTrusted=10.0.0.0/8": "^unknown option ppTrusted; known are ppVersion, ppSource, ppDest$",
    "ppInsideTLS=yes": "^unknown option ppInsideTLS; known are ppVersion, ppSource, ppDest$",
    "backlog=5": "tcp:127.0.0.1:80:backlog=5 does not describe an endpoint: .*'backlog'.* begin with pp",
}


@pytest.mark.parametrize(("options", "sentence"), WRONG.items(), ids=WRONG)
def test_a_wrong_option_raises_an_error_that_says_which_values_it_takes(options: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        clientFromString(MemoryReactorClock(), f"proxyprotocol:tcp:127.0.0.1:80:{options}")


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("proxyprotocol", "needs the description of another endpoint"),
        ("proxyprotocol:ppVersion=v1", "needs the description of another endpoint"),
        ("proxyprotocol:tcp:127.0.0.1", "tcp:127.0.0.1 does not describe an endpoint: .*port"),
        ("proxyprotocol:tcp:127.0.0.1:http", "tcp:127.0.0.1:http does not describe an endpoint: .*'http'"),
        ("proxyprotocol:nonsense:1", "nonsense:1 does not describe an endpoint: .*nonsense"),
        ("proxyprotocol:tls:app.example:443:x=1", "tls:app.example:443:x=1 does not describe an endpoint: .*'x'"),
        ("proxyprotocol:proxyprotocol:tcp:127.0.0.1:80", "proxyprotocol:tcp:127.0.0.1:80 already sends a header"),
        ("proxyprotocol:PROXYPROTOCOL:tcp:127.0.0.1:80", "PROXYPROTOCOL:tcp:127.0.0.1:80 already sends a header"),
        (
            r"proxyprotocol:tls:app.example:443:endpoint=proxyprotocol\:tcp\:127.0.0.1\:80",
            "tls:app.example:.* cannot be connected to: The endpoint already sends a header",
        ),
    ],
)
def test_a_wrong_description_is_refused(description: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        clientFromString(MemoryReactorClock(), description)


@pytest.mark.parametrize("version", ["detect", "v3"])
def test_the_hint_about_colons_appears_only_for_options_that_take_addresses(version: str) -> None:
    with pytest.raises(ValueError, match=f"^ppVersion takes v1 or v2, not '{version}'$"):
        clientFromString(MemoryReactorClock(), f"proxyprotocol:tcp:127.0.0.1:80:ppVersion={version}")


BAD_FILES = {
    "trust roots that are not there": "tls:app.example:443:trustRoots={directory}/nowhere",
    "a certificate that is not there": "tls:app.example:443:certificate={directory}/nowhere.pem:privateKey={key}",
    "an invalid certificate": "tls:app.example:443:certificate={directory}/text.pem:privateKey={key}",
    "a key that is not there": "ssl:127.0.0.1:443:privateKey={directory}/nowhere.pem:certKey={certificate}",
    "an invalid key": "ssl:127.0.0.1:443:privateKey={directory}/text.pem:certKey={certificate}",
}


@pytest.mark.parametrize("description", BAD_FILES.values(), ids=BAD_FILES)
def test_an_unusable_file_raises_an_error_that_quotes_the_description(
    files: Files, tmp_path: Path, description: str
) -> None:
    """Some of these errors once came from the file system or pyOpenSSL, and did not name the string."""
    (tmp_path / "text.pem").write_text("no key, and no certificate")
    described = description.format(directory=tmp_path, key=files.key, certificate=files.certificate)
    with pytest.raises(ValueError, match=f"^{re.escape(described)} (cannot be connected to|does not describe)"):
        clientFromString(MemoryReactorClock(), f"proxyprotocol:{described}")


@pytest.mark.parametrize("description", ["PROXYPROTOCOL:tcp:80", "HAProxy:tcp:80"])
def test_a_second_header_in_capitals_is_refused(description: str) -> None:
    """Once it was accepted: Twisted finds plugins in upper and lower case."""
    with pytest.raises(ValueError, match="already reads a header"):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{description}")


def test_a_port_that_is_not_a_number_raises_an_error_that_quotes_the_description() -> None:
    """Once the error was just "invalid literal for int()"."""
    with pytest.raises(ValueError, match=r"tcp:http does not describe an endpoint: .*'http'"):
        serverFromString(MemoryReactorClock(), "proxyprotocol:tcp:http")


def test_twisted_finds_the_parser_as_a_plugin() -> None:
    plugins = getPlugins(IStreamClientEndpointStringParserWithReactor)
    (plugin,) = [found for found in plugins if found.prefix == "proxyprotocol"]

    assert isinstance(plugin, ClientStringParser)
    assert verifyObject(IStreamClientEndpointStringParserWithReactor, plugin)


def python(program: str, project_root: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_endpoint_needs_neither_a_reactor_nor_openssl(project_root: Path) -> None:
    program = """if True:
        import sys
        sys.modules["OpenSSL"] = None
        from twisted.internet.endpoints import clientFromString
        from proxyprotocol.twisted import ProxyProtocolClientEndpoint
        assert isinstance(clientFromString(object(), "proxyprotocol:tcp:app.example:80"), ProxyProtocolClientEndpoint)
        print("twisted.internet.reactor" in sys.modules)
    """
    assert python(program, project_root) == "False"


@pytest.mark.parametrize("description", ["ssl:app.example:443", "tls:app.example:443"])
def test_tls_without_openssl_raises_an_error_that_names_the_extra(project_root: Path, description: str) -> None:
    program = f"""if True:
        import sys
        sys.modules["OpenSSL"] = None
        from twisted.internet.endpoints import clientFromString
        from twisted.internet.testing import MemoryReactorClock
        try:
            clientFromString(MemoryReactorClock(), "proxyprotocol:{description}")
        except ValueError as error:
            print(error)
    """
    said = python(program, project_root)
    assert f"{description} cannot be connected to" in said
    assert "the extra proxyprotocol[tls] installs" in said
