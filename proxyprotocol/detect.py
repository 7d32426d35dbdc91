"""The codec that reads either version."""

from __future__ import annotations

from collections.abc import Sequence

from proxyprotocol._wire import spec
from proxyprotocol.codec import ProxyProtocol, check_signature, signature_begins
from proxyprotocol.errors import (
    ProxyProtocolIncompleteError,
    ProxyProtocolSyntaxError,
    ProxyProtocolWantRead,
    RefusalCode,
)
from proxyprotocol.result import ProxyResult
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["ProxyProtocolDetect"]

_SIGNATURES = (spec.V1_SIGNATURE, spec.V2_SIGNATURE)
_FIRST_BYTES = {ProxyProtocolV1: spec.V1_SIGNATURE[0], ProxyProtocolV2: spec.V2_SIGNATURE[0]}


class ProxyProtocolDetect(ProxyProtocol):
    """Reads version 1 and version 2, and writes version 2.

    Args:
        versions: The codecs, versions 2 and 1 by default. The first one with :meth:`.ProxyProtocol.is_valid` reads a
            header, and the first one that can express a result writes it.

    Raises:
        ValueError: One of them is only for datagrams.
    """

    __slots__ = ("_by_first_byte", "versions")

    versions: Sequence[ProxyProtocol]

    def __init__(self, *versions: ProxyProtocol) -> None:
        self.versions = versions or [ProxyProtocolV2(), ProxyProtocolV1()]
        for version in self.versions:
            # its few bytes could as well be an application's; "is True", because a mock has every attribute
            if version.for_datagrams is True:
                raise ValueError(f"{type(version).__name__} cannot be detected: use it alone, as pp=")
        # The first byte distinguishes versions 1 and 2. Other codecs answer is_valid().
        known = {_FIRST_BYTES.get(type(version), -1): version for version in self.versions}
        self._by_first_byte = known if known.keys() == set(_FIRST_BYTES.values()) and len(self.versions) == 2 else {}

    def is_valid(self, signature: bytes) -> bool:
        return any(version.is_valid(signature) for version in self.versions)

    def choose_version(self, signature: bytes) -> ProxyProtocol:
        """Return the codec for a connection.

        Args:
            signature: The first 8 bytes of the connection.

        Raises:
            ProxyProtocolSyntaxError: No version starts with these bytes.
        """
        for version in self.versions:
            if version.is_valid(signature):
                return version
        for number, known in ((1, spec.V1_SIGNATURE), (2, spec.V2_SIGNATURE)):
            if signature[: len(known)] == known[: len(signature)]:
                reason = f"A version {number} header came, which is not accepted here"
                raise ProxyProtocolSyntaxError(reason, 0, RefusalCode.VERSION)
        reason = f"No version of the PROXY protocol begins with {bytes(signature)!a}"
        raise ProxyProtocolSyntaxError(reason, 0, RefusalCode.NO_HEADER)

    def unpack(self, data: bytes) -> ProxyResult:
        data = bytes(data)
        found = self.parse(data)
        if type(found) is tuple:
            return found[0]
        if len(data) < spec.TELLING_LENGTH:
            raise ProxyProtocolIncompleteError(ProxyProtocolWantRead(spec.TELLING_LENGTH - len(data)))
        return self.choose_version(data[: spec.TELLING_LENGTH]).unpack(data)

    def pack(self, result: ProxyResult) -> bytes:
        """Write a header of the first version that can express *result*.

        Raises:
            ValueError: No version can.
        """
        first: Exception | None = None
        for version in self.versions:
            try:
                return version.pack(result)
            except (KeyError, ValueError) as error:
                first = first or error
        raise ValueError(f"None of the versions can express this result: {first}") from first

    def parse(self, data: bytes, max_header: int = spec.V2_MAX_LENGTH) -> tuple[ProxyResult, int] | int:
        try:
            codec = self._by_first_byte[data[0]]
        except LookupError:  # no data yet, another first byte, or other codecs
            if self._by_first_byte:
                check_signature(data, *_SIGNATURES)
                return spec.V1_MIN_LENGTH  # the shortest line of version 1 is shorter than any header of version 2
            if len(data) < spec.TELLING_LENGTH:
                return spec.TELLING_LENGTH
            codec = self.choose_version(data[: spec.TELLING_LENGTH])
        return codec.parse(data, max_header)

    def begins(self, data: bytes | bytearray) -> bool | None:
        if self._by_first_byte:
            return signature_begins(data, *_SIGNATURES)
        answers = [version.begins(data) for version in self.versions]
        return True if True in answers else None if None in answers else False
