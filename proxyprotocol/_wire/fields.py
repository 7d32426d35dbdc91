"""The table of TLV fields. Each field is one row, in the body of its class in :mod:`proxyprotocol.tlv`.

A row makes a property, a keyword of the constructor, documentation, an option of ``encode`` and a line of ``decode``.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, TypeVar, overload

from proxyprotocol.typing import PeerCert

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform

_Given = TypeVar("_Given")  # what the constructor takes
_Read = TypeVar("_Read")  # what the property returns

_NUMBER: Final = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|0|[1-9][0-9]{0,19}")
# A peer certificate is compressed: a few KiB could unpack to gigabytes.
_PEERCERT_MAX_LENGTH: Final = 64 * 1024


@dataclass(frozen=True)
class Form(Generic[_Given]):
    """How the bytes of a TLV become a value, and back.

    Attributes:
        type: The type of the value, for the documentation.
        decode: Returns the value, or None if the bytes do not have this form. It never raises.
        encode: Returns the bytes, or None to leave out the TLV. It raises ValueError.
        show: Returns the value for JSON, or None if JSON has only the hexadecimal digits.
        parse: Reads the value from the command line. It raises ValueError.
    """

    type: Any
    decode: Callable[[bytes], _Given | None]
    encode: Callable[[_Given], bytes | None]
    show: Callable[[bytes], str | int | Mapping[str, Any] | None] = lambda value: None
    parse: Callable[[str], Any] = str


def decode_text(value: bytes) -> str:
    """Decode UTF-8. Other bytes become backslash escapes, because a log statement must not raise for them."""
    return value.decode("utf-8", "backslashreplace")


def printable(value: bytes) -> str | None:
    """Return bytes as text if they are printable UTF-8."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _unchanged(value: bytes) -> bytes:
    return value


