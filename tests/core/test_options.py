"""A Receiver from strings, as in endpoint strings and environment variables."""

from __future__ import annotations

import pytest

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocolDetect,
    ProxyProtocolSyntaxError,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    Receiver,
)
from proxyprotocol.options import OPTIONS, choose, parse_receiver, parse_tls_timeout
from tests.vectors import VERSION_2, describe

LOCAL = ("192.0.2.254", 443)


def spell(name: str) -> str:
    return f"PROXYPROTOCOL_{name.upper()}"


def test_without_options_everything_has_its_default() -> None:
    assert parse_receiver({}) == Receiver()


@pytest.mark.parametrize(
    ("version", "codec"),
    [
        ("detect", ProxyProtocolDetect),
        ("v1", ProxyProtocolV1),
        ("V2", ProxyProtocolV2),
        ("DETECT", ProxyProtocolDetect),
    ],
)
def test_a_version_may_be_in_upper_or_lower_case(version: str, codec: type) -> None:
    assert type(parse_receiver({"version": version}).pp) is codec


@pytest.mark.parametrize("options", [{}, {"version": "detect"}, {"version": "v1"}, {"version": "V1"}])
def test_ipv4_in_tcp6_reads_mixed_lines(options: dict[str, str]) -> None:
    line = b"PROXY TCP6 2001:db8::1 127.0.0.1 1234 17013\r\n"
    receiver = parse_receiver({**options, "ipv4_in_tcp6": "YES"})
    assert receiver.codec.unpack(line).sockname == ("::ffff:127.0.0.1", 17013, 0, 0)
    assert type(receiver.codec) is type(parse_receiver(options).codec)
    for refusing in (options, {**options, "ipv4_in_tcp6": "no"}):
        assert parse_receiver(refusing) == parse_receiver(options)
        with pytest.raises(ProxyProtocolSyntaxError):
            parse_receiver(refusing).codec.unpack(line)


def test_ipv4_in_tcp6_still_reads_version_2() -> None:
    codec = parse_receiver({"ipv4_in_tcp6": "yes"}).codec
    assert describe(codec.unpack(VERSION_2[0].header)) == describe(VERSION_2[0].result)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("require", HeaderPolicy.REQUIRE), ("Optional", HeaderPolicy.OPTIONAL), ("ignore", HeaderPolicy.IGNORE)],
)
def test_a_policy_is_for_all_peers_unless_some_are_trusted(policy: str, expected: HeaderPolicy) -> None:
    assert parse_receiver({"policy": policy}).policy is expected
    receiver = parse_receiver({"policy": policy, "trusted": "10.0.0.0/8"})
    assert receiver.connection(("10.1.2.3", 1), LOCAL).policy is expected
    with pytest.raises(ProxyProtocolUntrustedError):
        receiver.connection(("11.1.2.3", 1), LOCAL)


def test_trusted_takes_networks_addresses_and_unix() -> None:
    receiver = parse_receiver({"trusted": "10.0.0.0/8, 2001:db8::/32,192.0.2.1 ,unix", "untrusted": "direct"})
    for peer, local in (
        (("10.1.2.3", 1), LOCAL),
        (("2001:db8::1", 1, 0, 0), LOCAL),
        (("192.0.2.1", 1), LOCAL),
        ("", "/run/server.sock"),
    ):
        assert receiver.connection(peer, local).policy is HeaderPolicy.REQUIRE
    for other in (("192.0.2.2", 1), ("::1", 1, 0, 0), None):
        assert receiver.connection(other, LOCAL).policy is HeaderPolicy.SKIP


@pytest.mark.parametrize("untrusted", [{}, {"untrusted": "reject"}])
def test_by_default_untrusted_peers_are_rejected(untrusted: dict[str, str]) -> None:
    with pytest.raises(ProxyProtocolUntrustedError):
        parse_receiver({"trusted": "unix", **untrusted}).connection(("10.1.2.3", 1), LOCAL)


def test_numbers_are_read() -> None:
    receiver = parse_receiver({"timeout": "2.5", "max_header": "16"})
    assert (receiver.timeout, receiver.max_header) == (2.5, 16)


