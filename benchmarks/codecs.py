"""How fast the codecs are, against the established package ``proxy-protocol`` 0.11.3: a table of ratios.

Run ``python -m benchmarks.codecs`` or ``python benchmarks/codecs.py``; ``--help`` names the options. The other package
is installed into a temporary environment, by the same Python, unless ``--peer-python`` names an interpreter that has
it (with crc32c beside it).

**How.** A row times one expression, word for word the same on both sides, in samples of 60 calls. The sides take turns
sample by sample, and take turns in going first; both processes are kept on one processor. The column ``ratio`` is the
median of the ratios of neighbouring samples, and is what is held against the target; ``low`` and ``high`` are the
quartiles of those ratios. Tried, with the established package on *both* sides (every ratio should then be 1), 3 times
29 rows on a virtual machine with two busy processors: without the one processor, ratios from 0.55 to 1.7; with it,
ratios of the fastest samples were wrong by up to 28 % (the clock runs fast for a few samples that one side may miss),
ratios of medians by 7 %, medians of ratios by 4 %, and by 1 % on average.

Unpacking is timed twice, because "with the address read" can be said in two ways: ``.source`` builds an object of
:mod:`ipaddress`, which takes both sides the same while and so pulls the ratio towards 1; ``.peername`` is what a server
asks for. The targets stand beside both. Packing is timed with and without a CRC32C; the result is at hand, or "made and
packed" anew for each call. A target of ``-`` means that none was set.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Row", "main"]

PEER = ("proxy-protocol==0.11.3", "crc32c")
ROOT = Path(__file__).resolve().parent.parent
LOOP = Path(__file__).resolve().with_name("codec_loop.py")
WARM_UP = 5  # samples: CPython 3.11 and newer specialise a loop only after it has run for a while


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        label: What the row measures.
        expression: What is run, in the names of ``codec_loop.py``.
        target: The ratio to reach, as written in the table.
        checksum: Whether packing adds a CRC32C.
    """

    label: str
    expression: str
    target: str = "-"
    checksum: bool = True


TARGETS = {
    "V1_IPV4": ("v1", "v1 IPv4", "3.4 (4)"),
    "V1_IPV6": ("v1", "v1 IPv6", "5.6"),
    "V2_IPV4": ("v2", "v2 IPv4", "4.7 (5)"),
    "V2_IPV6": ("v2", "v2 IPv6", "7.8"),
    "V2_TLVS": ("v2", "v2, 125 bytes of TLVs, CRC32C", "6.4"),
}


def unpack_rows() -> list[Row]:
    """The rows for reading a header: each with the address read, by the exact codec and by detection."""
    return [
        Row(f"unpack {label}: {how}.{attribute}", f"{codec}.unpack({header}).{attribute}", target)
        for attribute in ("source", "peername")
        for header, (exact, label, goal) in TARGETS.items()
        for codec, how, target in ((exact, "", goal), ("detect", "detect ", "-"))
    ]


def pack_rows() -> list[Row]:
    """The rows for writing a header."""
    made = "IPv4(SOURCE, DEST, protocol=STREAM{})"
    return [
        Row("pack v1", "v1.pack(ipv4)", "2.1"),
        Row("pack v1 IPv6", "v1.pack(ipv6)"),
        Row("pack v2, no CRC32C", "v2.pack(ipv4)", "22", checksum=False),
        Row("pack v2, CRC32C", "v2.pack(ipv4)", "22"),
        Row("pack v2 with TLVs, no CRC32C", "v2.pack(tlvs)", "19", checksum=False),
        Row("pack v2 with TLVs, CRC32C", "v2.pack(tlvs)", "19"),
        Row("made and packed v1", f"v1.pack({made.format('')})"),
        Row("made and packed v2, no CRC32C", f"v2.pack({made.format('')})", checksum=False),
        Row("made and packed v2 with TLVs, CRC32C", f"v2.pack({made.format(', tlv=tlv')})"),
    ]


class Side:
    """A process that runs expressions with one of the two libraries.

    Args:
        command: The interpreter with its options, ``codec_loop.py`` and its argument.
        environment: The environment variables.
    """

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.identity: dict[str, str] = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args!r} ended with status {self.process.wait()}; its reason is above.")
        return json.loads(line)

    def ask(self, *order: object) -> Any:
        """Send an order to the process and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process: its standard input ends."""
        self.process.communicate()


