"""Drop-in: calls return the same as those of the PyPI package proxy-protocol 0.11.3.

The answers were recorded from that package; docs/migration.rst lists the differences.
"""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from proxyprotocol import ProxyProtocolIncompleteError
from tests.project.dropin_names import HEAD, NAMESPACE, V1_LINE, V2_HEADER

# In the form of an interactive session. NAMESPACE has every public name, and R4 and similar objects.
CALLS = r"""
>>> [(want.want_bytes, want.want_line) for want in (ProxyProtocolWantRead(3), ProxyProtocolWantRead(want_line=True))]
[(3, False), (None, True)]
>>> ProxyProtocolIncompleteError(ProxyProtocolWantRead(3)).want_read.want_bytes
3
>>> ProxyProtocolChecksumError(R4).result is R4
True
>>> str(ProxyProtocolSyntaxError("abc")), ProxyProtocolSyntaxError("abc").args
('abc', ('abc',))
>>> [type(ProxyProtocolVersion.get(name)).__name__ for name in (None, "", "Noop", "V1", "v2")]
['ProxyProtocolNoop', 'ProxyProtocolNoop', 'ProxyProtocolNoop', 'ProxyProtocolV1', 'ProxyProtocolV2']
>>> ProxyProtocolVersion.get("v2") is ProxyProtocolVersion.V2.value
True
>>> [type(version).__name__ for version in ProxyProtocolDetect().versions]
['ProxyProtocolV2', 'ProxyProtocolV1']
>>> [type(version).__name__ for version in ProxyProtocolDetect(ProxyProtocolV1()).versions]
['ProxyProtocolV1']
>>> [type(ProxyProtocolDetect().choose_version(first)).__name__ for first in (V1_LINE[:8], HEAD[:8])]
['ProxyProtocolV1', 'ProxyProtocolV2']
>>> [ProxyProtocolV1().is_valid(first) for first in (V1_LINE[:8], b"PROXY", HEAD[:8], memoryview(V1_LINE))]
[True, False, False, True]
>>> [ProxyProtocolV2().is_valid(first) for first in (HEAD[:8], HEAD[:7], V1_LINE[:8])]
[True, False, False]
>>> [ProxyProtocolDetect().is_valid(first) for first in (HEAD[:8], V1_LINE[:8], b"GET / HT")]
[True, True, False]
>>> ProxyProtocolV1().unpack(V1_LINE).source, ProxyProtocolV1().unpack(V1_LINE).sockname
((IPv4Address('1.2.3.4'), 5), ('5.6.7.8', 9))
>>> ProxyProtocolV1().unpack(b"PROXY TCP6 2001:db8::1 ::1 5 9\r\n").peername
('2001:db8::1', 5, 0, 0)
>>> ProxyProtocolV1().unpack(b"PROXY UNKNOWN\r\n")
ProxyResultUnknown()
>>> ProxyProtocolV1().unpack(b"PROXY UNKNOWN whatever it says\r\n")
ProxyResultUnknown()
>>> ProxyProtocolV1().unpack(memoryview(V1_LINE)).dest
(IPv4Address('5.6.7.8'), 9)
>>> ProxyProtocolV1().unpack_line(V1_LINE).dest
(IPv4Address('5.6.7.8'), 9)
>>> ProxyProtocolV1().pack(R4)
b'PROXY TCP4 1.2.3.4 5.6.7.8 5 9\r\n'
>>> ProxyProtocolV1().pack(ProxyResultIPv6(R6.source, R6.dest))
b'PROXY TCP6 2001:db8::1 ::1 5 9\r\n'
>>> ProxyProtocolV2().unpack(V2_HEADER)
ProxyResultIPv4((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), protocol=socket.SOCK_STREAM)
>>> ProxyProtocolV2().unpack(bytearray(V2_HEADER)).peername
('1.2.3.4', 5)
>>> ProxyProtocolV2().unpack(memoryview(V2_HEADER)).peername
('1.2.3.4', 5)
>>> ProxyProtocolV2().unpack(HEAD + b" \x00\x00\x00")
ProxyResultLocal()
>>> ProxyProtocolV2().unpack(HEAD + b"!\x00\x00\x00")
ProxyResultUnknown()
>>> ProxyProtocolV2().unpack(HEAD + b"!\x12\x00\x11" + BLOCK4 + b"\x01\x00\x02h2").protocol
<SocketKind.SOCK_DGRAM: 2>
>>> ProxyProtocolV2().unpack(HEAD + b"!\x12\x00\x11" + BLOCK4 + b"\x01\x00\x02h2").tlv
ProxyProtocolTLV(b'\x01\x00\x02h2')
>>> ProxyProtocolDetect(ProxyProtocolV1(), ProxyProtocolV2()).pack(RU) == ProxyProtocolV2().pack(RU)
True
>>> ProxyProtocolDetect(ProxyProtocolV1(), ProxyProtocolV2()).pack(LOCAL) == ProxyProtocolV2().pack(LOCAL)
True
>>> ProxyProtocolDetect(ProxyProtocolV1(), ProxyProtocolV2()).pack(R4)
b'PROXY TCP4 1.2.3.4 5.6.7.8 5 9\r\n'
>>> ProxyProtocolV2().pack(R4)
b'\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x13\x01\x02\x03\x04\x05\x06\x07\x08\x00\x05\x00\t\x03\x00\x04\xdf\xb4\xf8*'
>>> ProxyProtocolV2().pack(R6)[12:16], ProxyProtocolV2().pack(R6)[-11:]
(b'!"\x00+', b'\x00\x05\x00\t\x03\x00\x04}imO')
>>> ProxyProtocolV2().pack(UNKNOWN)
b'\r\n\r\n\x00\r\nQUIT\n!\x00\x00\x07\x03\x00\x04>\xc9\x89N'
>>> ProxyProtocolV2().unpack(ProxyProtocolV2().pack(RU)).source
'/a'
>>> [getattr(ProxyProtocolV2().unpack_header(V2_HEADER), name) for name in ("command", "protocol", "data_len")]
['proxy', <SocketKind.SOCK_STREAM: 1>, 12]
>>> ProxyProtocolV2().unpack_header(HEAD + b" \x00\x00\x00").command
'local'
>>> ProxyProtocolV2().unpack_data(ProxyProtocolV2().unpack_header(V2_HEADER), V2_HEADER[:16], BLOCK4)
ProxyResultIPv4((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), protocol=socket.SOCK_STREAM)
>>> ProxyProtocolV2().unpack_data(ProxyProtocolV2Header("local", None, None, 0), b"", b"")
ProxyResultLocal()
>>> ProxyProtocolV2Header(command="proxy", type=ProxyResultType.IPv4, protocol=None, data_len=3).data_len
3
>>> ProxyProtocolNoop().unpack(b"GET"), ProxyProtocolNoop().pack(R4)
(ProxyResultLocal(), b'')
>>> ProxyProtocolDetect().unpack(V2_HEADER)
ProxyResultIPv4((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), protocol=socket.SOCK_STREAM)
>>> ProxyProtocolDetect().pack(R4) == ProxyProtocolV2().pack(R4)
True
>>> ProxyProtocolDetect(ProxyProtocolV1(), ProxyProtocolV2()).pack(R4)
b'PROXY TCP4 1.2.3.4 5.6.7.8 5 9\r\n'
>>> R4
ProxyResultIPv4((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), protocol=socket.SOCK_STREAM)
>>> R6
ProxyResultIPv6((IPv6Address('2001:db8::1'), 5), (IPv6Address('::1'), 9), protocol=socket.SOCK_DGRAM)
>>> [RU, UNKNOWN, LOCAL]
[ProxyResultUnix('/a', '/b', protocol=socket.SOCK_STREAM), ProxyResultUnknown(), ProxyResultLocal()]
>>> ProxyResultUnknown(ValueError("x")), ProxyResultUnknown(ValueError("x")).exception
(ProxyResultUnknown(ValueError('x')), ValueError('x'))
>>> ProxyResultLocal(tlv=ProxyProtocolTLV(alpn=b"h2"))
ProxyResultLocal(tlv=ProxyProtocolTLV(b'\x01\x00\x02h2'))
>>> R4.type, R4.family, R4.protocol
(<ProxyResultType.IPv4: (3, 'AF_INET')>, <AddressFamily.AF_INET: 2>, <SocketKind.SOCK_STREAM: 1>)
>>> R4.proxied, R4.tlv
(True, ProxyProtocolTLV())
>>> R4.source, R4.dest, R4.peername, R4.sockname
((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), ('1.2.3.4', 5), ('5.6.7.8', 9))
>>> R6.type, R6.family, R6.protocol, R6.proxied
(<ProxyResultType.IPv6: (4, 'AF_INET6')>, <AddressFamily.AF_INET6: 10>, <SocketKind.SOCK_DGRAM: 2>, True)
>>> R6.source, R6.dest, R6.peername, R6.sockname
((IPv6Address('2001:db8::1'), 5), (IPv6Address('::1'), 9), ('2001:db8::1', 5, 0, 0), ('::1', 9, 0, 0))
>>> RU.type, RU.family
(<ProxyResultType.UNIX: (5, 'AF_UNIX')>, <AddressFamily.AF_UNIX: 1>)
>>> RU.source, RU.dest, RU.peername, RU.sockname
('/a', '/b', '/a', '/b')
>>> UNKNOWN.type, UNKNOWN.family, UNKNOWN.proxied
(<ProxyResultType.UNKNOWN: (2, 'AF_UNSPEC')>, <AddressFamily.AF_UNSPEC: 0>, True)
>>> UNKNOWN.exception, UNKNOWN.source, UNKNOWN.peername
(None, None, None)
>>> LOCAL.type, LOCAL.family, LOCAL.proxied, LOCAL.protocol, LOCAL.dest, LOCAL.sockname
(<ProxyResultType.LOCAL: (1, 'AF_UNSPEC')>, <AddressFamily.AF_UNSPEC: 0>, False, None, None, None)
>>> [is_ipv4(R4), is_ipv6(R6), is_unix(RU), is_unknown(UNKNOWN), is_local(LOCAL)]
[True, True, True, True, True]
>>> [is_ipv4(R6), is_ipv6(R4), is_unix(LOCAL), is_unknown(LOCAL), is_local(UNKNOWN)]
[False, False, False, False, False]
>>> TLV(), TLV(b"\x01\x00\x02h2"), TLV(b"\x01\x00\x01a", {2: b"b"}), TLV(memoryview(b"\x01\x00\x01a"))
(TLV(), TLV(b'\x01\x00\x02h2'), TLV(b'\x01\x00\x01a\x02\x00\x01b'), TLV(b'\x01\x00\x01a'))
>>> bytes(TLV(init={2: b"a", 1: b"b"})), TLV(b"\x01\x00\x02h2").size, len(TLV(b"\x01\x00\x02h2"))
(b'\x01\x00\x01b\x02\x00\x01a', 5, 1)
>>> dict(TLV(b"\x01\x00\x01a", {1: b"b"})), bool(TLV()), bool(TLV(b"\x01\x00\x00"))
({1: b'b'}, False, True)
>>> TLV(b"\x01\x00\x01a") == {1: b"a"}, TLV(b"\x01\x00\x01a") == ProxyProtocolTLV(alpn=b"a"), TLV() == 1
(True, True, False)
>>> hash(TLV(b"\x01\x00\x01a")) == hash(ProxyProtocolTLV(alpn=b"a"))
True
>>> TLV(b"\x01\x00\x01a")[1], TLV(b"\x01\x00\x01a").get(2), 1 in TLV(b"\x01\x00\x01a"), 2 in TLV()
(b'a', None, True, False)
>>> ProxyProtocolTLV(alpn=b"h2", authority="é", crc32c=1, unique_id=b"u")
ProxyProtocolTLV(b'\x01\x00\x02h2\x02\x00\x02\xc3\xa9\x03\x00\x04\x00\x00\x00\x01\x05\x00\x01u')
>>> ProxyProtocolTLV(b"\x01\x00\x01x", alpn=b"y").alpn, ProxyProtocolTLV(init={1: b"x"}, alpn=b"y").alpn
(b'y', b'y')
>>> ProxyProtocolTLV(authority="é").authority, ProxyProtocolTLV(crc32c=7).crc32c, ProxyProtocolTLV(netns="n").netns
('é', 7, 'n')
>>> [getattr(ProxyProtocolTLV(), name) for name in ("alpn", "authority", "crc32c", "unique_id", "ssl", "ext")]
[None, None, None, b'', ProxyProtocolSSLTLV(), ProxyProtocolExtTLV()]
>>> ProxyProtocolTLV(unique_id=b""), ProxyProtocolTLV(ssl=ProxyProtocolSSLTLV(), ext=ProxyProtocolExtTLV())
(ProxyProtocolTLV(b'\x05\x00\x00'), ProxyProtocolTLV())
>>> ProxyProtocolTLV(alpn=b"a").with_checksum(b"abc"), ProxyProtocolTLV(alpn=b"a").verify_checksum(b"abc")
(ProxyProtocolTLV(b'\x01\x00\x01a'), True)
>>> ProxyProtocolTLV(alpn=b"a", auto_crc32c=True).with_checksum(b"a", b"bc")
ProxyProtocolTLV(b'\x01\x00\x01a\x03\x00\x04\xc0\xf1\xa9/')
>>> ProxyProtocolTLV(alpn=b"a", auto_crc32c=True).with_checksum(b"abc").verify_checksum(b"a", b"bc")
True
>>> ProxyProtocolTLV(alpn=b"a", auto_crc32c=True).size
11
>>> ProxyProtocolTLV(crc32c=1).verify_checksum(b"abc")
False
>>> ProxyProtocolTLV(crc32c=1).with_checksum(b"abc").crc32c
1
>>> bytes(ProxyProtocolSSLTLV()), bool(ProxyProtocolSSLTLV()), ProxyProtocolSSLTLV().size
(b'\x00\x00\x00\x00\x01', False, 0)
>>> ProxyProtocolSSLTLV(has_ssl=True, verified=True, version="a", cn="b", cipher="c", sig_alg="d", key_alg="e")
ProxyProtocolSSLTLV(b'\x01\x00\x00\x00\x00!\x00\x01a"\x00\x01b#\x00\x01c$\x00\x01d%\x00\x01e')
>>> ProxyProtocolSSLTLV(b"\x07\x00\x00\x00\x00\x21\x00\x01v", has_ssl=False, version="w")
ProxyProtocolSSLTLV(b'\x06\x00\x00\x00\x00!\x00\x01w')
>>> int(ProxyProtocolSSLTLV(has_ssl=True, has_cert_conn=True, has_cert_sess=True).client)
7
>>> ProxyProtocolSSLTLV().verify, ProxyProtocolSSLTLV().verified, ProxyProtocolSSLTLV(verified=True).verify
(1, False, 0)
>>> ProxyProtocolSSLTLV(b"\x01\x00\x00\x00\x00").verified, ProxyProtocolSSLTLV(b"\x01\x00\x00\x00\x05").verify
(True, 5)
>>> ProxyProtocolSSLTLV(has_ssl=True).has_ssl, ProxyProtocolSSLTLV(b"\x02\x00\x00\x00\x00").has_cert_conn
(True, True)
>>> ProxyProtocolSSLTLV(version="v").version, ProxyProtocolSSLTLV(cn="é").cn, ProxyProtocolSSLTLV().key_alg
('v', 'é', None)
>>> bytes(ProxyProtocolExtTLV()), bool(ProxyProtocolExtTLV()), ProxyProtocolExtTLV().dnsbl
(b'\x88\x1by\xc1\xce\x96\x85\xb0', False, None)
>>> ProxyProtocolExtTLV(compression="zlib", secret_bits=256, dnsbl="d")
ProxyProtocolExtTLV(b'\x88\x1by\xc1\xce\x96\x85\xb0\x01\x00\x04zlib\x02\x00\x02\x01\x00\x04\x00\x01d')
>>> ProxyProtocolTLV(ext=ProxyProtocolExtTLV(peercert=PEERCERT, secret_bits=5)).ext.peercert
{'subject': [[['commonName', 'x']]]}
>>> ProxyProtocolTLV(init={4: b"not of this kind"}).ext
ProxyProtocolExtTLV()
>>> ProxyProtocolExtTLV.MAGIC_PREFIX
b'\x88\x1by\xc1\xce\x96\x85\xb0'
>>> crc32c(b"123456789"), crc32c(b"6789", crc32c(b"12345"))
(3808858755, 3808858755)
>>> build_transport_result(TCP)
ProxyResultIPv4((IPv4Address('1.2.3.4'), 5), (IPv4Address('5.6.7.8'), 9), protocol=socket.SOCK_STREAM)
>>> build_transport_result(TCP, unique_id=b"id", dnsbl="list").tlv
ProxyProtocolTLV(b'\x04\x00\x0f\x88\x1by\xc1\xce\x96\x85\xb0\x04\x00\x04list\x05\x00\x02id')
>>> build_transport_result(TLS).tlv.ssl
ProxyProtocolSSLTLV(b'\x03\x00\x00\x00\x00!\x00\x07TLSv1.3#\x00\x06CIPHER')
>>> SocketInfo.get(TCP, None), SocketInfo.get(TCP, LOCAL).peername
(<SocketInfoLocal peername='[1.2.3.4]:5' sockname='[5.6.7.8]:9'>, ('1.2.3.4', 5))
>>> SocketInfo.get(TCP, R6)
<SocketInfoProxy peername='[2001:db8::1]:5' sockname='[::1]:9'>
>>> [SocketInfo.get(TCP, result) for result in (UNKNOWN, ProxyResultUnknown(ValueError("x")), RU)]
[<SocketInfoProxy>, <SocketInfoProxy exc=ValueError('x')>, <SocketInfoProxy peername='/a' sockname='/b'>]
>>> SocketInfoProxy(TCP, R6).peername, SocketInfoProxy(TCP, R6).sockname
(('2001:db8::1', 5, 0, 0), ('::1', 9, 0, 0))
>>> SocketInfoProxy(TCP, R6).peername_ip, SocketInfoProxy(TCP, R6).peername_port
(IPv6Address('2001:db8::1'), 5)
>>> SocketInfoProxy(TCP, R6).peername_str
'[2001:db8::1]:5'
>>> SocketInfoProxy(TCP, RU).sockname_ip, SocketInfoProxy(TCP, RU).sockname_port, SocketInfoProxy(TCP, RU).sockname_str
(None, None, '/b')
>>> SocketInfoProxy(TCP, R6).family, SocketInfoProxy(TCP, R6).protocol, SocketInfoProxy(TCP, R6).from_localhost
(<AddressFamily.AF_INET6: 10>, <SocketKind.SOCK_DGRAM: 2>, False)
>>> SocketInfoProxy(TCP, UNKNOWN).family, SocketInfoProxy(TCP, UNKNOWN).peername_str
(<AddressFamily.AF_UNSPEC: 0>, None)
>>> SocketInfoProxy(TCP, build_transport_result(TLS)).cipher
('CIPHER', 'TLSv1.3', 256)
>>> SocketInfoProxy(TCP, build_transport_result(TLS)).peercert
{'subject': [[['commonName', 'x']]]}
>>> SocketInfoLocal(TLS).cipher, SocketInfoLocal(TLS).peercert
(('CIPHER', 'TLSv1.3', 256), {'subject': ((('commonName', 'x'),),)})
>>> SocketInfoLocal(TLS, unique_id=b"u", dnsbl="d").unique_id
b'u'
>>> [type(Dnsbl.load(host)).__name__ for host in (None, "x.example", "zen.spamhaus.org")]
['NoopDnsbl', 'BasicDnsbl', 'SpamhausDnsbl']
>>> BasicDnsbl("x.example", 3).map_results([IPv4Address("127.0.0.2")]), BasicDnsbl("x.example", 3).map_results([])
('x.example', None)
>>> SpamhausDnsbl("zen.spamhaus.org", 3).map_results([IPv4Address("127.0.0.4")])
'https://www.spamhaus.org/xbl/'
"""

