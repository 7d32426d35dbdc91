"""The servers of these tests: each is a process, and all report their connections in one way."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._programs import Address, Program, connect

HERE = Path(__file__).parent


class Seen(NamedTuple):
    """One connection, as a server saw it.

    Attributes:
        client: The client's address; None if the header names none.
        destination: The address that the client connected to; None if the header names none.
        header: The fields of the header that Twisted's server reports; empty without a header, and for the quickstart.
    """

    client: Address | None
    destination: Address | None
    header: dict[str, Any]


def _address(host: str | None, port: int | str | None) -> Address | None:
    return None if host in (None, "None") or port is None else Address(str(host), int(port))


class Server:
    """A running server.

    Args:
        program: Its process, just started.

    Attributes:
        program: The argument.
        address: The address that it listens on.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.address = self._listening()
        self._marks = 0

    def _listening(self) -> Address:
        raise NotImplementedError

    @staticmethod
    def command(description: str) -> list[str]:
        """Return the command that starts it."""
        raise NotImplementedError

    def seen(self) -> Seen:
        """Return the next connection."""
        raise NotImplementedError

    def catch_up(self) -> None:
        """Skip the connections that earlier tests have left, up to one that this call makes."""
        self._marks += 1
        mark = Address("192.0.2.254", self._marks)
        with connect(self.address) as client:
            client.sendall(b"PROXY TCP4 192.0.2.254 192.0.2.254 %d 1\r\n" % mark.port)
            while self.seen().client != mark:
                pass


class TwistedServer(Server):
    """``twisted_server.py`` with an endpoint description."""

    @staticmethod
    def command(description: str) -> list[str]:
        return [sys.executable, str(HERE / "twisted_server.py"), description]

    def _listening(self) -> Address:
        return Address(*self._event("listening")["host"])

    def _event(self, name: str) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.program.line())
        assert event["event"] == name
        return event

    def seen(self) -> Seen:
        # the application got the same answer at each time and from each attribute
        built, made = self._event("built"), self._event("made")
        assert built["peer"] == made["peer"] == made["attributes"]
        return Seen(_address(*made["peer"]), _address(*made["host"]), made["result"])


class Quickstart(Server):
    """``asyncio_quickstart.py``."""

    @staticmethod
    def command(description: str) -> list[str]:
        return [sys.executable, str(HERE / "asyncio_quickstart.py")]

    def _listening(self) -> Address:
        host, port = self._words("Listening:")
        return Address(host, int(port))

    def _words(self, label: str) -> Sequence[str]:
        first, *words = self.program.line().split(" ")
        assert first == label
        return words

    def seen(self) -> Seen:
        family, _ = self._words("Family:"), self._words("Peer:")
        assert family[0] in ("AF_INET", "AF_INET6", "AF_UNSPEC")
        source, destination = self._words("Source:"), self._words("Destination:")
        return Seen(_address(*source), _address(*destination), {})
