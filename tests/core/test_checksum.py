"""CRC32C gives the known answers with and without the library."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import crc32c as library
import pytest

from proxyprotocol import checksum

# RFC 3720, appendix B.4, and the check value of the catalogues of CRCs
KNOWN = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 0000040000000014 00000018 28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


# These tests use the private names of the choice between the library and pure Python, which is made once.
@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksum, "_implementation", None)


@pytest.fixture(params=["library", "pure Python"])
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "pure Python":
        monkeypatch.setitem(sys.modules, "crc32c", None)
    yield
    assert (checksum._implementation is library.crc32c) == (request.param == "library")


@pytest.mark.usefixtures("_implementation")
@pytest.mark.parametrize(("data", "expected"), KNOWN)
def test_known_answers(data: bytes, expected: int) -> None:
    assert checksum.crc32c(data) == expected


@pytest.mark.usefixtures("_implementation")
def test_a_checksum_continues_from_an_earlier_one() -> None:
    for data, expected in KNOWN:
        for at in range(len(data)):
            assert checksum.crc32c(data[at:], checksum.crc32c(data[:at])) == expected


def test_pure_python_and_the_library_agree() -> None:
    pure = checksum._pure_python()
    random_bytes = random.Random(1)
    for _ in range(200):
        data, before = random_bytes.randbytes(random_bytes.randrange(300)), random_bytes.getrandbits(32)
        assert pure(data, before) == library.crc32c(data, before)


def test_the_first_checksum_imports_the_library() -> None:
    program = (
        "import sys, proxyprotocol, proxyprotocol.reader\n"
        "assert 'crc32c' not in sys.modules\n"
        "proxyprotocol.ProxyProtocolV2().pack(proxyprotocol.ProxyResultLocal())\n"
        "assert 'crc32c' not in sys.modules\n"
        "proxyprotocol.ProxyProtocolV2().pack(proxyprotocol.ProxyResultUnknown())\n"
        "assert 'crc32c' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