def number(bits: int, order: Literal["big", "little"] = "big") -> Form[int]:
    """Return the form of an unsigned number of *bits* bits."""

    def decode(value: bytes) -> int | None:
        return int.from_bytes(value, order) if 8 * len(value) == bits else None

    def encode(value: int) -> bytes:
        if not 0 <= value < 1 << bits:
            raise ValueError(f"expected a number of {bits} bits, not {value!r}")
        return value.to_bytes(bits // 8, order)

    def parse(text: str) -> int:
        if _NUMBER.fullmatch(text) and (value := int(text, 0)) < 1 << bits:
            return value
        raise ValueError(f"expected a number of {bits} bits, such as 7 or 0x1F, not {text!r}")

    return Form(int, decode, encode, decode, parse)


def _unpack_peercert(value: bytes) -> PeerCert | None:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(value, _PEERCERT_MAX_LENGTH)
        peercert: Any = json.loads(text) if unpacker.eof else None
    except (zlib.error, ValueError, RecursionError):
        return None
    return peercert if isinstance(peercert, dict) else None


def _fingerprint(value: bytes) -> str:
    import hashlib  # loads OpenSSL, which a server's start need not wait for

    return f"sha256:{hashlib.sha256(value).hexdigest()}"


TEXT: Final[Form[str]] = Form(str, decode_text, str.encode, decode_text)
RAW: Final[Form[bytes]] = Form(bytes, _unchanged, _unchanged, printable, str.encode)
CERTIFICATE: Final[Form[bytes]] = Form(bytes, _unchanged, _unchanged, _fingerprint)
PEERCERT: Final[Form[PeerCert]] = Form(
    PeerCert, _unpack_peercert, lambda peercert: zlib.compress(json.dumps(peercert).encode("ascii")), _unpack_peercert
)


class Keyword(property, Generic[_Given, _Read]):
    """A property that is also a keyword of the constructor of its class.

    Args:
        read: Returns the value of the property.
        help: What the field says, as part of a sentence.
        doc: The same for the documentation, by default *help*.
        default: The default of the keyword.
    """

    name: str

    def __init__(self, read: Callable[[Any], _Read], help: str, doc: str = "", default: _Given | None = None) -> None:
        read.__annotations__.setdefault("return", bool)  # for the documentation; a Field names another type
        super().__init__(read)
        doc = doc or help
        self.__doc__ = f"{doc[0].upper()}{doc[1:]}."  # property's own argument would leave that of the class
        self.read: Any = read
        self.default = default
        self.help = help

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.read.__name__ = name

    if TYPE_CHECKING:

        @overload
        def __get__(self, tlv: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self, tlv: object, owner: type | None = None, /) -> _Read: ...
        def __get__(self, tlv: object, owner: type | None = None, /) -> Any: ...
        def __set__(self, tlv: object, value: _Given | None) -> None: ...  # the type of the constructor's keyword


class Flag(Keyword[bool, bool]):
    """A bit of the client field of PP2_TYPE_SSL."""

    def __init__(self, bit: int, help: str) -> None:
        self.bit = int(bit)
        super().__init__(lambda ssl: bool(ssl.client & bit), help)


class Field(Keyword[_Given, _Read]):
    """One row of the table: a value in the TLVs of one type. The last TLV that has the field's form counts.

    Args:
        number: The type of the TLV.
        form: How its bytes become a value.
        help: What the field says, as part of a sentence, for ``encode --help`` and the documentation.
        section: The section of the specification, or nothing.
        metavar: The placeholder of the option of ``encode``; without one there is no option.
        label: The name that ``decode`` prints; by default the property's in capitals.
        what: The noun that ``decode`` prints before the value of a vendor's TLV. Several rows may have one type.
        missing: The value of the property if there is no such TLV.
    """

    def __init__(
        self,
        number: int,
        form: Form[_Given],
        help: str,
        section: str = "",
        metavar: str = "",
        *,
        label: str = "",
        what: str = "",
        missing: Any = None,
    ) -> None:
        def read(tlv: Any) -> Any:
            for value in reversed(tlv.getall(number)):
                found = form.decode(value)
                if found is not None:
                    return found
            return missing

        read.__annotations__["return"] = form.type | None if missing is None else form.type
        where = [getattr(number, "name", f"type {number:#04x}"), f"section {section}" if section else ""]
        super().__init__(read, help, f"{help} ({', '.join(filter(None, where))})")
        self.number, self.form, self.metavar, self.label, self.what = int(number), form, metavar, label, what

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.label = self.label or name.upper()


def vendor(
    vendor: str, number: int, prefix: bytes, form: Form[_Given], what: str, metavar: str = "ID"
) -> Field[_Given, _Given | None]:
    """Return the row of a vendor's field (section 2.2.8, types 0xE0 to 0xEF).

    Args:
        vendor: The vendor's name.
        number: The type of its TLVs.
        prefix: The sub-type at the start of the value, or nothing.
        form: How the bytes after the sub-type become a value.
        what: What the value names, such as ``"VPC endpoint"``.
        metavar: The placeholder of the option of ``encode``.
    """
    size = len(prefix)
    prefixed = Form(
        form.type,
        lambda value: form.decode(value[size:]) if value.startswith(prefix) else None,
        lambda given: prefix + (form.encode(given) or b""),
        lambda value: form.show(value[size:]) if value.startswith(prefix) else None,
        form.parse,
    )
    sentence = f"the {what} that {vendor} names in type 0x{number:02X}"
    return Field(number, prefixed, sentence, metavar=metavar, label=vendor.split()[0].upper(), what=what)


def keywords(owner: type) -> dict[str, Keyword[Any, Any]]:
    """Return the keywords of a class by their names, in the order of the class."""
    members = {name: member for base in reversed(owner.__mro__) for name, member in vars(base).items()}
    return {name: member for name, member in members.items() if isinstance(member, Keyword)}


@cache
def rows(owner: type) -> Mapping[str, Field[Any, Any]]:
    """Return the fields of a class by the names of their properties, in the order of the class."""
    return {name: member for name, member in keywords(owner).items() if isinstance(member, Field)}


if TYPE_CHECKING:

    def positional(*, default: Any, kw_only: bool = False) -> Any:
        """Declare an argument of the constructor that need not be a keyword."""

else:

    def dataclass_transform(**arguments):
        """Do nothing: only type checkers read the arguments."""
        return lambda cls: cls

    positional = None


# Type checkers make the constructor's keywords from the rows, as they do for a dataclass: each row is an annotated
# attribute with a value, and its __set__ has the keyword's type. At run time the constructor takes **given and looks
# names up in rows(). Keywords listed in each constructor would be a second table.
@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False, field_specifiers=(positional,))
class Fields:
    """The base of a class with rows."""

    __slots__ = ()
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Put the keywords into the signature that help() shows, in the place of **given."""
        super().__init_subclass__(**arguments)
        _, *shown = signature(cls.__init__).parameters.values()
        if shown and shown[-1].kind is Parameter.VAR_KEYWORD:
            names = {parameter.name for parameter in shown}
            rows = [row for row in keywords(cls).values() if row.name not in names]
            shown[-1:] = [Parameter(row.name, Parameter.KEYWORD_ONLY, default=row.default) for row in rows]
        cls.__signature__ = Signature(shown)