def test_by_default_a_handshake_has_ten_seconds() -> None:
    assert [parse_tls_timeout(options) for options in ({}, {"tls_timeout": "2.5"})] == [10, 2.5]
    assert parse_receiver({"tls_timeout": "2.5"}) == Receiver()


@pytest.mark.parametrize("value", ["0", "-1", "nan", "5s", ""])
def test_a_wrong_time_for_tls_names_the_option_as_its_user_wrote_it(value: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_tls_timeout({"tls_timeout": value}, spell)
    assert str(caught.value) == f"PROXYPROTOCOL_TLS_TIMEOUT takes a number of seconds above 0, not {value!r}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"version": "v3"}, "PROXYPROTOCOL_VERSION takes detect, v1 or v2, not 'v3'"),
        ({"version": "noop"}, "PROXYPROTOCOL_VERSION takes detect, v1 or v2, not 'noop'"),
        ({"version": ""}, "PROXYPROTOCOL_VERSION takes detect, v1 or v2, not ''"),
        ({"policy": "skip"}, "PROXYPROTOCOL_POLICY takes require, optional or ignore, not 'skip'"),
        ({"trusted": "::1", "untrusted": "skip"}, "PROXYPROTOCOL_UNTRUSTED takes reject or direct, not 'skip'"),
        (
            {"untrusted": "direct"},
            "PROXYPROTOCOL_UNTRUSTED needs PROXYPROTOCOL_TRUSTED, which names the proxies to trust",
        ),
        ({"timeout": "0"}, "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not '0'"),
        ({"timeout": "nan"}, "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not 'nan'"),
        ({"timeout": "inf"}, "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not 'inf'"),
        ({"timeout": "5s"}, "PROXYPROTOCOL_TIMEOUT takes a number of seconds above 0, not '5s'"),
        ({"max_header": "15"}, "PROXYPROTOCOL_MAX_HEADER takes a number of bytes, at least 16, not '15'"),
        ({"max_header": "4k"}, "PROXYPROTOCOL_MAX_HEADER takes a number of bytes, at least 16, not '4k'"),
        ({"max_header": "1e3"}, "PROXYPROTOCOL_MAX_HEADER takes a number of bytes, at least 16, not '1e3'"),
        ({"ipv4_in_tcp6": "true"}, "PROXYPROTOCOL_IPV4_IN_TCP6 takes yes or no, not 'true'"),
        (
            {"ipv4_in_tcp6": "yes", "version": "v2"},
            "PROXYPROTOCOL_IPV4_IN_TCP6 is only for version 1, but PROXYPROTOCOL_VERSION is v2",
        ),
    ],
)
def test_a_wrong_value_names_the_option_as_its_user_wrote_it(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_receiver(options, spell)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("trusted", ["", "10.0.0.1/8", "10.0.0.0/8,", "example.com", "10.0.0.0/8;::1"])
def test_the_message_for_an_invalid_network_says_what_the_option_takes(trusted: str) -> None:
    expected = "^PROXYPROTOCOL_TRUSTED takes networks, addresses and unix, with .*, or any: A trusted proxy is"
    with pytest.raises(ValueError, match=expected):
        parse_receiver({"trusted": trusted}, spell)


def test_an_empty_list_of_networks_is_an_error() -> None:
    # an empty environment variable is a mistake, and must not trust every peer
    with pytest.raises(ValueError, match="trusted takes"):
        parse_receiver({"trusted": " "})


def test_these_are_the_options() -> None:
    assert list(OPTIONS) == [
        *("version", "trusted", "untrusted", "policy", "timeout", "max_header"),
        *("ipv4_in_tcp6", "tls_timeout"),
    ]


def test_the_message_for_a_single_choice_has_no_or() -> None:
    assert choose("ppInsideTLS", "YES", {"yes": True}) is True
    with pytest.raises(ValueError, match=r"^ppInsideTLS takes yes, not 'no'$"):
        choose("ppInsideTLS", "no", {"yes": True})


@pytest.mark.parametrize("value", ["1_00", " 100", "+100", "1e3", "0x10", "\u0661\u0660\u0660", "nan", "inf", ""])
@pytest.mark.parametrize("option", ["timeout", "max_header"])
def test_a_number_has_only_digits(option: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{option} takes a number"):
        parse_receiver({option: value})
