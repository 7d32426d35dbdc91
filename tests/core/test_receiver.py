"""Receiver: what happens to a connection, for every policy and everything that a peer can do."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from proxyprotocol import (
    HeaderPolicy,
    ProxyProtocol,
    ProxyProtocolChecksumError,
    ProxyProtocolDetect,
    ProxyProtocolError,
    ProxyProtocolIncompleteError,
    ProxyProtocolLimitError,
    ProxyProtocolMissingError,
    ProxyProtocolNoop,
    ProxyProtocolSyntaxError,
    ProxyProtocolTimeoutError,
    ProxyProtocolUntrustedError,
    ProxyProtocolV1,
    ProxyProtocolV2,
    Receiver,
    ReceiverConnection,
    TrustedProxies,
    is_local,
    is_unknown,
)
from proxyprotocol.errors import ProxyProtocolHookError, RefusalCode
from proxyprotocol.messages import describe_refusal
from proxyprotocol.result import describe_address
from tests.vectors import (
    IPV4_BLOCK,
    PROXY,
    SIGNATURE,
    VECTORS,
    Vector,
    checksum,
    describe,
    single_bytes,
    splits,
    v2,
)

REQUIRE, OPTIONAL, IGNORE = HeaderPolicy.REQUIRE, HeaderPolicy.OPTIONAL, HeaderPolicy.IGNORE
SKIP, REJECT = HeaderPolicy.SKIP, HeaderPolicy.REJECT
READING = [REQUIRE, OPTIONAL, IGNORE]

PEER, LOCAL = ("192.0.2.9", 40000), ("192.0.2.254", 443)
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 1000 2000\r\n"
HEADER = v2(PROXY, 0x11, IPV4_BLOCK)

# Data without a header. The first byte of each shows that.
PLAIN = [b"G", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"proxy TCP4", b"\0", b"\n", b" " + LINE, b"Q" * 5000]
HALF_SIGNATURES = [b"P", b"PROXY", b"\r", b"\r\n", SIGNATURE[:11]]
CUT = [*HALF_SIGNATURES, b"PROXY ", LINE[:-1], SIGNATURE, HEADER[:-1]]
AFTER_A_SIGNATURE: list[tuple[bytes, type[ProxyProtocolError]]] = [
    (b"PROXY X", ProxyProtocolSyntaxError),
    (b"PROXY TCP4 192.0.2.1\n", ProxyProtocolSyntaxError),
    (b"PROXY UNKNOWN " + b"x" * 93, ProxyProtocolLimitError),
    (SIGNATURE + b"\x22", ProxyProtocolSyntaxError),
    (v2(PROXY, 0x11, b"short"), ProxyProtocolSyntaxError),
    (v2(PROXY, 0x11, IPV4_BLOCK, b"\1"), ProxyProtocolSyntaxError),
    (v2(PROXY, 0x11, IPV4_BLOCK, checksum("deadbeef")), ProxyProtocolChecksumError),
    (SIGNATURE + b"\x21\x11\xff\xff", ProxyProtocolLimitError),
]


def feed_all(connection: ReceiverConnection, pieces: list[bytes]) -> None:
    for piece in pieces:
        connection.feed(piece)


def connect(policy: HeaderPolicy, pp: ProxyProtocol | None = None) -> ReceiverConnection:
    return Receiver(pp, policy=policy, timeout=2.5).connection(PEER, LOCAL)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@pytest.mark.parametrize("policy", READING)
def test_a_header_is_read_in_any_pieces(policy: HeaderPolicy, vector: Vector) -> None:
    data = vector.header + b"GET /"
    for pieces in ([data], [vector.header], single_bytes(vector.header), *list(splits(vector.header))[1:-1:9]):
        connection = connect(policy)
        for piece in pieces:
            assert (connection.begun, connection.result, connection.trailing) == (False, None, b"")
            connection.feed(piece)
        assert connection.begun
        assert connection.result is not None
        assert describe(connection.result) == describe(vector.result)
        assert connection.trailing == (b"GET /" if pieces == [data] else b"")
        assert connection.needed == 0
        assert connection.eof()
        assert connection.timed_out()


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@pytest.mark.parametrize("policy", READING)
def test_a_header_is_effective_if_it_is_believed_and_names_a_client(policy: HeaderPolicy, vector: Vector) -> None:
    connection = connect(policy)
    assert connection.effective is connection.believed is None
    connection.feed(vector.header)
    assert connection.believed is (None if policy is IGNORE else connection.result)
    names_a_client = not is_local(vector.result) and not is_unknown(vector.result)
    assert connection.effective is (connection.believed if names_a_client else None)


@pytest.mark.parametrize("policy", [REQUIRE, IGNORE])
@pytest.mark.parametrize("data", PLAIN)
def test_if_a_header_is_required_the_first_wrong_byte_is_refused(policy: HeaderPolicy, data: bytes) -> None:
    for piece in (data, data[:1]):
        connection = connect(policy)
        with pytest.raises(ProxyProtocolSyntaxError):
            connection.feed(piece)
        assert (connection.begun, connection.result, connection.trailing) == (False, None, b"")


@pytest.mark.parametrize("data", PLAIN)
def test_under_optional_the_first_other_byte_makes_the_data_the_applications(data: bytes) -> None:
    connection = connect(OPTIONAL)
    assert connection.feed(data)
    assert (connection.begun, connection.result, connection.believed, connection.effective) == (True, None, None, None)
    assert (connection.trailing, connection.needed) == (data, 0)
    assert connection.eof()
    assert connection.timed_out()


@pytest.mark.parametrize("half", HALF_SIGNATURES)
def test_under_optional_half_a_signature_and_another_byte_are_the_applications(half: bytes) -> None:
    connection = connect(OPTIONAL)
    assert connection.feed(half) is False
    assert connection.feed(b"?rest") is True
    assert (connection.result, connection.trailing) == (None, half + b"?rest")


@pytest.mark.parametrize("policy", READING)
@pytest.mark.parametrize(("data", "error"), AFTER_A_SIGNATURE)
def test_after_a_correct_signature_an_error_is_an_error_under_every_policy(
    policy: HeaderPolicy, data: bytes, error: type[ProxyProtocolError]
) -> None:
    for pieces in ([data], [data[:12], data[12:]], single_bytes(data)):
        connection = connect(policy)
        with pytest.raises(error) as caught:
            feed_all(connection, pieces)
        assert type(caught.value) is error
        assert (connection.begun, connection.result, connection.trailing) == (False, None, b"")


@pytest.mark.parametrize("policy", READING)
@pytest.mark.parametrize("cut", CUT)
def test_an_incomplete_header_is_refused_at_the_end_and_at_the_time_out(policy: HeaderPolicy, cut: bytes) -> None:
    connection = connect(policy)
    assert connection.feed(cut) is False
    assert connection.needed > 0
    with pytest.raises(ProxyProtocolIncompleteError):
        connection.eof()
    assert not connection.begun
    connection = connect(policy)
    connection.feed(cut)
    with pytest.raises(ProxyProtocolTimeoutError) as caught:
        connection.timed_out()
    assert (caught.value.timeout, caught.value.received) == (2.5, len(cut))
    assert not connection.begun


@pytest.mark.parametrize("policy", [REQUIRE, IGNORE])
def test_a_silent_peer_is_refused_if_a_header_is_required(policy: HeaderPolicy) -> None:
    with pytest.raises(ProxyProtocolMissingError):
        connect(policy).eof()
    connection = connect(policy)
    connection.feed(b"")
    with pytest.raises(ProxyProtocolTimeoutError) as caught:
        connection.timed_out()
    assert caught.value.received == 0


@pytest.mark.parametrize("event", ["eof", "timed_out"])
def test_under_optional_a_silent_peer_is_a_plain_connection(event: str) -> None:
    # the client may wait for the server to speak first
    connection = connect(OPTIONAL)
    connection.feed(b"")
    assert not connection.begun
    assert getattr(connection, event)() is True
    assert (connection.begun, connection.result, connection.trailing, connection.needed) == (True, None, b"", 0)


def test_skip_begins_at_once_and_reads_nothing() -> None:
    connection = connect(SKIP)
    assert (connection.begun, connection.needed, connection.trailing, connection.result) == (True, 0, b"", None)
    assert connection.eof()
    assert connection.timed_out()
    with pytest.raises(RuntimeError, match="The application has begun: give these bytes to the application"):
        connection.feed(HEADER)


@pytest.mark.parametrize("policy", READING)
def test_a_codec_that_reads_nothing_begins_at_once(policy: HeaderPolicy) -> None:
    connection = connect(policy, ProxyProtocolNoop())
    assert (connection.begun, connection.needed, connection.result) == (True, 0, None)
    assert Receiver(ProxyProtocolNoop()).min_header == 0
    assert Receiver().min_header == 15


@pytest.mark.parametrize("data", [HEADER, b"GET /"])
def test_feeding_after_the_application_has_begun_is_an_error(data: bytes) -> None:
    connection = connect(OPTIONAL)
    connection.feed(data)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="The application has begun: give these bytes to the application"):
            connection.feed(b"x")
    assert connection.trailing == (b"" if data is HEADER else data)


def test_reject_drops_a_connection_before_a_byte_is_read() -> None:
    with pytest.raises(ProxyProtocolUntrustedError) as caught:
        connect(REJECT)
    assert caught.value.peer == PEER


def errors_of(call: Callable[..., bool], *arguments: bytes) -> list[ProxyProtocolError]:
    try:
        call(*arguments)
    except ProxyProtocolError as error:
        return [error]
    return []


@pytest.mark.parametrize("begin", [[], [b""], [b"PROXY "], [b"PROXY X"]])
@pytest.mark.parametrize("event", ["eof", "timed_out"])
def test_after_an_error_every_call_raises_the_same_error(begin: list[bytes], event: str) -> None:
    connection = connect(REQUIRE)
    errors = [error for piece in begin for error in errors_of(connection.feed, piece)]
    errors += errors_of(getattr(connection, event))
    for call, arguments in ((connection.feed, [LINE]), (connection.eof, []), (connection.timed_out, [])):
        again = errors_of(call, *arguments)
        assert len(again) == 1
        assert again[0] is errors[0]
    assert (connection.begun, connection.result, connection.needed) == (False, None, 0)


@pytest.mark.parametrize("policy", [REQUIRE, OPTIONAL])
@pytest.mark.parametrize(
    ("pp", "refused"), [(ProxyProtocolV1(), HEADER), (ProxyProtocolV2(), LINE), (ProxyProtocolV2(), b"PROXY X")]
)
def test_with_one_version_a_header_of_the_other_is_refused(
    policy: HeaderPolicy, pp: ProxyProtocol, refused: bytes
) -> None:
    # not data for the application: a proxy that uses the wrong version sent it
    for pieces in ([refused], [refused[at : at + 1] for at in range(len(refused))]):
        connection = connect(policy, pp)
        with pytest.raises(ProxyProtocolSyntaxError):
            [connection.feed(piece) for piece in pieces]


@pytest.mark.parametrize("pp", [ProxyProtocolV1(), ProxyProtocolV2(), ProxyProtocolDetect(ProxyProtocolV1())])
@pytest.mark.parametrize("data", [b"GET /\n", b"PUT /\n", b"\r\n\r\nx"])
def test_under_optional_the_first_byte_that_fits_no_version_decides(pp: ProxyProtocol, data: bytes) -> None:
    connection = connect(OPTIONAL, pp)
    assert connection.needed > 0
    begun = [connection.feed(data[at : at + 1]) for at in range(len(data)) if not connection.begun]
    assert begun[-1]
    assert begun[:-1] == [False] * (len(begun) - 1)
    assert connection.trailing == data[: len(begun)]


@pytest.mark.parametrize(
    "arguments",
    [
        *({"pp": "v1"}, {"pp": ProxyProtocolV1}, {"policy": HeaderPolicy}, {"timeout": "5"}, {"timeout": True}),
        *({"max_header": "4096"}, {"max_header": 4096.5}, {"max_header": True}),
    ],
    ids=str,
)
def test_an_argument_of_the_wrong_type_is_rejected_at_once(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(TypeError, match=name):
        Receiver(**arguments)


def test_the_policy_may_be_a_function_of_both_addresses() -> None:
    asked: list[Any] = []

    def policy(peer: Any, local: Any) -> HeaderPolicy:
        asked.append((peer, local))
        return SKIP

    receiver = Receiver(policy=policy)
    assert receiver.needs_addresses
    assert receiver.connection(PEER, LOCAL).policy is SKIP
    assert asked == [(PEER, LOCAL)]
    assert not Receiver(policy=SKIP).needs_addresses


def test_trusted_proxies_are_asked_for_each_connection() -> None:
    receiver = Receiver(policy=TrustedProxies(["192.0.2.0/24", "unix"]))
    assert receiver.connection(("::ffff:192.0.2.7", 1, 0, 0), LOCAL).policy is REQUIRE
    assert receiver.connection("", "/run/server.sock").policy is REQUIRE
    for peer in (("203.0.113.1", 1), None, ""):
        with pytest.raises(ProxyProtocolUntrustedError):
            receiver.connection(peer, LOCAL)


def test_a_policy_function_that_raises_or_returns_no_policy_lets_no_peer_in() -> None:
    def broken(peer: Any, local: Any) -> HeaderPolicy:
        raise ZeroDivisionError

    told: list[Any] = []
    with pytest.raises(ProxyProtocolHookError, match=r"The server's policy function raised ZeroDivisionError\(\)"):
        Receiver(policy=broken, on_refused=lambda error, peer: told.append((error, peer))).connection(PEER, LOCAL)
    assert [(error.code, type(error.error), peer) for error, peer in told] == [
        (RefusalCode.HOOK, ZeroDivisionError, PEER)
    ]
    for answer in (None, True, "skip"):
        with pytest.raises(ProxyProtocolHookError, match="must return a HeaderPolicy, not"):
            Receiver(policy=lambda peer, local, answer=answer: answer).connection(PEER, LOCAL)  # type: ignore[misc]


def test_by_default_a_receiver_requires_a_header_in_5_seconds_and_4096_bytes() -> None:
    receiver = Receiver()
    assert (receiver.pp, receiver.policy, receiver.timeout, receiver.max_header) == (None, REQUIRE, 5.0, 4096)
    assert receiver.codec.is_valid(LINE)
    assert Receiver(ProxyProtocolV1()).codec is not receiver.codec


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 0.0])
def test_an_invalid_time_out_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0, or None"):
        Receiver(timeout=timeout)


def test_the_time_out_may_be_none() -> None:
    assert Receiver(timeout=None).timeout is None
    connection = Receiver(timeout=None).connection(None, None)
    with pytest.raises(ProxyProtocolTimeoutError, match="in time, only 0 bytes"):
        connection.timed_out()


@pytest.mark.parametrize("policy", [None, "require", 1])
def test_an_invalid_policy_is_a_type_error(policy: Any) -> None:
    with pytest.raises(TypeError, match="policy must be a HeaderPolicy or a function that returns one"):
        Receiver(policy=policy)


def test_a_limit_below_16_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not 15"):
        Receiver(max_header=15)


def test_a_header_over_the_limit_is_refused() -> None:
    connection = Receiver(max_header=27).connection(None, None)
    with pytest.raises(ProxyProtocolLimitError):
        connection.feed(HEADER)


def test_a_receiver_is_immutable() -> None:
    receiver = Receiver(policy=SKIP)
    with pytest.raises(dataclasses.FrozenInstanceError):
        receiver.timeout = 1  # type: ignore[misc]
    assert (receiver, hash(receiver)) == (Receiver(policy=SKIP), hash(Receiver(policy=SKIP)))
    assert receiver != Receiver()
    assert pickle.loads(pickle.dumps(receiver)) == receiver


def test_an_adapter_takes_a_receiver_or_its_keywords() -> None:
    receiver = Receiver()
    assert Receiver.of(receiver, {}) is receiver
    assert Receiver.of(None, {"policy": SKIP, "timeout": 1}) == Receiver(policy=SKIP, timeout=1)
    assert Receiver.of(None, {}) == receiver
    with pytest.raises(TypeError, match="policy=, timeout= cannot be given with it"):
        Receiver.of(receiver, {"timeout": 1, "policy": SKIP})
    with pytest.raises(TypeError, match=r"^unknown keyword time_out; did you mean timeout\?$"):
        Receiver.of(None, {"policy": SKIP, "time_out": 1})
    with pytest.raises(TypeError, match=r"^unknown keyword x; known are pp, policy, trusted, timeout, max_header, "):
        Receiver.of(None, {"x": 1})


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (["192.0.2.1", 80], "192.0.2.1:80"),
        (("2001:db8::1", 80, 0, 0), "[2001:db8::1]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        ("/run/a.sock", "UNIX socket '/run/a.sock'"),
        ("/a\n\udcff\x1b[0m", "UNIX socket '/a\\n\\udcff\\x1b[0m'"),
        (b"\0abs", "UNIX socket b'\\x00abs'"),
        ("", "an unnamed UNIX socket"),
        (None, "an unknown address"),
        ((), "an unknown address"),
    ],
)
def test_an_address_in_a_log_line_stays_on_its_line(address: Any, text: str) -> None:
    assert describe_address(address) == text


@pytest.mark.parametrize(("pieces", "undecided"), [([], [True]), ([b"P", b"ROXY", b" "], [True, True, True, False])])
def test_a_connection_is_undecided_until_a_signature_is_complete(pieces: list[bytes], undecided: list[bool]) -> None:
    connection = Receiver(policy=OPTIONAL).connection(PEER, LOCAL)
    seen = [connection.undecided]
    for piece in pieces:
        connection.feed(piece)
        seen.append(connection.undecided)
    assert seen == undecided


def test_data_or_the_policy_decides_a_connection() -> None:
    plain = Receiver(policy=OPTIONAL).connection(PEER, LOCAL)
    assert plain.feed(b"POST")
    for connection in (plain, *(Receiver(policy=policy).connection(PEER, LOCAL) for policy in (REQUIRE, SKIP))):
        assert not connection.undecided


def test_a_refusal_is_one_line_with_the_peer_and_the_reason() -> None:
    connection = connect(REQUIRE)
    with pytest.raises(ProxyProtocolSyntaxError) as caught:
        connection.feed(b"\x1b[2J\n\xff")
    assert describe_refusal(caught.value, PEER) == (
        "Refused a connection from 192.0.2.9:40000: "
        "There is no PROXY protocol header: the data begins with b'\\x1b[2J\\n\\xff' (at byte 0); "
        "if 192.0.2.9 is your proxy, make it send the header (HAProxy: send-proxy-v2, nginx: proxy_protocol on); see "
        "policy"
    )


@pytest.mark.parametrize("end", ["eof", "timed_out"])
def test_a_connection_refused_while_undecided_stays_refused(end: str) -> None:
    connection = connect(OPTIONAL)
    assert not connection.feed(b"PRO")
    with pytest.raises(ProxyProtocolError) as refused:
        getattr(connection, end)()
    for late in (b"GRAMME", b"XY UNKNOWN\r\n"):
        with pytest.raises(ProxyProtocolError) as again:
            connection.feed(late)
        assert again.value is refused.value
    assert (connection.begun, connection.trailing, connection.needed) == (False, b"", 0)


@pytest.mark.parametrize(
    ("keyword", "meant"), [("trust", "trusted"), ("timout", "timeout"), ("onRefused", "on_refused")]
)
def test_a_misspelt_keyword_is_named(keyword: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"^unknown keyword {keyword}; did you mean {meant}\?$"):
        Receiver(**{keyword: None})  # type: ignore[arg-type]
    assert list(inspect.signature(Receiver).parameters)[:3] == ["pp", "policy", "trusted"]


@pytest.mark.parametrize(
    ("policy", "hint"),
    [
        ("10.0.0.0/8", "'10.0.0.0/8'; give networks as trusted='10.0.0.0/8'"),
        ("require", "'require'; did you mean HeaderPolicy.REQUIRE?"),
        (["::1"], "['::1']; give networks as trusted=['::1']"),
        (iter(["::1"]), ">; give networks as trusted=[...]"),
        (3, "3"),
        (HeaderPolicy, "<enum 'HeaderPolicy'>"),
    ],
)
def test_a_wrong_policy_gets_a_hint(policy: Any, hint: str) -> None:
    with pytest.raises(TypeError) as caught:
        Receiver(policy=policy)
    assert str(caught.value).startswith("policy must be a HeaderPolicy or a function that returns one, not ")
    assert str(caught.value).endswith(hint)


def test_the_word_any_stands_alone_in_any_case() -> None:
    assert Receiver(trusted=" Any ").trusted == "any"
    assert Receiver(trusted="::1").trusted == ("::1",)
    with pytest.raises(ValueError, match="it means everybody, and stands alone"):
        Receiver(trusted=["Any"])
