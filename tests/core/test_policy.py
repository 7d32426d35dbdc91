"""TrustedProxies: which peers may name a client."""

from __future__ import annotations

import ipaddress
import socket
import sys
import threading
import tracemalloc
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network
from socket import inet_pton
from types import FrameType
from typing import Any

import pytest

from proxyprotocol import HeaderPolicy, TrustedProxies
from proxyprotocol.policy import lets_plain_in, trusts_a_family

LOCAL = ("192.0.2.254", 443)


def test_a_trusted_peer_must_send_a_header_and_any_other_is_rejected() -> None:
    policy = TrustedProxies(["192.0.2.0/24"])
    assert policy(("192.0.2.1", 1), LOCAL) is HeaderPolicy.REQUIRE
    assert policy(("192.0.3.1", 1), LOCAL) is HeaderPolicy.REJECT


def test_both_policies_can_be_chosen() -> None:
    policy = TrustedProxies(["192.0.2.0/24"], trusted=HeaderPolicy.OPTIONAL, otherwise=HeaderPolicy.SKIP)
    assert policy(("192.0.2.1", 1), LOCAL) is HeaderPolicy.OPTIONAL
    assert policy(("192.0.3.1", 1), LOCAL) is HeaderPolicy.SKIP


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2"]),
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]),
        ("192.0.2.0/255.255.255.0", ["192.0.2.255"], ["192.0.3.0"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "::1", "::192.0.2.1"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff:ffff::1"], ["2001:db7:ffff::", "2001:db9::"]),
        ("::1", ["::1", "0:0:0:0:0:0:0:1"], ["::2", "127.0.0.1"]),
        ("::/0", ["::", "::192.0.2.1", "2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ("::ffff:0:0/96", ["192.0.2.1", "::ffff:192.0.2.1"], ["::1"]),
        ("::ffff:192.0.2.0/120", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.3.1", "::192.0.2.1"]),
    ],
)
def test_a_network_trusts_its_addresses_and_no_other(network: str, inside: list[str], outside: list[str]) -> None:
    policy = TrustedProxies([network])
    for host in inside:
        assert policy.trusts((host, 1), LOCAL)
        assert policy.trusts((host, 1, 0, 0))
    for host in outside:
        assert not policy.trusts((host, 1), LOCAL)
        assert not policy.trusts((host, 1, 0, 0))


def test_an_ipv4_mapped_peer_matches_ipv4_networks() -> None:
    policy = TrustedProxies(["10.0.0.0/8"])
    assert policy.trusts(("::ffff:10.1.2.3", 1, 0, 0), ("::ffff:10.0.0.1", 443, 0, 0))
    assert not policy.trusts(("::ffff:11.1.2.3", 1, 0, 0), ("::ffff:10.0.0.1", 443, 0, 0))


def test_a_zone_is_ignored() -> None:
    policy = TrustedProxies(["fe80::/10"])
    assert policy.trusts(("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 443, 0, 2))
    assert not policy.trusts(("fec0::1%eth0", 1, 0, 2), ("fe80::2%eth0", 443, 0, 2))


@pytest.mark.parametrize("networks", ["10.0.0.0/8", ("10.0.0.0/8",), iter(["10.0.0.0/8"]), [IPv4Network("10.0.0.0/8")]])
def test_networks_may_be_one_string_or_any_iterable(networks: Any) -> None:
    policy = TrustedProxies(networks)
    assert policy.trusts(("10.1.2.3", 1), LOCAL)
    assert not policy.trusts(("1.0.0.0", 1), LOCAL)


@pytest.mark.parametrize(
    "network",
    ["10.0.0.1/8", "2001:db8::1/32", "10.0.0.0/33", "", " ", "UNIX", "example.com", "10.0.0.0/8,::1", "010.0.0.1", "*"],
)
def test_an_invalid_network_is_a_value_error(network: str) -> None:
    with pytest.raises(ValueError, match="A trusted proxy is an address, a network without host bits, or 'unix', not"):
        TrustedProxies(["::1", network])


def test_the_list_of_networks_may_be_empty() -> None:
    policy = TrustedProxies([])
    for peer in (("127.0.0.1", 1), ("::1", 1, 0, 0), "", "/run/a.sock", None):
        assert not policy.trusts(peer, LOCAL)
        assert not policy.trusts(peer, "/run/server.sock")


@pytest.mark.parametrize("peer", ["", "/run/client.sock", b"\0abstract", None])
@pytest.mark.parametrize("local", ["/run/server.sock", "", b"\0abstract"])
def test_unix_trusts_every_peer_whose_local_address_is_a_unix_path(peer: Any, local: Any) -> None:
    assert TrustedProxies(["unix"]).trusts(peer, local)
    assert TrustedProxies(["::1", "unix", "10.0.0.0/8"]).trusts(peer, local)
    assert not TrustedProxies(["0.0.0.0/0", "::/0"]).trusts(peer, local)


def test_without_a_local_address_the_peers_own_tells_a_unix_socket() -> None:
    for peer in ("", "/run/client.sock"):
        assert TrustedProxies("unix").trusts(peer)
        assert not TrustedProxies("unix").trusts(peer, LOCAL)


def test_unix_trusts_no_other_peers() -> None:
    for peer in (("127.0.0.1", 1), ("::1", 1, 0, 0), ("unix", 1), None):
        assert not TrustedProxies(["unix"]).trusts(peer, LOCAL)


@pytest.mark.parametrize(
    "peer",
    [
        None,
        "",
        "10.0.0.1",
        (),
        [],
        (None, 1),
        ("", 1),
        (b"10.0.0.1", 1),
        (10, 1),
        ("localhost", 1),
        ("10.1", 1),
        ("10.0.0.1\0", 1),
        ("10.0.0.1/32", 1),
        ("::1\0", 1),
        (":::", 1),
        ("\udc80:", 1),
        ("\udc80", 1),
        ("%eth0", 1),
        10,
    ],
)
def test_a_peer_without_a_valid_address_is_never_trusted(peer: Any) -> None:
    everyone = TrustedProxies(["0.0.0.0/0", "::/0", "unix"])
    assert not everyone.trusts(peer, LOCAL)
    assert everyone(peer, LOCAL) is HeaderPolicy.REJECT


def stopping_at_a_nul(number: int, text: str) -> bytes:
    # PyPy calls the C library, which stops at a NUL
    return inet_pton(number, text.partition("\0")[0])


@pytest.mark.parametrize("host", ["1.2.3.4\0evil", "::1\0", "::ffff:1.2.3.4\0", "fe80::1%eth0\0"])
def test_an_address_with_a_nul_is_not_trusted(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "inet_pton", stopping_at_a_nul)
    everyone = TrustedProxies(["0.0.0.0/0", "::/0"])
    assert everyone.trusts((host.partition("\0")[0], 1))
    assert not everyone.trusts((host, 1))


@pytest.mark.parametrize("network", ["10.0.0.1\0evil", "10.0.0.0/8\0", "::1\0", "unix\0"])
def test_a_network_with_a_nul_is_a_value_error(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    monkeypatch.setattr(
        ipaddress, "ip_network", lambda text, strict: ip_network(text.partition("\0")[0].replace("unix", "::1"), strict)
    )
    with pytest.raises(ValueError, match=r"not '.*\\x00.*' \(it contains a NUL\)"):
        TrustedProxies([network])


def test_an_address_may_be_a_list() -> None:
    assert TrustedProxies("::1").trusts(["::1", 1, 0, 0], LOCAL)  # type: ignore[arg-type]


def steps_of_a_look_up(networks: Iterable[str]) -> int:
    """Count the lines that one look-up runs."""
    policy, steps = TrustedProxies(networks), 0

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        trusted = policy.trusts(("203.0.113.5", 1), LOCAL)
    finally:
        sys.settrace(before)
    assert not trusted
    return steps


def test_a_look_up_in_10000_networks_takes_as_many_steps_as_in_ten() -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/{24 + number % 2}" for number in range(10_000)]
    assert len({ip_network(network) for network in many}) == 10_000
    few = steps_of_a_look_up(many[:10])
    assert steps_of_a_look_up(many) == few
    assert steps_of_a_look_up(many + [f"2001:db8:{number:x}::/48" for number in range(10_000)]) == few
    assert steps_of_a_look_up([*many, "10.0.0.0/8"]) > few


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every host that a policy had to parse."""
    hosts: list[str] = []

    def parse(number: int, host: str) -> bytes:
        hosts.append(host)
        return inet_pton(number, host)

    monkeypatch.setattr(socket, "inet_pton", parse)
    return hosts


@pytest.mark.parametrize("host", ["10.1.2.3", "::ffff:10.1.2.3"])
def test_a_trusted_host_is_remembered_and_an_untrusted_one_is_not(parsed: list[str], host: str) -> None:
    policy = TrustedProxies(["10.0.0.0/8", "!10.9.0.0/16"])
    for port in range(3):
        assert policy.trusts((host, port), LOCAL)
    assert parsed == [host]
    for _ in range(2):
        assert not policy.trusts(("10.9.0.1", 1), LOCAL)
        assert not policy.trusts(("192.0.2.1", 1), LOCAL)
    assert parsed[1:] == ["10.9.0.1", "192.0.2.1"] * 2


def test_other_networks_other_objects_and_unix_sockets_do_not_share_a_memory() -> None:
    policy, other = TrustedProxies("10.0.0.0/8"), TrustedProxies("192.0.2.0/24")
    assert policy.trusts(("10.1.2.3", 1), LOCAL)
    assert not other.trusts(("10.1.2.3", 1), LOCAL)
    assert not policy.trusts(("10.1.2.3", 1), "/run/server.sock")
    policy.replace("10.1.2.4")
    assert not policy.trusts(("10.1.2.3", 1), LOCAL)
    policy.replace("10.0.0.0/8,!10.1.2.3")
    assert not policy.trusts(("10.1.2.3", 1), LOCAL)
    assert not policy.trusts((["10.1.2.3"], 1), LOCAL)


def test_the_memory_of_trusted_hosts_is_bounded() -> None:
    policy = TrustedProxies(["10.0.0.0/8"])
    tracemalloc.start()
    try:
        for number in range(20_000):
            assert policy.trusts((f"10.0.{number >> 8}.{number & 255}", 1), LOCAL)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 200_000


def test_all_10000_networks_are_found() -> None:
    policy = TrustedProxies(f"10.{number >> 8}.{number & 255}.0/25" for number in range(10_000))
    for number in range(10_000):
        assert policy.trusts((f"10.{number >> 8}.{number & 255}.127", 1), LOCAL)
        assert not policy.trusts((f"10.{number >> 8}.{number & 255}.128", 1), LOCAL)


def test_repr_counts_the_networks() -> None:
    assert repr(TrustedProxies(["10.0.0.0/8", "10.0.0.0/9", "::1", "unix"])) == (
        "<TrustedProxies: 3 networks and UNIX sockets, trusted=REQUIRE, otherwise=REJECT>"
    )
    assert repr(TrustedProxies("10.0.0.0/8")).startswith("<TrustedProxies: 1 network, ")
    assert repr(TrustedProxies([], otherwise=HeaderPolicy.SKIP)) == (
        "<TrustedProxies: 0 networks, trusted=REQUIRE, otherwise=SKIP>"
    )


@pytest.mark.parametrize("network", ["fe80::1%eth0", "fe80::%1/64", b"10.0.0.0/8", 1, None])
def test_a_network_with_a_zone_or_of_another_type_is_a_value_error(network: Any) -> None:
    with pytest.raises(ValueError, match="A trusted proxy is an address"):
        TrustedProxies([network])


def test_a_byte_string_is_not_a_sequence_of_networks() -> None:
    with pytest.raises(TypeError, match=r"not b'10\.0\.0\.0/8'"):
        TrustedProxies(b"10.0.0.0/8")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", list(HeaderPolicy))
def test_optional_and_skip_let_peers_in_without_a_header(policy: HeaderPolicy) -> None:
    expected = policy in (HeaderPolicy.OPTIONAL, HeaderPolicy.SKIP)
    assert lets_plain_in(policy) is expected
    if policy not in (HeaderPolicy.SKIP, HeaderPolicy.REJECT):
        assert lets_plain_in(TrustedProxies(["10.0.0.0/8"], trusted=policy)) is expected
    if policy not in (HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL):
        assert lets_plain_in(TrustedProxies(["10.0.0.0/8"], otherwise=policy)) is expected


def test_trusted_proxies_require_a_header_by_default_but_a_function_may_not() -> None:
    assert not lets_plain_in(TrustedProxies(["10.0.0.0/8", "unix"]))
    assert lets_plain_in(lambda peer, local: HeaderPolicy.REQUIRE)


@pytest.mark.parametrize("otherwise", [HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL])
def test_the_headers_of_untrusted_peers_are_never_believed(otherwise: HeaderPolicy) -> None:
    with pytest.raises(ValueError, match="otherwise must be REJECT, SKIP or IGNORE"):
        TrustedProxies(["10.0.0.0/8"], otherwise=otherwise)


@pytest.mark.parametrize("trusted", [HeaderPolicy.SKIP, HeaderPolicy.REJECT])
def test_trusted_peers_send_headers(trusted: HeaderPolicy) -> None:
    with pytest.raises(ValueError, match="trusted must be REQUIRE, OPTIONAL or IGNORE"):
        TrustedProxies(["10.0.0.0/8"], trusted=trusted)


@pytest.mark.parametrize(
    ("networks", "kind", "message"),
    [
        (["10.0.0.0/8", "!10.9.0.1/16"], ValueError, r"did you mean !10\.9\.0\.0/16\?"),
        ("@/etc/proxies", ValueError, r"use policy=TrustedProxiesFile\(path\)"),
        (True, TypeError, r"a list such as \['10.0.0.0/8'\], not True"),
    ],
)
def test_a_wrong_list_says_what_was_probably_meant(networks: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        TrustedProxies(networks)


def test_other_threads_never_see_half_of_a_list() -> None:
    """An excluded address was trusted for a moment: the new networks came before the new exclusions."""
    policy, stop, found = TrustedProxies("10.0.0.0/8,!10.9.0.0/16"), threading.Event(), []
    peer = ("10.9.0.1", 1)  # no list trusts it

    def look() -> None:
        while not stop.is_set():
            found.extend([True] if policy.trusts(peer, LOCAL) else [])

    thread, interval = threading.Thread(target=look), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(1000):
            policy.replace("192.0.2.0/24")
            policy.replace("10.0.0.0/8,!10.9.0.0/16")
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not found


@pytest.mark.parametrize(
    ("first", "second"),
    [("192.0.2.0/24", "10.0.0.0/8,!10.9.0.0/16"), ("10.0.0.0/8,!10.9.0.0/16", "192.0.2.0/24")],
)
def test_a_list_is_swapped_in_one_step(first: str, second: str) -> None:
    """The same without luck: the list is replaced at each line of a look-up."""
    for at in range(20):
        policy, step = TrustedProxies(first), 0

        def swap(frame: FrameType, event: str, argument: object, at: int = at, policy: TrustedProxies = policy) -> Any:
            nonlocal step
            step += event == "line"
            if event == "line" and step == at:
                policy.replace(second)
            return swap

        before = sys.gettrace()
        sys.settrace(swap)
        try:
            trusted = policy.trusts(("10.9.0.1", 1), LOCAL)
        finally:
            sys.settrace(before)
        assert not trusted


@pytest.mark.parametrize("networks", ["10.0.0.0/8,", "", " ", ["10.0.0.0/8", ""]])
def test_an_empty_entry_is_told_as_such(networks: Any) -> None:
    with pytest.raises(ValueError, match=r"not '' \(an entry is empty\)"):
        TrustedProxies(networks)


def test_a_long_entry_is_quoted_in_part() -> None:
    with pytest.raises(ValueError, match=r"not 'x{60}' \(it has 9,000 characters\)"):
        TrustedProxies(["x" * 9000])
    longest = "!" + ":".join(["ffff"] * 6) + ":255.255.255.255/128"
    assert TrustedProxies(["::/0", longest]).networks == ("::/0", longest)


@pytest.mark.parametrize("networks", ["!10.9.0.0/16,10.0.0.0/8", "10.0.0.0/8,!10.9.0.0/16", "10.9.0.1,!10.9.0.0/16"])
def test_an_exclusion_wins_in_any_order(networks: str) -> None:
    assert not TrustedProxies(networks).trusts(("10.9.0.1", 1), LOCAL)


@pytest.mark.parametrize(
    ("networks", "everybody"),
    [
        (["0.0.0.0/0", "::/0"], True),
        (["10.0.0.0/8", "::/0"], True),
        (["0.0.0.0/0.0.0.0"], True),
        (["10.0.0.0/8", "0.0.0.0", "unix"], False),
        (["10.0.0.0/8", "!0.0.0.0/0"], False),
        ([], False),
    ],
)
def test_a_list_that_holds_everybody_is_known(networks: list[str], everybody: bool) -> None:
    assert trusts_a_family(networks) is everybody