# The second line is the exception.
RAISES = r"""
>>> ProxyProtocolVersion.get("v3")
KeyError
>>> ProxyProtocol()
TypeError
>>> ProxyProtocolNoop().is_valid(b"")
NotImplementedError
>>> ProxyProtocolDetect().choose_version(b"GET / HT")
ProxyProtocolSyntaxError
>>> ProxyProtocolDetect().unpack(b"GET / HTTP/1.1\r\n")
ProxyProtocolSyntaxError
>>> ProxyProtocolV1().unpack(b"PROXY XXX\r\n")
ProxyProtocolSyntaxError
>>> ProxyProtocolV1().unpack_line(b"PROXY")
ProxyProtocolSyntaxError
>>> ProxyProtocolV1().pack(LOCAL)
ValueError
>>> ProxyProtocolV1().pack(RU)
KeyError
>>> ProxyProtocolDetect(ProxyProtocolV1()).pack(LOCAL)
ValueError
>>> ProxyProtocolDetect(ProxyProtocolV1(), ProxyProtocolV1()).pack(RU)
ValueError
>>> ProxyProtocolV2().unpack(HEAD + b"1\x11\x00\x0c" + BLOCK4)
ProxyProtocolSyntaxError
>>> ProxyProtocolV2().unpack(HEAD + b'"\x11\x00\x0c' + BLOCK4)
ProxyProtocolSyntaxError
>>> ProxyProtocolV2().unpack(V2_HEADER[:20])
ProxyProtocolIncompleteError
>>> ProxyProtocolV2().unpack(HEAD + b"!\x11\x00\x13" + BLOCK4 + b"\x03\x00\x04abcd")
ProxyProtocolChecksumError
>>> ProxyProtocolV2().unpack_header(b"GET / HTTP/1.1\r\n")
ProxyProtocolSyntaxError
>>> ProxyProtocolV2().unpack_data(ProxyProtocolV2Header(None, None, None, 0), b"", b"")
ProxyProtocolSyntaxError
>>> ProxyResult()
TypeError
>>> SocketInfo(TCP)
TypeError
>>> Dnsbl()
TypeError
>>> TLV()[1]
KeyError
"""