@contextlib.contextmanager
def peer_interpreter(given: str | None) -> Iterator[str]:
    """Yield an interpreter that has the established package: the given one, or one in a new environment."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"Installing {' and '.join(PEER)} into a temporary environment ...", file=sys.stderr)
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=True)
        yield python


@contextlib.contextmanager
def sides(peer_python: str) -> Iterator[dict[bool, tuple[Side, Side]]]:
    """Start both libraries, each with and without CRC32C, and end them afterwards.

    Args:
        peer_python: An interpreter that has the established package.
    """
    ours = {**os.environ, "PYTHONPATH": str(ROOT)}  # this checkout, whatever is installed
    theirs = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    with contextlib.ExitStack() as stack:

        def start(python: str, variant: str, environment: dict[str, str]) -> Side:
            side = Side([python, str(LOOP), variant], environment)
            stack.callback(side.close)
            return side

        yield {
            True: (start(sys.executable, "checksum", ours), start(peer_python, "checksum", theirs)),
            False: (start(sys.executable, "argument", ours), start(peer_python, "hide", theirs)),
        }


def check(row: Row, ours: Side, theirs: Side) -> None:
    """Refuse to time a row in which the two libraries do not do the same work."""
    values = [side.ask("value", row.expression) for side in (ours, theirs)]
    if values[0] != values[1]:
        raise SystemExit(f"{row.label}: ours gives {values[0]}, the other package {values[1]}.")


def measure(row: Row, ours: Side, theirs: Side, samples: int, calls: int) -> tuple[list[float], list[float]]:
    """Time one row.

    Returns:
        The nanoseconds of a call in each sample, ours and theirs.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(-WARM_UP, samples):
        for which in (0, 1) if number % 2 else (1, 0):
            took = (ours, theirs)[which].ask("time", row.expression, calls) / calls
            if number >= 0:
                times[which].append(took)
    return times


def line(row: Row, ours: list[float], theirs: list[float]) -> str:
    """Write one row of the table."""
    low, ratio, high = statistics.quantiles((their / our for our, their in zip(ours, theirs, strict=True)), n=4)
    columns = [min(ours), statistics.median(ours), min(theirs), statistics.median(theirs)]
    times = " ".join(f"{column:7.0f}" for column in columns)
    return f"{row.label:51} {times} {ratio:7.2f} {low:6.2f} {high:6.2f}  {row.target}"


def stay_on_one_processor() -> None:
    """Keep this process and its children where the other side's samples run too."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main(arguments: list[str] | None = None) -> None:
    """Print the table.

    Args:
        arguments: The command line, without the program's name.
    """
    parser = argparse.ArgumentParser(description="Compare the codecs with those of proxy-protocol 0.11.3.")
    parser.add_argument("--peer-python", metavar="PATH", help="an interpreter that has proxy-protocol and crc32c")
    parser.add_argument("--samples", type=int, default=400, help="samples a row and side (400)")
    parser.add_argument("--calls", type=int, default=60, help="calls a sample (60)")
    parser.add_argument("--quick", action="store_true", help="40 samples: right within 10 % or so")
    options = parser.parse_args(arguments)
    samples = 40 if options.quick else options.samples

    stay_on_one_processor()
    with peer_interpreter(options.peer_python) as peer_python, sides(peer_python) as pairs:
        ours, theirs = (side.identity for side in pairs[True])
        if ours["python"] != theirs["python"]:
            raise SystemExit(f"Ours runs on Python {ours['python']}, the other package on {theirs['python']}.")
        print(f"CPython {ours['python']}, {samples} samples of {options.calls} calls")
        print(f"ours:   {ours['package']}\ntheirs: {theirs['package']}\n")
        print(f"{'nanoseconds a call':51} {'ours':>15} {'theirs':>15} {'ratio':>7} {'':13}  target")
        print(f"{'':51} {'min':>7} {'median':>7} {'min':>7} {'median':>7} {'':7} {'low':>6} {'high':>6}  (aim)")
        for row in unpack_rows() + pack_rows():
            pair = pairs[row.checksum]
            check(row, *pair)
            print(line(row, *measure(row, *pair, samples, options.calls)), flush=True)


if __name__ == "__main__":
    main()
