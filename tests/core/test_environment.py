"""The environment variables of this package, and those that only look like them."""

from __future__ import annotations

import pytest

from proxyprotocol.options import read_environment

OTHERS = {"PATH": "/bin", "PROXY": "x", "HTTP_PROXY": "http://proxy", "PROXY_PROTO": "2"}


def test_our_variables_become_options() -> None:
    environment = {
        "PROXYPROTOCOL_TRUSTED": "10.0.0.0/8",
        "PROXYPROTOCOL_MAX_HEADER": "512",
        "PROXYPROTOCOL_PORTS": "80",
    }
    assert read_environment({**OTHERS, **environment}, ["ports"]) == {
        "trusted": "10.0.0.0/8",
        "max_header": "512",
        "ports": "80",
    }
    assert read_environment(OTHERS) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROXY_PROTOCOL_TRUSTED", "PROXYPROTOCOL_TRUSTED"),
        ("PROXYPROTOCOLTRUSTED", "PROXYPROTOCOL_TRUSTED"),
        ("proxyprotocol_trusted", "PROXYPROTOCOL_TRUSTED"),
        ("Proxy_Protocol_Trusted", "PROXYPROTOCOL_TRUSTED"),
        ("PROXYPROTOCOL_TRUST", "PROXYPROTOCOL_TRUSTED"),
        ("PROXYPROTOCOL_TURSTED", "PROXYPROTOCOL_TRUSTED"),
        ("PROXYPROTOCOL_PORT", "PROXYPROTOCOL_PORTS"),
        ("PROXYPROTOCOL_MAXHEADER", "PROXYPROTOCOL_MAX_HEADER"),
        ("PROXYPROTOCOL_TLSTIMEOUT", "PROXYPROTOCOL_TLS_TIMEOUT"),
    ],
)
def test_a_misspelt_variable_stops_the_start(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"^unknown environment variable {name}; did you mean {meant}\?$"):
        read_environment({**OTHERS, name: "10.0.0.0/8"}, ["ports"])


def test_a_variable_like_no_other_is_told_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"known are PROXYPROTOCOL_VERSION, PROXYPROTOCOL_TRUSTED, "):
        read_environment({"PROXYPROTOCOL_X": ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXYPROTOCOL_SERVICE_HOST", "10.3.0.1"),
        ("PROXY_PROTOCOL_SERVICE_PORT", "80"),
        ("PROXYPROTOCOL_SERVICE_PORT_HTTP", "80"),
        ("PROXYPROTOCOL_PORT", "tcp://10.3.0.1:80"),
        ("PROXYPROTOCOL_PORT_80_TCP", "tcp://10.3.0.1:80"),
        ("PROXY_PROTOCOL_PORT_80_TCP_ADDR", "10.3.0.1"),
    ],
)
def test_the_variables_of_a_kubernetes_service_of_our_name_are_not_ours(name: str, value: str) -> None:
    assert read_environment({name: value}, ["ports"]) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROXYPROTOCL_TRUSTED", "PROXYPROTOCOL_TRUSTED"),
        ("PORXYPROTOCOL_TRUSTED", "PROXYPROTOCOL_TRUSTED"),
        ("PROXY-PROTOCOL-TRUSTED", "PROXYPROTOCOL_TRUSTED"),
        ("PROXYPROTOCOL-MAX-HEADER", "PROXYPROTOCOL_MAX_HEADER"),
        ("PROXYPROTO_TRUSTED", "PROXYPROTOCOL_TRUSTED"),
    ],
)
def test_a_slip_in_the_beginning_of_a_name_stops_the_start(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"^unknown environment variable {name}; did you mean {meant}\?$"):
        read_environment({**OTHERS, name: "10.0.0.0/8"}, ["ports"])


def test_only_the_name_of_the_port_is_kubernetes() -> None:
    with pytest.raises(ValueError, match=r"did you mean PROXYPROTOCOL_TRUSTED\?$"):
        read_environment({"PROXYPROTOCOL_TRUSTD": "tcp://1.2.3.4"})
    assert read_environment({"PROXY_PROTOCOL_PORT": "tcp://10.3.0.1:80"}, ["ports"]) == {}
