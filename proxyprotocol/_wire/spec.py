"""Every number of the specification, once, under its section.

The sections are those of the 2026/04/27 edition of HAProxy's ``proxy-protocol.txt``.
"""

from __future__ import annotations

from typing import Final

# Section 2.1, human-readable header format (version 1)

V1_SIGNATURE: Final = b"PROXY "
V1_UNKNOWN: Final = b"UNKNOWN"
V1_TCP4: Final = b"TCP4"
V1_TCP6: Final = b"TCP6"
V1_CRLF: Final = b"\r\n"
# "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": 5+1+7+1+39+1+39+1+5+1+5+2
V1_MAX_LENGTH: Final = 107
# "PROXY UNKNOWN\r\n": 5+1+7+2, the shortest line
V1_MIN_LENGTH: Final = 15

# Section 2.2, binary header format (version 2)

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_SIGNATURE_LENGTH: Final = 12
# offsets of the other parts of the fixed part
V2_COMMAND_AT: Final = 12
V2_FAMILY_AT: Final = 13
V2_LENGTH_AT: Final = 14
# signature, version and command, family and protocol, length: 12+1+1+2
V2_FIXED_LENGTH: Final = 16
# the length field has 16 bits, and does not count the fixed part
V2_MAX_LENGTH: Final = V2_FIXED_LENGTH + 0xFFFF

V2_VERSION: Final = 0x20
V2_LOCAL: Final = 0x0
V2_PROXY: Final = 0x1

V2_UNSPEC: Final = 0x0
V2_INET: Final = 0x1
V2_INET6: Final = 0x2
V2_UNIX: Final = 0x3
V2_STREAM: Final = 0x1
V2_DGRAM: Final = 0x2

UNIX_PATH_LENGTH: Final = 108
# two addresses, and for INET and INET6 two ports
V2_BLOCK_LENGTH: Final = {V2_UNSPEC: 0, V2_INET: 2 * 4 + 2 * 2, V2_INET6: 2 * 16 + 2 * 2, V2_UNIX: 2 * UNIX_PATH_LENGTH}

MAX_PORT: Final = 0xFFFF

# "if the incoming byte count is 8 or above": from here on the bytes show the version
TELLING_LENGTH: Final = 8

# Section 2.2, TLV vectors: one byte of type, two of length

TLV_HEAD_LENGTH: Final = 3
TLV_MAX_VALUE: Final = 0xFFFF

# Section 2.2.3, PP2_TYPE_CRC32C
TYPE_CRC32C: Final = 0x03
CRC32C_LENGTH: Final = 4

# Section 2.2.5, PP2_TYPE_UNIQUE_ID
TYPE_UNIQUE_ID: Final = 0x05
UNIQUE_ID_MAX_LENGTH: Final = 128

# Section 2.2.6, PP2_TYPE_SSL: one byte of client flags, four of verify, then sub-TLVs
TYPE_SSL: Final = 0x20
SSL_HEAD_LENGTH: Final = 5

# The Simple Proxy Protocol of Cloudflare Spectrum: the magic number, two addresses of 16 bytes, two ports

SPP_SIGNATURE: Final = b"\x56\xec"
SPP_LENGTH: Final = 2 + 2 * 16 + 2 * 2
# RFC 4291, section 2.5.5.2: the first bytes of an IPv4-mapped IPv6 address
IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"

# The default limit of a receiver: a version 2 header with one client certificate (one to two KiB of DER) fits, and a
# thousand peers that each send half a header hold at most 4 MiB.
DEFAULT_MAX_HEADER: Final = 4096
# Section 2 asks for at least three seconds, "to cover a TCP retransmit".
DEFAULT_TIMEOUT: Final = 5.0
# For the TLS handshake after the header: two round trips to the client, work on both sides, and a lost packet or two.
DEFAULT_TLS_TIMEOUT: Final = 10.0
