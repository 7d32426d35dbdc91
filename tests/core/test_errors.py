"""The errors are one family for everything that a peer does, each with fields and a full sentence."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

import proxyprotocol
from proxyprotocol import (
    ProxyProtocolChecksumError,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolMissingError,
    ProxyProtocolSyntaxError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolWantRead,
)
from tests.vectors import TCP4

EVERY_ERROR: list[tuple[ProxyProtocolError, str, dict[str, Any]]] = [
    (ProxyProtocolSyntaxError(), "The PROXY protocol header is malformed", {"offset": None}),
    (ProxyProtocolSyntaxError("It is odd", 0), "It is odd (at byte 0)", {"offset": 0, "reason": "It is odd"}),
    (ProxyProtocolLimitError("It is long", 14), "It is long (at byte 14)", {"offset": 14, "reason": "It is long"}),
    (
        ProxyProtocolChecksumError(TCP4),
        "The CRC32C in the PROXY protocol header does not match the header's bytes",
        {"result": TCP4},
    ),
    (
        ProxyProtocolIncompleteError(ProxyProtocolWantRead(16)),
        "The PROXY protocol header is incomplete: at least 16 more bytes are missing",
        {},
    ),
    (
        ProxyProtocolIncompleteError(ProxyProtocolWantRead(1)),
        "The PROXY protocol header is incomplete: at least 1 more byte is missing",
        {},
    ),
    (
        ProxyProtocolIncompleteError(ProxyProtocolWantRead(want_line=True)),
        "The PROXY protocol header is incomplete: the end of its line is missing",
        {},
    ),
    (
        ProxyProtocolTimeoutError(2.5, 7),
        "No complete PROXY protocol header came within 2.5 seconds, only 7 bytes",
        {"timeout": 2.5, "received": 7},
    ),
    (
        ProxyProtocolTimeoutError(),
        "No complete PROXY protocol header came in time, only 0 bytes",
        {"timeout": None, "received": 0},
    ),
    (
        ProxyProtocolUntrustedError(("::1", 5, 0, 0)),
        "The peer is not one of the trusted proxies",
        {"peer": ("::1", 5, 0, 0)},
    ),
    (ProxyProtocolUntrustedError(), "The peer is not one of the trusted proxies", {"peer": None}),
    (ProxyProtocolMissingError(), "The connection ended before the first byte of a PROXY protocol header", {}),
]


def public_errors() -> set[type[ProxyProtocolError]]:
    values = vars(proxyprotocol).values()
    return {value for value in values if isinstance(value, type) and issubclass(value, ProxyProtocolError)}


def test_every_error_is_in_these_tests() -> None:
    assert {type(error) for error, _, _ in EVERY_ERROR} == public_errors() - {ProxyProtocolError}


@pytest.mark.parametrize(("error", "sentence", "fields"), EVERY_ERROR)
def test_an_error_has_a_sentence_and_fields(error: ProxyProtocolError, sentence: str, fields: dict[str, Any]) -> None:
    assert str(error) == sentence
    assert {name: getattr(error, name) for name in fields} == fields
    assert isinstance(error, ProxyProtocolError)


@pytest.mark.parametrize(("error", "sentence", "fields"), EVERY_ERROR)
def test_an_error_survives_pickle(error: ProxyProtocolError, sentence: str, fields: dict[str, Any]) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other)) == (type(error), sentence)
    assert {name: getattr(other, name) for name in fields} == fields


def test_an_incomplete_header_says_what_to_read() -> None:
    for error in (
        ProxyProtocolIncompleteError(ProxyProtocolWantRead(16)),
        pickle.loads(pickle.dumps(ProxyProtocolIncompleteError(ProxyProtocolWantRead(16)))),
    ):
        assert (error.want_read.want_bytes, error.want_read.want_line) == (16, False)
    want = ProxyProtocolWantRead(want_line=True)
    assert (want.want_bytes, want.want_line) == (None, True)
    assert (repr(want), repr(ProxyProtocolWantRead(3))) == (
        "ProxyProtocolWantRead(want_line=True)",
        "ProxyProtocolWantRead(3)",
    )


def test_only_errors_about_bad_bytes_are_value_errors() -> None:
    errors = {error for error in public_errors() if issubclass(error, ValueError)}
    assert errors == {ProxyProtocolSyntaxError, ProxyProtocolLimitError, ProxyProtocolChecksumError}


def test_only_a_connection_without_a_byte_is_routine() -> None:
    assert {error for error in public_errors() if error.routine} == {ProxyProtocolMissingError}


def test_every_sentence_begins_with_a_capital_and_is_one_line() -> None:
    for _, sentence, _ in EVERY_ERROR:
        assert re.fullmatch(r"[A-Z].*[^.]", sentence)
