"""A sender's codec and result, from strings."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from proxyprotocol import ProxyProtocolV1, ProxyProtocolV2, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.options import SENDER_OPTIONS, parse_sender

IPV4 = {"source": "203.0.113.7:5678", "dest": "198.51.100.9:443"}
IPV6 = {"source": "[2001:db8::1]:65535", "dest": "[::ffff:198.51.100.9]:0"}


def spell(option: str) -> str:
    return f"PROXYPROTOCOL_{option.upper()}"


def test_without_options_a_client_speaks_for_itself_in_version_2() -> None:
    version, result = parse_sender({})
    assert (type(version), result) == (ProxyProtocolV2, None)


@pytest.mark.parametrize(
    ("value", "codec"), [("v1", ProxyProtocolV1), ("V1", ProxyProtocolV1), ("v2", ProxyProtocolV2)]
)
def test_the_version_chooses_the_codec(value: str, codec: type[object]) -> None:
    assert type(parse_sender({"version": value})[0]) is codec


def test_source_and_dest_name_the_client() -> None:
    assert parse_sender(IPV4)[1] == ProxyResultIPv4(
        (IPv4Address("203.0.113.7"), 5678), (IPv4Address("198.51.100.9"), 443)
    )
    assert parse_sender(IPV6)[1] == ProxyResultIPv6(
        (IPv6Address("2001:db8::1"), 65535), (IPv6Address("::ffff:198.51.100.9"), 0)
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"version": "detect"}, "PROXYPROTOCOL_VERSION takes v1 or v2, not 'detect'"),
        ({"version": ""}, "PROXYPROTOCOL_VERSION takes v1 or v2, not ''"),
        (
            {"source": IPV4["source"]},
            "PROXYPROTOCOL_SOURCE and PROXYPROTOCOL_DEST need each other: PROXYPROTOCOL_DEST is missing. It "
            "takes an IP address and a port, such as 198.51.100.9:443 or [2001:db8::2]:443",
        ),
        (
            {"dest": IPV4["dest"]},
            "PROXYPROTOCOL_SOURCE and PROXYPROTOCOL_DEST need each other: PROXYPROTOCOL_SOURCE is missing. It "
            "takes an IP address and a port, such as 203.0.113.7:5678 or [2001:db8::1]:443",
        ),
        (
            {"source": IPV4["source"], "dest": IPV6["dest"]},
            "PROXYPROTOCOL_SOURCE and PROXYPROTOCOL_DEST take addresses of one family, not '203.0.113.7:5678' and "
            "'[::ffff:198.51.100.9]:0'",
        ),
    ],
)
def test_a_wrong_value_names_the_option_as_its_user_wrote_it(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_sender(options, spell)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "value",
    [
        *("", ":", "203.0.113.7", "203.0.113.7:", ":5678", "app.example:443", "203.0.113.7:http", "/run/app.sock"),
        *("203.0.113.7:65536", "203.0.113.7:+1", "203.0.113.7:01", "203.0.113.7:1_0", "203.0.113.7: 1", " 1.2.3.4:1"),
        *("203.0.113.07:1", "203.0.113:1", "203.0.113.256:1", "[203.0.113.7]:1", "203.0.113.7:\u0661", "1.2.3.4:1\n"),
        *("2001:db8::1:443", "[2001:db8::1]", "[2001:db8::1]443", "[2001:db8:::1]:1", "[]:1", "[fe80::1%eth0]:1"),
    ],
)
@pytest.mark.parametrize("option", ["source", "dest"])
def test_source_and_dest_take_only_an_ip_address_and_a_port(option: str, value: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_sender({**IPV4, option: value})
    assert str(caught.value) == f"{option} takes {SENDER_OPTIONS[option]}, not {value!r}"
