"""TLVs keep the wire's order and duplicates, and a property never raises, whatever the sender wrote."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import zlib
from collections.abc import Hashable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyprotocol import ProxyProtocolSyntaxError, ProxyResultIPv4
from proxyprotocol._wire.fields import TEXT, Field, rows, vendor  # to add a row, as a contributor does
from proxyprotocol.tlv import TLV, ExtType, ProxyProtocolExtTLV, ProxyProtocolSSLTLV, ProxyProtocolTLV, SSLClient, Type
from tests.vectors import IPV4, V2, V2_CRC, VERSION_2, tlv

WIRE = tlv(0xE1, b"b") + tlv(0x30, b"ns") + tlv(0xE1, b"a") + tlv(0x02)
NOT_UTF8 = b"a\xff\xfe\n\x00\xed\xa0\x80"


def test_vectors_are_a_mapping_in_which_the_last_of_a_type_wins() -> None:
    vectors = TLV(WIRE)
    assert dict(vectors) == {0xE1: b"a", 0x30: b"ns", 0x02: b""}
    assert list(vectors) == [0xE1, 0x30, 0x02]
    assert (len(vectors), vectors[0xE1], vectors.get(0x05), 0x05 in vectors, 0x02 in vectors) == (
        3,
        b"a",
        None,
        False,
        True,
    )
    assert isinstance(vectors, Mapping)
    assert isinstance(vectors, Hashable)
    with pytest.raises(KeyError):
        vectors[0x05]


def test_every_value_of_a_type_is_kept_in_the_order_of_the_wire() -> None:
    vectors = TLV(WIRE)
    assert (vectors.getall(0xE1), vectors.getall(0x02), vectors.getall(0x05)) == ([b"b", b"a"], [b""], [])
    vectors.getall(0xE1).clear()
    assert vectors.getall(0xE1) == [b"b", b"a"]


@pytest.mark.parametrize("kind", [TLV, ProxyProtocolTLV])
def test_the_bytes_are_those_of_the_wire(kind: type[TLV]) -> None:
    assert (bytes(kind(WIRE)), kind(WIRE).size) == (WIRE, len(WIRE))
    assert (bytes(kind()), kind().size, bool(kind()), bool(kind(WIRE))) == (b"", 0, False, True)


def test_equality_ignores_the_order_of_different_types_and_keeps_that_of_one() -> None:
    vectors = TLV(WIRE)
    same = TLV(tlv(0x02) + tlv(0xE1, b"b") + tlv(0xE1, b"a") + tlv(0x30, b"ns"))
    assert vectors == same
    assert hash(vectors) == hash(same)
    for other in (
        tlv(0xE1, b"a") + tlv(0x30, b"ns") + tlv(0xE1, b"b") + tlv(0x02),
        tlv(0xE1, b"a") + tlv(0x30, b"ns") + tlv(0x02),
        WIRE + tlv(0x02),
        WIRE + tlv(0x01),
        WIRE[:-3] + tlv(0x02, b"x"),
    ):
        assert vectors != TLV(other)


def test_vectors_compare_with_other_mappings_by_the_last_of_each_type() -> None:
    assert TLV(WIRE) == {0xE1: b"a", 0x30: b"ns", 0x02: b""}
    assert TLV(WIRE) != {0xE1: b"b", 0x30: b"ns", 0x02: b""}
    assert TLV(WIRE) != WIRE


def test_the_bytes_before_the_vectors_count_in_equality() -> None:
    assert ProxyProtocolSSLTLV(has_ssl=True, cn="x") != ProxyProtocolSSLTLV(cn="x")
    assert ProxyProtocolSSLTLV(verified=True) != ProxyProtocolSSLTLV()
    assert ProxyProtocolExtTLV() != ProxyProtocolSSLTLV()
    assert hash(ProxyProtocolSSLTLV(cn="x")) == hash(ProxyProtocolSSLTLV(bytes(ProxyProtocolSSLTLV(cn="x"))))


@pytest.mark.parametrize("vector", VERSION_2, ids=str)
def test_every_kind_of_copy_is_equal(vector: Any) -> None:
    for original in (vector.result.tlv, vector.result.tlv.ssl, vector.result.tlv.ext):
        names = {kind.__name__: kind for kind in (ProxyProtocolTLV, ProxyProtocolSSLTLV, ProxyProtocolExtTLV)}
        for other in (
            eval(repr(original), names),
            pickle.loads(pickle.dumps(original)),
            copy.deepcopy(original),
            type(original)(init=original),
        ):
            assert (type(other), other, hash(other)) == (type(original), original, hash(original))


@pytest.mark.parametrize("wire", [b"\1", b"\1\0", b"\1\0\1", tlv(1, b"h2") + b"\1\0\1"])
def test_vectors_that_are_cut_short_are_rejected(wire: bytes) -> None:
    for kind in (TLV, ProxyProtocolTLV):
        with pytest.raises(ProxyProtocolSyntaxError):
            kind(wire)


@pytest.mark.parametrize("kind", [-1, 256])
def test_a_type_is_one_byte(kind: int) -> None:
    with pytest.raises(ValueError, match="The type of a TLV is 0 to 255"):
        TLV(init={kind: b""})


def test_a_value_has_65535_bytes_at_most() -> None:
    assert TLV(init={1: bytes(65535)}).size == 65538
    with pytest.raises(ValueError, match="TLV 0x01 has 65536 bytes, more than 65535"):
        TLV(init={1: bytes(65536)})


def test_init_replaces_values_in_place_and_adds_others_before_the_first_greater_type() -> None:
    wire = tlv(0x30, b"x") + tlv(0x01) + tlv(0x30, b"y") + tlv(0x05) + tlv(0x02)
    assert bytes(TLV(wire, {0x05: b"new"})) == tlv(0x30, b"x") + tlv(0x01) + tlv(0x30, b"y") + tlv(0x05, b"new") + tlv(
        2
    )
    assert bytes(TLV(wire, {0x30: b"new"})) == tlv(0x30, b"new") + tlv(0x01) + tlv(0x05) + tlv(0x02)
    assert bytes(TLV(wire, {0x04: b"new"})) == tlv(0x04, b"new") + wire
    assert bytes(TLV(wire, {0xFF: b"new"})) == wire + tlv(0xFF, b"new")
    assert bytes(TLV(wire, TLV(tlv(0x01, b"1") + tlv(0x01, b"2")))) == wire.replace(
        tlv(0x01), tlv(0x01, b"1") + tlv(0x01, b"2")
    )


def test_vectors_from_keywords_are_in_ascending_order() -> None:
    vectors = ProxyProtocolTLV(
        init={0xE0: b"", 0x00: b""},
        ext=ProxyProtocolExtTLV(secret_bits=1),
        netns="n",
        ssl=ProxyProtocolSSLTLV(cn="c"),
        unique_id=b"u",
        crc32c=1,
        authority="a",
        alpn=b"h",
    )
    assert list(vectors) == [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30, 0xE0]


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40))))
def test_packing_and_parsing_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    wire = b"".join(tlv(*pair) for pair in pairs)
    vectors = ProxyProtocolTLV(wire)
    assert bytes(vectors) == wire
    assert [(kind, value) for kind in vectors for value in vectors.getall(kind)] == sorted(
        pairs, key=lambda pair: [kind for kind, _ in pairs].index(pair[0])
    )
    assert vectors == ProxyProtocolTLV(init=vectors)
    assert [*ProxyProtocolTLV(init=vectors)] == sorted(set(dict(pairs)))


def test_missing_fields_are_none_or_empty() -> None:
    vectors = ProxyProtocolTLV()
    assert (vectors.alpn, vectors.authority, vectors.crc32c, vectors.netns) == (None, None, None, None)
    assert (vectors.aws_vpce_id, vectors.azure_link_id, vectors.gcp_psc_id) == (None, None, None)
    assert (vectors.alibaba_vpc_id, vectors.alibaba_endpoint_id, vectors.alibaba_service_id) == (None, None, None)
    assert (vectors.unique_id, bool(vectors.ssl), bool(vectors.ext)) == (b"", False, False)
    ssl, ext = vectors.ssl, vectors.ext
    assert {ssl.version, ssl.cn, ssl.cipher, ssl.sig_alg, ssl.key_alg, ssl.group, ssl.sig_scheme, ssl.client_cert} == {
        None
    }
    assert (ssl.client, ssl.verify, ssl.verified, ssl.client_verified) == (0, 1, False, False)
    assert (ext.compression, ext.secret_bits, ext.peercert, ext.dnsbl) == (None, None, None, None)
    assert ProxyProtocolTLV(ssl=ssl, ext=ext) == vectors


def test_a_keyword_sets_its_property() -> None:
    ssl = ProxyProtocolSSLTLV(
        version="1", cn="é", cipher="3", sig_alg="4", key_alg="5", group="6", sig_scheme="7", client_cert=b"8"
    )
    texts = (ssl.version, ssl.cn, ssl.cipher, ssl.sig_alg, ssl.key_alg, ssl.group, ssl.sig_scheme, ssl.client_cert)
    assert texts == ("1", "é", "3", "4", "5", "6", "7", b"8")
    assert list(ssl) == list(range(0x21, 0x29))
    vectors = ProxyProtocolTLV(alpn=b"\xff", authority="é", crc32c=7, unique_id=b"\0", ssl=ssl, netns="n")
    assert (vectors.alpn, vectors.authority, vectors.crc32c, vectors.unique_id) == (b"\xff", "é", 7, b"\0")
    assert (vectors.ssl, vectors.netns, vectors[Type.PP2_TYPE_CRC32C]) == (ssl, "n", b"\0\0\0\7")


def test_text_that_is_not_utf8_has_backslash_escapes() -> None:
    shown = r"a\xff\xfe" + "\n\0" + r"\xed\xa0\x80"
    vectors = ProxyProtocolTLV(tlv(0x02, NOT_UTF8) + tlv(0x30, NOT_UTF8) + tlv(0xEA, b"\1" + NOT_UTF8))
    assert (vectors.authority, vectors.netns, vectors.aws_vpce_id) == (shown, shown, shown)
    ssl = ProxyProtocolSSLTLV(bytes(5) + b"".join(tlv(kind, NOT_UTF8) for kind in range(0x21, 0x29)))
    assert {ssl.version, ssl.cn, ssl.cipher, ssl.sig_alg, ssl.key_alg, ssl.group, ssl.sig_scheme} == {shown}
    assert ssl.client_cert == NOT_UTF8


@pytest.mark.parametrize(("value", "number"), [(b"\0\0\0\7", 7), (b"", None), (b"\7", None), (bytes(5), None)])
def test_a_checksum_has_four_bytes_or_is_none(value: bytes, number: int | None) -> None:
    assert ProxyProtocolTLV(tlv(0x03, value)).crc32c == number


@pytest.mark.parametrize(
    ("name", "wire", "value"),
    [
        ("aws_vpce_id", tlv(0xEA, b"\1vpce-08d2bf15fac5001c9"), "vpce-08d2bf15fac5001c9"),
        ("aws_vpce_id", tlv(0xEA, b"\1"), ""),
        ("aws_vpce_id", tlv(0xEA, b"\2vpce"), None),
        ("aws_vpce_id", tlv(0xEA), None),
        ("azure_link_id", tlv(0xEE, b"\1\xc1\x45\0\0"), 17857),
        ("azure_link_id", tlv(0xEE, b"\1\xff\xff\xff\xff"), 0xFFFFFFFF),
        ("azure_link_id", tlv(0xEE, b"\2\xc1\x45\0\0"), None),
        ("azure_link_id", tlv(0xEE, b"\1\xc1\x45\0"), None),
        ("azure_link_id", tlv(0xEE, b"\1\xc1\x45\0\0\0"), None),
        ("gcp_psc_id", tlv(0xE0, b"\0\1\0\0\0\0\0\2"), 0x0001000000000002),
        ("gcp_psc_id", tlv(0xE0, bytes(7)), None),
        ("gcp_psc_id", tlv(0xE0, bytes(9)), None),
        ("alibaba_vpc_id", tlv(0xE1, b"\1vpc-bp1"), "vpc-bp1"),
        ("alibaba_endpoint_id", tlv(0xE1, b"\2ep-bp1"), "ep-bp1"),
        ("alibaba_service_id", tlv(0xE1, b"\3epsrv-bp1"), "epsrv-bp1"),
        ("alibaba_service_id", tlv(0xE1, b"\4epsrv-bp1") + tlv(0xE1), None),
    ],
)
def test_a_vendors_field_needs_its_sub_type_and_size(name: str, wire: bytes, value: object) -> None:
    assert getattr(ProxyProtocolTLV(wire), name) == value


@pytest.mark.parametrize(
    ("name", "wire", "value"),
    [
        ("aws_vpce_id", tlv(0xEA, b"\1vpce-1") + tlv(0xEA, b"\2x"), "vpce-1"),
        ("aws_vpce_id", tlv(0xEA) + tlv(0xEA, b"\1vpce-1") + tlv(0xEA, b"\1vpce-2") + tlv(0xEA), "vpce-2"),
        ("azure_link_id", tlv(0xEE, b"\1\7\0\0\0") + tlv(0xEE, b"\2\7\0\0\0") + tlv(0xEE, b"\1"), 7),
        ("gcp_psc_id", tlv(0xE0, bytes(7) + b"\7") + tlv(0xE0, b"x"), 7),
        *(
            (name, tlv(0xE1, b"\1v") + tlv(0xE1, b"\2e") + tlv(0xE1, b"\3s") + tlv(0xE1, b"\4?"), value)
            for name, value in (("alibaba_vpc_id", "v"), ("alibaba_endpoint_id", "e"), ("alibaba_service_id", "s"))
        ),
    ],
)
def test_the_last_tlv_with_a_vendors_field_wins(name: str, wire: bytes, value: object) -> None:
    assert getattr(ProxyProtocolTLV(wire), name) == value
    assert getattr(ProxyProtocolTLV(tlv(2, b"a.example") + wire + tlv(1)), name) == value


def test_a_field_is_read_only() -> None:
    assert ProxyProtocolTLV.aws_vpce_id.what == "VPC endpoint"
    with pytest.raises(AttributeError):
        ProxyProtocolTLV().aws_vpce_id = "vpce-1"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        ProxyProtocolTLV().authority = "a.example"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        ({"aws_vpce_id": "vpce-1"}, tlv(0xEA, b"\1vpce-1")),
        ({"azure_link_id": 42}, tlv(0xEE, b"\1\x2a\0\0\0")),
        ({"gcp_psc_id": 1 << 63}, tlv(0xE0, b"\x80" + bytes(7))),
        (
            {"alibaba_vpc_id": "v", "alibaba_endpoint_id": "e", "alibaba_service_id": "s"},
            tlv(0xE1, b"\1v") + tlv(0xE1, b"\2e") + tlv(0xE1, b"\3s"),
        ),
    ],
    ids=["AWS", "Azure", "GCP", "Alibaba"],
)
def test_a_vendors_field_is_a_keyword(given: dict[str, Any], wire: bytes) -> None:
    vectors = ProxyProtocolTLV(**given)
    assert bytes(vectors) == wire
    assert {name: getattr(vectors, name) for name in given} == given


def test_a_vendors_field_replaces_only_its_own_sub_type() -> None:
    wire = tlv(0xE1, b"\1v") + tlv(0xE1, b"\2e") + tlv(0xE1, b"?")
    assert bytes(ProxyProtocolTLV(wire, alibaba_vpc_id="new")) == tlv(0xE1, b"\2e") + tlv(0xE1, b"?") + tlv(
        0xE1, b"\1new"
    )


@pytest.mark.parametrize("kind", [ProxyProtocolTLV, ProxyProtocolSSLTLV, ProxyProtocolExtTLV])
def test_a_constructor_shows_its_keywords_and_rejects_others(kind: Any) -> None:
    keywords = rows(kind)
    assert keywords
    parameters = inspect.signature(kind).parameters
    assert [name for name in parameters if name in keywords] == list(keywords)
    assert kind(**dict.fromkeys(keywords)) == kind()
    for name in ("nonsense", "client", "size"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            kind(**{name: None})


def test_a_field_is_documented() -> None:
    assert ProxyProtocolTLV.alpn.__doc__ == "The protocol above, such as h2 (PP2_TYPE_ALPN, section 2.2.1)."
    assert ProxyProtocolTLV.aws_vpce_id.__doc__ == "The VPC endpoint that AWS names in type 0xEA (PP2_TYPE_AWS)."
    assert ProxyProtocolSSLTLV.has_ssl.__doc__ == "Whether the client connected over TLS."
    for kind in (ProxyProtocolTLV, ProxyProtocolSSLTLV, ProxyProtocolExtTLV):
        docs = [row.__doc__ for row in rows(kind).values()]
        assert all(docs)
        assert len({*docs}) == len(docs)


def test_a_row_of_a_subclass_is_a_field_like_any_other() -> None:
    class Mine(ProxyProtocolTLV):
        my_zone: Field[str, str | None] = vendor("Mine", 0xE9, b"\7", TEXT, "zone")

    mine = Mine(my_zone="z", alpn=b"h2")
    assert (mine.my_zone, mine.alpn, bytes(mine)) == ("z", b"h2", tlv(1, b"h2") + tlv(0xE9, b"\7z"))
    assert "my_zone" in inspect.signature(Mine).parameters

    class Fixed(Mine):
        def __init__(self, zone: str) -> None:
            super().__init__(my_zone=zone)

    assert list(inspect.signature(Fixed).parameters) == ["zone"]
    assert Fixed("y").my_zone == "y"


@pytest.mark.parametrize("arguments", [{"crc32c": -1}, {"crc32c": 1 << 32}])
def test_a_number_out_of_range_is_a_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="crc32c: expected a number of 32 bits, not"):
        ProxyProtocolTLV(**arguments)
    with pytest.raises(ValueError, match="secret_bits: expected a number of 16 bits, not 65536"):
        ProxyProtocolExtTLV(secret_bits=1 << 16)


def test_text_that_cannot_be_encoded_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ProxyProtocolTLV(authority="\ud800")


# client flags and verify code; then verified, as in proxy-protocol, and client_verified
SSL_HEADS = [
    (0x01, 0, True, False),  # TLS without a certificate: senders write 0 here too
    (0x03, 0, True, True),
    (0x05, 0, True, True),
    (0x07, 0, True, True),
    (0x02, 0, True, True),
    (0x03, 1, False, False),
    (0x07, 0xFFFFFFFF, False, False),
    (0x00, 0, True, False),
    (0xF8, 0, True, False),
]


@pytest.mark.parametrize(("client", "verify", "verified", "client_verified"), SSL_HEADS)
def test_a_client_is_verified_only_by_a_certificate_it_showed(
    client: int, verify: int, verified: bool, client_verified: bool
) -> None:
    ssl = ProxyProtocolSSLTLV(bytes((client,)) + verify.to_bytes(4, "big") + tlv(0x22, b"admin"))
    assert (ssl.verified, ssl.client_verified, ssl.cn) == (verified, client_verified, "admin")
    assert (int(ssl.client), ssl.verify) == (client, verify)
    assert ssl.has_ssl is bool(client & SSLClient.PP2_CLIENT_SSL)
    assert ssl.has_cert_conn is bool(client & SSLClient.PP2_CLIENT_CERT_CONN)
    assert ssl.has_cert_sess is bool(client & SSLClient.PP2_CLIENT_CERT_SESS)


def test_each_flag_can_be_set_and_cleared() -> None:
    ssl = ProxyProtocolSSLTLV(b"\xff\0\0\0\5", has_ssl=False, has_cert_sess=False, verified=False)
    assert bytes(ssl) == b"\xfa\0\0\0\5"
    assert bytes(ProxyProtocolSSLTLV(init=ssl, has_ssl=True, verified=True, cn="x")) == b"\xfb\0\0\0\0" + tlv(
        0x22, b"x"
    )
    assert bytes(ProxyProtocolSSLTLV(verified=False)) == b"\0\0\0\0\1"


@pytest.mark.parametrize("data", [b"", bytes(4), bytes(5) + b"\x21", bytes(5) + b"\x21\0\1"])
def test_a_malformed_ssl_counts_as_empty(data: bytes) -> None:
    assert (ProxyProtocolSSLTLV(data), bool(ProxyProtocolSSLTLV(data))) == (ProxyProtocolSSLTLV(), False)
    assert bool(ProxyProtocolSSLTLV(b"\1\0\0\0\1"))


def extension(*vectors: bytes) -> ProxyProtocolExtTLV:
    return ProxyProtocolTLV(tlv(0x04, ProxyProtocolExtTLV.MAGIC_PREFIX + b"".join(vectors))).ext


def test_the_extension_of_proxy_protocol_is_read() -> None:
    # recorded from proxy-protocol 0.11.3
    wire = bytes.fromhex(
        "04 0054 881b79c1ce9685b0 01 0004 7a6c6962 02 0002 0100 03 0031 789cab562a2e4dca4a4d2e51b252888e8e564ace"
        "cfcdcdcff34bcc4d55d251508a29353048b5548a8d8dad050022600d5c 04 0009 782e6578616d706c65"
    )
    for ext in (ProxyProtocolTLV(wire).ext, ProxyProtocolExtTLV(wire[3:])):
        assert (ext.compression, ext.secret_bits, ext.dnsbl) == ("zlib", 256, "x.example")
        assert ext.peercert == {"subject": [[["commonName", "é"]]]}
        assert list(ext) == list(ExtType)


def test_the_extension_survives_the_wire() -> None:
    ext = ProxyProtocolExtTLV(compression="", secret_bits=65535, peercert={"version": 3}, dnsbl="é")
    result = V2.unpack(V2.pack(ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(ext=ext))))
    assert result.tlv.ext == ext
    assert (result.tlv.ext.peercert, result.tlv.ext.dnsbl) == ({"version": 3}, "é")


@pytest.mark.parametrize(
    "noop", [b"", bytes(8), ProxyProtocolExtTLV.MAGIC_PREFIX[:7], ProxyProtocolExtTLV.MAGIC_PREFIX + b"\1"]
)
def test_any_other_noop_is_not_an_extension(noop: bytes) -> None:
    assert not ProxyProtocolTLV(tlv(0x04, noop)).ext


@pytest.mark.parametrize("value", [b"", b"\1", b"\0\0\1"])
def test_secret_bits_of_another_size_are_none(value: bytes) -> None:
    assert extension(tlv(2, value)).secret_bits is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not zlib", id="not compressed"),
        pytest.param(zlib.compress(b"{}")[:-1], id="cut"),
        pytest.param(zlib.compress(b""), id="empty"),
        pytest.param(zlib.compress(b"{"), id="not JSON"),
        pytest.param(zlib.compress(b'{"\xff": 1}'), id="not UTF-8"),
        pytest.param(zlib.compress(b"[1]"), id="not an object"),
        pytest.param(zlib.compress(b'{"a": ' + b"[" * 60_000), id="nested deeply"),
        pytest.param(zlib.compress(b'{"a": ' + b"9" * 60_000 + b"}"), id="a number of 60,000 digits"),
        pytest.param(zlib.compress(json.dumps({"a": "x" * 65_536}).encode()), id="over 64 KiB"),
        pytest.param(zlib.compress(bytes(50_000_000)), id="50 MB of zeros"),
    ],
)
def test_a_malformed_peer_certificate_is_none(value: bytes) -> None:
    assert extension(tlv(3, value)).peercert is None


def test_a_peer_certificate_of_64_kib_is_read_whole() -> None:
    text = json.dumps({"a": "x" * (65_536 - 9)})
    assert len(text) == 65_536
    assert extension(tlv(3, zlib.compress(text.encode()))).peercert == json.loads(text)


HEADER = bytes(range(16))


def test_auto_crc32c_adds_a_checksum_that_verifies() -> None:
    vectors = ProxyProtocolTLV(alpn=b"h2", netns="n", auto_crc32c=True)
    assert vectors.size == len(bytes(vectors)) + 7
    summed = vectors.with_checksum(HEADER[:9], HEADER[9:])
    assert list(summed) == [0x01, 0x03, 0x30]
    assert (summed.size, len(bytes(summed))) == (vectors.size, vectors.size)
    assert summed.verify_checksum(HEADER)
    assert not summed.verify_checksum(HEADER[1:])
    assert not summed.verify_checksum()


def test_without_auto_crc32c_or_with_a_checksum_none_is_added() -> None:
    for vectors in (
        ProxyProtocolTLV(alpn=b"h2"),
        ProxyProtocolTLV(crc32c=5),
        ProxyProtocolTLV(crc32c=5, auto_crc32c=True),
    ):
        assert bytes(vectors.with_checksum(HEADER)) == bytes(vectors)
        assert vectors.size == len(bytes(vectors))


def test_a_missing_checksum_verifies_and_a_malformed_one_does_not() -> None:
    assert ProxyProtocolTLV(alpn=b"h2").verify_checksum(HEADER)
    assert not ProxyProtocolTLV(tlv(0x03, b"?")).verify_checksum(HEADER)
    with pytest.raises(ProxyProtocolSyntaxError):
        ProxyProtocolTLV(tlv(0x20), auto_crc32c=True).with_checksum(HEADER)


def test_the_checksum_of_a_header_verifies_by_the_bytes_before_its_tlvs() -> None:
    header = V2_CRC.pack(ProxyResultIPv4(*IPV4, tlv=ProxyProtocolTLV(alpn=b"h2")))
    assert V2_CRC.unpack(header).tlv.verify_checksum(header[:16], header[16:28])


def test_the_extension_is_found_beside_padding() -> None:
    extension = bytes(ProxyProtocolTLV(ext=ProxyProtocolExtTLV(dnsbl="listed")))
    padding = bytes(ProxyProtocolTLV(init={Type.PP2_TYPE_NOOP: bytes(5)}))
    for wire in (extension + padding, padding + extension):
        assert ProxyProtocolTLV(wire).ext.dnsbl == "listed"