def examples(text: str) -> list[Any]:
    pairs = [(example.source.strip(), example.want.strip()) for example in doctest.DocTestParser().get_examples(text)]
    return [pytest.param(*pair, id=pair[0]) for pair in pairs]


@pytest.mark.parametrize(("call", "answer"), examples(CALLS))
def test_a_call_returns_the_recorded_answer(call: str, answer: str) -> None:
    assert repr(eval(call, NAMESPACE)) == answer


@pytest.mark.parametrize(("call", "exception"), examples(RAISES))
def test_a_call_raises_the_recorded_error(call: str, exception: str) -> None:
    expected: type[Exception] = eval(exception, NAMESPACE)
    with pytest.raises(expected):
        eval(call, NAMESPACE)


WANTED = [
    ("ProxyProtocolV1()", b"", (None, True)),
    ("ProxyProtocolV1()", V1_LINE[:-1], (None, True)),
    ("ProxyProtocolV2()", b"", (16, False)),
    ("ProxyProtocolV2()", HEAD[:4], (12, False)),
    ("ProxyProtocolV2()", V2_HEADER[:-3], (3, False)),
    ("ProxyProtocolDetect()", b"", (8, False)),
    ("ProxyProtocolDetect()", V1_LINE[:5], (3, False)),
    ("ProxyProtocolDetect()", V1_LINE[:8], (None, True)),
    ("ProxyProtocolDetect()", HEAD[:8], (8, False)),
]


@pytest.mark.parametrize(("codec", "data", "wanted"), WANTED)
def test_an_incomplete_header_asks_for_as_many_bytes(codec: str, data: bytes, wanted: tuple[int | None, bool]) -> None:
    with pytest.raises(ProxyProtocolIncompleteError) as caught:
        eval(codec, NAMESPACE).unpack(data)
    want_read = caught.value.want_read
    assert (want_read.want_bytes, want_read.want_line) == wanted
