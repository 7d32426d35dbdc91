"""Floor 1: the form of what cloud providers put into TLVs of types of their own (section 2.2.8, 0xE0 to 0xEF).

Each such value is one row in :class:`proxyprotocol.tlv.ProxyProtocolTLV`: the row is the property, and the commands
``encode`` and ``decode`` go by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final, Generic, Literal, TypeVar, overload

__all__: list[str] = []

_T = TypeVar("_T", str, int)

#: All of them, by the names of their properties.
VENDOR_FIELDS: Final[dict[str, VendorField[Any]]] = {}


class VendorField(ABC, Generic[_T]):
    """One value that a provider names, found in any TLV of the provider's type; of several the last counts.

    Args:
        vendor: The provider, in capitals.
        kind: The type of its TLVs.
        subtype: What the value of the TLV begins with.
        what: What it names, for people.
        bits: The size of a number; 0 for text.

    Attributes:
        name: The name of the property.
    """

    name: str

    def __init__(self, vendor: str, kind: int, subtype: bytes, what: str, bits: int = 0) -> None:
        self.vendor = vendor
        self.kind = kind
        self.subtype = subtype
        self.what = what
        self.bits = bits

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        VENDOR_FIELDS[name] = self

    @overload
    def __get__(self, tlvs: None, owner: type) -> VendorField[_T]: ...
    @overload
    def __get__(self, tlvs: Any, owner: type) -> _T | None: ...
    def __get__(self, tlvs: Any, owner: type) -> VendorField[_T] | _T | None:
        if tlvs is None:
            return self
        for value in reversed(tlvs.getall(self.kind)):
            named = self.read(value)
            if named is not None:
                return named
        return None

    @abstractmethod
    def read(self, value: bytes) -> _T | None:
        """Decode the value of a TLV of this type; None where it is of another sub-type, or malformed."""

    @abstractmethod
    def write(self, named: _T) -> bytes:
        """Encode the value of a TLV."""


class VendorText(VendorField[str]):
    """Text, decoded so that nothing a sender writes can raise."""

    def read(self, value: bytes) -> str | None:
        text = value[len(self.subtype) :]
        return text.decode("utf-8", "backslashreplace") if value.startswith(self.subtype) else None

    def write(self, named: str) -> bytes:
        return self.subtype + named.encode()


class VendorNumber(VendorField[int]):
    """A number, its bytes in *order*."""

    def __init__(
        self, vendor: str, kind: int, subtype: bytes, what: str, bits: int, order: Literal["big", "little"]
    ) -> None:
        super().__init__(vendor, kind, subtype, what, bits)
        self._order = order

    def read(self, value: bytes) -> int | None:
        number = value[len(self.subtype) :]
        known = value.startswith(self.subtype) and 8 * len(number) == self.bits
        return int.from_bytes(number, self._order) if known else None

    def write(self, named: int) -> bytes:
        return self.subtype + named.to_bytes(self.bits // 8, self._order)
