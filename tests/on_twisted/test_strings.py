"""Endpoint strings of servers: ``proxyprotocol:`` before any description, a plugin of Twisted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXServerEndpoint, quoteStringArgument, serverFromString
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer
from zope.interface.verify import verifyObject

from proxyprotocol import HeaderPolicy, ProxyProtocolDetect, ProxyProtocolV1, ProxyProtocolV2, Receiver
from proxyprotocol.twisted import ProxyProtocolServerEndpoint
from proxyprotocol.twisted.strings import ServerStringParser
from tests.on_twisted import tls
from tests.on_twisted.reactors import CLIENT, HEADER, AppFactory, Log, connect, run, until
from tests.on_twisted.tls import Files

pytestmark = tls.OLD_WAYS


def receiver(options: str) -> Receiver:
    """Return the receiver that a string with these options makes."""
    reactor = MemoryReactorClock()
    serverFromString(reactor, f"proxyprotocol:tcp:8080{options}").listen(AppFactory())
    factory: Any
    ((port, factory, _, _),) = reactor.tcpServers
    assert port == 8080
    made: Receiver = factory.listener.receiver
    return made


def test_options_have_their_defaults() -> None:
    assert receiver("") == Receiver()


@pytest.mark.parametrize(
    ("value", "codec"),
    [("detect", ProxyProtocolDetect), ("v1", ProxyProtocolV1), ("v2", ProxyProtocolV2), ("V2", ProxyProtocolV2)],
)
def test_the_version_chooses_the_codec(value: str, codec: type[object]) -> None:
    assert type(receiver(f":ppVersion={value}").pp) is codec


@pytest.mark.parametrize("policy", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE])
def test_the_policy_option_takes_a_policys_name(policy: HeaderPolicy) -> None:
    assert receiver(f":ppPolicy={policy.value}").policy is policy
    assert receiver(f":ppPolicy={policy.name}").policy is policy


def test_an_optional_header_from_anybody_logs_a_warning(log: Log) -> None:
    receiver(":ppPolicy=optional:ppTrusted=10.0.0.0/8")
    receiver(":ppPolicy=optional")
    assert log.all_lines == [
        ("info", "Reads version 1 and 2 headers on 0.0.0.0:8080 from 10.0.0.0/8, which may also come without a header"),
        (
            "warn",
            "Reads version 1 and 2 headers on 0.0.0.0:8080 from everybody, and serves everybody without a header: "
            "anyone who can connect can claim any address; name your proxies with ppTrusted=..., or say ppTrusted=any",
        ),
    ]


def test_the_numbers_are_read() -> None:
    assert receiver(":ppTimeout=2.5:ppMaxHeader=200") == Receiver(timeout=2.5, max_header=200)


@pytest.mark.parametrize("version", ["", ":ppVersion=detect", ":ppVersion=v1"])
def test_lines_that_mix_families_are_read_on_request(version: str) -> None:
    result = receiver(f"{version}:ppIPv4InTCP6=yes").codec.unpack(b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 17013\r\n")
    assert (result.peername, result.sockname) == (("2001:db8::1", 1234, 0, 0), ("::ffff:127.0.0.1", 17013, 0, 0))
    assert receiver(f"{version}:ppIPv4InTCP6=no") == receiver(version)


PEERS: dict[str, Any] = {
    "10.1.2.3": (("10.1.2.3", 1), ("10.9.8.7", 80)),
    "192.0.2.7": (("192.0.2.7", 1), ("10.9.8.7", 80)),
    "2001:db8::7": (("2001:db8::7", 1, 0, 0), ("2001:db8::1", 80, 0, 0)),
    "2001:db9::7": (("2001:db9::7", 1, 0, 0), ("2001:db8::1", 80, 0, 0)),
    "unix": ("", "/run/app.sock"),
}


def decisions(options: str) -> dict[str, HeaderPolicy]:
    policy = receiver(options).policy
    assert callable(policy)
    return {name: policy(*addresses) for name, addresses in PEERS.items()}


@pytest.mark.parametrize(
    ("networks", "trusted"),
    [
        ("10.0.0.0/8", {"10.1.2.3"}),
        ("192.0.2.7", {"192.0.2.7"}),
        ("unix", {"unix"}),
        (r"2001\:db8\:\:/32", {"2001:db8::7"}),
        (r"10.0.0.0/8, 2001\:db8\:\:/32 ,unix", {"10.1.2.3", "2001:db8::7", "unix"}),
    ],
)
def test_the_named_proxies_are_trusted(networks: str, trusted: set[str]) -> None:
    for options, policy, otherwise in (
        ("", HeaderPolicy.REQUIRE, HeaderPolicy.REJECT),
        (":ppUntrusted=reject:ppPolicy=optional", HeaderPolicy.OPTIONAL, HeaderPolicy.REJECT),
        (":ppUntrusted=direct:ppPolicy=ignore", HeaderPolicy.IGNORE, HeaderPolicy.SKIP),
    ):
        expected = {name: policy if name in trusted else otherwise for name in PEERS}
        assert decisions(f":ppTrusted={networks}{options}") == expected


WRONG = {
    "ppVersion=v3": "ppVersion takes detect, v1 or v2, not 'v3'",
    "ppVersion=": "ppVersion takes detect, v1 or v2, not ''",
    "ppVersion=noop": "ppVersion takes detect, v1 or v2, not 'noop'",
    "ppTrusted=": "ppTrusted takes networks, addresses and unix, with commas between them, @FILE, or any: .*not ''",
    "ppTrusted=10.0.0.1/8": "ppTrusted takes networks, addresses and unix.*10.0.0.1/8.*did you mean 10.0.0.0/8",
    "ppTrusted=10.0.0.0/8,": "ppTrusted takes networks, addresses and unix.*not ''",
    "ppTrusted=proxy.example": "ppTrusted takes networks, addresses and unix.*proxy.example",
    "ppTrusted=10.0.0.0/8:ppUntrusted=skip": "ppUntrusted takes reject or direct, not 'skip'",
    "ppUntrusted=direct": "ppUntrusted needs ppTrusted, which names the proxies to trust",
    "ppPolicy=reject": "ppPolicy takes require, optional or ignore, not 'reject'",
    "ppTimeout=soon": "ppTimeout takes a number of seconds above 0, not 'soon'",
    "ppTimeout=0": "ppTimeout takes a number of seconds above 0, not '0'",
    "ppTimeout=-1": "ppTimeout takes a number of seconds above 0, not '-1'",
    "ppTimeout=nan": "ppTimeout takes a number of seconds above 0, not 'nan'",
    "ppTimeout=inf": "ppTimeout takes a number of seconds above 0, not 'inf'",
    "ppMaxHeader=15": "ppMaxHeader takes a number of bytes, at least 16, not '15'",
    "ppMaxHeader=4k": "ppMaxHeader takes a number of bytes, at least 16, not '4k'",
    "ppMaxHeader=16.0": "ppMaxHeader takes a number of bytes, at least 16, not '16.0'",
    "ppIPv4InTCP6=1": "ppIPv4InTCP6 takes yes or no, not '1'",
    "ppVersion=v2:ppIPv4InTCP6=yes": "ppIPv4InTCP6 is only for version 1, but ppVersion is v2",
    "ppInsideTLS=maybe": "ppInsideTLS takes yes or no, not 'maybe'",
    "ppTrusted": "^ppTrusted takes a value: ppTrusted=...$",
    "ppInsideTLS:ppPolicy=ignore": "^ppInsideTLS takes a value: ppInsideTLS=...$",
    "ppTimeuot=5": "^unknown option ppTimeuot; did you mean ppTimeout[?]$",
    "pptimeout=5": "^unknown option pptimeout; did you mean ppTimeout[?]$",
    "ppTrust=10.0.0.0/8": "^unknown option ppTrust; did you mean ppTrusted[?]$",
    "ppFoo=1": "^unknown option ppFoo; known are ppVersion, .*, ppTLSTimeout, ppInsideTLS$",
    "ppTrusted=10.0.0.0/8:ppTrusted=::1": "^ppTrusted is given twice: give it once$",
    "ppTrusted=any:backlog=9:ppTrusted=any": "^ppTrusted is given twice: give it once$",
    "ppTrusted=any:ppUntrusted=direct": "^ppUntrusted means nothing with ppTrusted=any",
    "ppTrusted=@/nowhere/proxies.txt": "^ppTrusted takes .*No such file or directory: '/nowhere/proxies.txt'",
    "timeout=5": "tcp:8080:timeout=5 does not describe an endpoint: .*'timeout'",
}


@pytest.mark.parametrize(("options", "sentence"), WRONG.items(), ids=WRONG)
def test_a_wrong_option_raises_an_error_that_says_which_values_it_takes(options: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:tcp:8080:{options}")


@pytest.mark.parametrize("description", ["proxyprotocol", "proxyprotocol:ppTimeout=5"])
def test_a_string_without_a_description_is_refused(description: str) -> None:
    with pytest.raises(ValueError, match="needs the description of another endpoint"):
        serverFromString(MemoryReactorClock(), description)


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("nonsense:80", "nonsense"),
        (":80", "endpoint"),
        ("tcp", "tcp.*port"),
        ("tcp:http-or-so:x=1", "tcp"),
        ("tcp:x y", "x y"),
    ],
)
def test_a_wrong_description_of_the_endpoint_is_refused(description: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{description}")


def test_the_parser_wraps_the_described_endpoint() -> None:
    reactor = MemoryReactorClock()
    endpoint = serverFromString(reactor, r"proxyprotocol:tcp:8080:interface=\:\:1:ppTimeout=3:backlog=7")
    assert isinstance(endpoint, ProxyProtocolServerEndpoint)
    endpoint.listen(AppFactory())

    ((port, _, backlog, interface),) = reactor.tcpServers
    assert (port, backlog, interface) == (8080, 7, "::1")
    assert isinstance(endpoint._endpoint, TCP4ServerEndpoint)


@pytest.mark.parametrize(
    "path", ["/run/app.sock", "/run/a=b.sock", "/run/a:b.sock", "/run/a\\b.sock", "/run/ppA=1", "a b"]
)
def test_a_unix_socket_may_have_any_path(path: str) -> None:
    quoted = quoteStringArgument(path).replace("=", r"\=")
    endpoint: Any = serverFromString(MemoryReactorClock(), f"proxyprotocol:unix:{quoted}:mode=600")

    assert isinstance(endpoint._endpoint, UNIXServerEndpoint)
    assert (endpoint._endpoint._address, endpoint._endpoint._mode) == (path, 0o600)


@implementer(IPlugin, IStreamServerEndpointStringParser)
class Recorder:
    """A foreign endpoint that records the parts of its description."""

    prefix = "recorder"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:
        self.given = args, kwargs
        return TCP4ServerEndpoint(reactor, 0)


def quote(text: str) -> str:
    quoted: str = quoteStringArgument(text)
    return quoted.replace("=", r"\=")


@given(
    st.lists(st.text(min_size=1)),
    st.dictionaries(st.from_regex(r"[a-oq-z][A-Za-z0-9_]*", fullmatch=True), st.text()),
)
def test_every_part_of_the_description_reaches_the_endpoint(args: list[str], kwargs: dict[str, str]) -> None:
    recorder = Recorder()
    parts = [*map(quote, args), *(f"{name}={quote(value)}" for name, value in kwargs.items())]
    with mock.patch("twisted.internet.endpoints.getPlugins", return_value=[ServerStringParser(), recorder]):
        serverFromString(MemoryReactorClock(), ":".join(["proxyprotocol:recorder", *parts, "ppTimeout=3"]))

    assert recorder.given == (tuple(args), kwargs)


@pytest.mark.parametrize("description", ["proxyprotocol:tcp:80", "haproxy:tcp:80", "proxyprotocol"])
def test_an_endpoint_that_already_reads_a_header_is_refused(description: str) -> None:
    with pytest.raises(ValueError, match=f"{description} already reads a header"):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{description}")


def test_twisted_finds_the_parser_as_a_plugin() -> None:
    (plugin,) = [found for found in getPlugins(IStreamServerEndpointStringParser) if found.prefix == "proxyprotocol"]

    assert isinstance(plugin, ServerStringParser)
    assert verifyObject(IStreamServerEndpointStringParser, plugin)


def python(program: str, project_root: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_plugin_imports_no_reactor(project_root: Path) -> None:
    """The program may install a reactor later."""
    program = "import sys, twisted.plugins.proxyprotocol_plugin; print('twisted.internet.reactor' in sys.modules)"

    assert python(program, project_root) == "False"


def test_a_factory_and_an_endpoint_import_no_reactor(project_root: Path) -> None:
    program = """if True:
        import sys
        from twisted.internet.protocol import Factory
        from twisted.internet.endpoints import serverFromString
        from proxyprotocol.twisted import ProxyProtocolWrapperFactory
        ProxyProtocolWrapperFactory(Factory())
        serverFromString(object(), "proxyprotocol:tcp:80")
        print("twisted.internet.reactor" in sys.modules)
    """
    assert python(program, project_root) == "False"


def test_the_package_needs_no_openssl_where_there_is_no_tls(project_root: Path) -> None:
    program = """if True:
        import sys
        sys.modules["OpenSSL"] = None
        from twisted.internet.endpoints import serverFromString
        from twisted.internet.testing import MemoryReactorClock
        from twisted.internet.protocol import Factory
        serverFromString(MemoryReactorClock(), "proxyprotocol:tcp:80").listen(Factory())
        print("served")
    """
    assert python(program, project_root).endswith("served")


def test_tls_without_openssl_raises_an_error_that_names_the_extra(project_root: Path) -> None:
    program = """if True:
        import sys
        sys.modules["OpenSSL"] = None
        from twisted.internet.endpoints import serverFromString
        from twisted.internet.testing import MemoryReactorClock
        try:
            serverFromString(MemoryReactorClock(), "proxyprotocol:ssl:443:privateKey=key.pem")
        except ValueError as error:
            print(error)
    """
    assert "the extra proxyprotocol[tls] installs" in python(program, project_root)


SERVED = {
    "ppTrusted=127.0.0.0/8": CLIENT,
    r"ppTrusted=\:\:1": None,
    "ppTrusted=10.0.0.0/8": None,
    "ppTrusted=10.0.0.0/8:ppUntrusted=direct": "plainly",
    "ppVersion=v2": None,
    "ppPolicy=ignore": "ignored",
}


@pytest.mark.parametrize(("options", "expected"), SERVED.items(), ids=SERVED)
def test_the_options_take_effect_on_a_port(reactor: Any, options: str, expected: Any, log: Log) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        endpoint = serverFromString(reactor, f"proxyprotocol:tcp:0:interface=127.0.0.1:{options}")
        client = await connect(reactor, await endpoint.listen(factory))
        client.transport.write(HEADER + b"data")
        await until(reactor, lambda: (factory.apps and factory.app.received) or client.lost)
        if expected is None:
            assert (factory.built, len(log.lines)) == ([], 1)
        elif expected is CLIENT:
            assert (factory.app.peer, factory.app.received) == (CLIENT, b"data")
        else:
            assert factory.app.peer == client.transport.getHost()
            assert factory.app.received == (b"data" if expected == "ignored" else HEADER + b"data")

    run(reactor, scenario())


def test_peers_on_a_unix_socket_are_trusted_as_unix(reactor: Any, short_path: Path) -> None:
    factory = AppFactory()

    async def scenario() -> None:
        path = quoteStringArgument(str(short_path / "s"))
        endpoint = serverFromString(reactor, f"proxyprotocol:unix:{path}:ppTrusted=unix")
        client = await connect(reactor, await endpoint.listen(factory))
        client.transport.write(HEADER)
        await until(reactor, lambda: factory.apps)

    run(reactor, scenario())
    assert factory.app.peer == CLIENT


def test_an_ipv6_network_with_bare_colons_gets_the_hint_about_colons() -> None:
    with pytest.raises(ValueError, match=r"a colon in a value is written \\:"):
        serverFromString(MemoryReactorClock(), "proxyprotocol:tcp:0:ppTrusted=2001:db8::/32")


@pytest.mark.parametrize(
    "description",
    [
        *("tcp:0:ppTimeout=soon", "tcp:0:ppVersion=v3", "tcp:0:ppMaxHeader=15", "tcp:0:ppUntrusted=direct"),
        *("tcp:0:ppTrusted=10.0.0.1/8", "tcp:0:ppTrusted=bad:backlog=3", "ppTrusted=bad:tcp:0"),
        r"tcp:0:ppTrusted=2001\:db8\:\:1/32",
    ],
)
def test_the_hint_about_colons_appears_only_if_a_colon_cuts_the_value(description: str) -> None:
    with pytest.raises(ValueError, match=r"^pp\w+ (takes|needs)") as caught:
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{description}")
    assert "colon" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("trusted=any", "did you mean ppTrusted?"),
        ("tls_timeout=3", "did you mean ppTLSTimeout?"),
        ("interfac=1", "the options of proxyprotocol: begin with pp"),
    ],
)
def test_an_option_without_our_prefix_is_named(option: str, hint: str) -> None:
    # from Python 3.13 on, the error itself suggests a keyword
    text = rf"unexpected keyword argument '[a-z_]+'(\. Did you mean '\w+'\?)?; {re.escape(hint)}$"
    with pytest.raises(ValueError, match=text):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:tcp:0:{option}")


BAD_FILES = {
    "a key that is not there": "ssl:443:privateKey={directory}/nowhere.pem",
    "an invalid key": "ssl:443:privateKey={directory}/text.pem",
    "a certificate that is not there": "ssl:443:privateKey={key}:certKey={directory}/nowhere.pem",
    "an invalid certificate": "ssl:443:privateKey={key}:certKey={directory}/text.pem",
    "a directory": "ssl:443:privateKey={directory}",
}


def test_a_missing_file_is_named(files: Files) -> None:
    with pytest.raises(ValueError, match=r"cannot be listened on: .*No such file or directory: '/nowhere\.pem'"):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:ssl:1:privateKey={files.key}:certKey=/nowhere.pem")


@pytest.mark.parametrize("inside", ["", ":ppInsideTLS=yes"], ids=["after", "inside"])
@pytest.mark.parametrize("description", BAD_FILES.values(), ids=BAD_FILES)
def test_an_unusable_file_raises_an_error_that_quotes_the_description(
    files: Files, tmp_path: Path, description: str, inside: str
) -> None:
    """Some of these errors once came from the file system or pyOpenSSL, and did not name the string."""
    (tmp_path / "text.pem").write_text("no key, and no certificate")
    described = description.format(directory=tmp_path, key=files.key, certificate=files.certificate)
    with pytest.raises(ValueError, match=f"^{re.escape(described)} (cannot be listened on|does not describe)"):
        serverFromString(MemoryReactorClock(), f"proxyprotocol:{described}{inside}")
