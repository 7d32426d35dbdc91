"""The codecs by their names."""

from __future__ import annotations

import pytest

from proxyprotocol import (
    ProxyProtocol,
    ProxyProtocolDetect,
    ProxyProtocolNoop,
    ProxyProtocolV1,
    ProxyProtocolV2,
    ProxyProtocolVersion,
)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        (None, ProxyProtocolNoop),
        ("", ProxyProtocolNoop),
        ("noop", ProxyProtocolNoop),
        ("detect", ProxyProtocolDetect),
        ("v1", ProxyProtocolV1),
        ("V2", ProxyProtocolV2),
        ("Detect", ProxyProtocolDetect),
    ],
)
def test_a_codec_is_found_by_its_name_in_any_case(name: str | None, codec: type[ProxyProtocol]) -> None:
    assert type(ProxyProtocolVersion.get(name)) is codec


def test_without_a_name_there_is_no_header() -> None:
    assert ProxyProtocolVersion.get() is ProxyProtocolVersion.NOOP.value


@pytest.mark.parametrize("name", ["v3", "1", " v1", "_V1"])
def test_any_other_name_is_a_key_error(name: str) -> None:
    with pytest.raises(KeyError):
        ProxyProtocolVersion.get(name)
