"""The services of the relay with their listening sockets, and how both change while it runs."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from typing import Any, Final, TypeAlias

from proxyprotocol.messages import describe_unknown
from proxyprotocol.server._process.program import ProgramError, describe_error
from proxyprotocol.server._process.sockets import listen, share, unlink
from proxyprotocol.server._process.workers import Order
from proxyprotocol.server.relay import Service, parse_service

_Texts: TypeAlias = "tuple[str, str]"

_KEYS: Final = ("source", "destination")


@dataclass(eq=False)
class _Place:
    """Where services listen. *sockets* are those of each worker; a worker has only its own."""

    number: int
    name: str
    sockets: list[list[socket.socket]]
    passed: bool  # by systemd, which keeps the sockets too

    def close(self, *, remove: bool) -> None:
        """Close the sockets; *remove* removes the path of a UNIX socket too."""
        for sock in {sock for sockets in self.sockets for sock in sockets}:
            if remove and not self.passed:
                unlink(sock)
            sock.close()


class Services:
    """The services from the command line, which stay, and those from a file, which :meth:`reload` reads again.

    Args:
        given: The two addresses of each service on the command line.
        path: The file; None for no file.
        workers: The number of processes that need sockets.

    Raises:
        ProgramError: A service is wrong, or listening is impossible.
    """

    def __init__(self, given: Sequence[Sequence[str]], path: str | None, workers: int) -> None:
        self._given, self._path, self._workers = [(source, to) for source, to in given], path, workers
        self._numbers = count()
        self._entries: list[tuple[_Texts, Service, _Place]] = []
        self._opened: list[_Place] = []  # the last time
        self._unused: list[_Place] = []
        self.reload()
        self._opened = []  # the workers inherit them

    @property
    def names(self) -> list[str]:
        """The names of the services, for their counters."""
        return [service.source.address.given for _, service, _ in self._entries]

    def of(self, worker: int) -> list[tuple[Service, list[socket.socket]]]:
        """Return the services, with the sockets of a worker."""
        return [(service, place.sockets[worker]) for _, service, place in self._entries]

    def reload(self) -> str:
        """Read the file again, parse and open what is new, and return a summary. Call :meth:`close_unused` after it.

        Raises:
            ProgramError: Something is wrong. Then nothing has changed.
        """
        self._opened = []
        before = {texts: service for texts, service, _ in self._entries}
        spare, opened = self._places(), list[_Place]()
        entries: list[tuple[_Texts, Service, _Place]] = []
        try:
            for texts, where in self._read():
                try:
                    service = before.get(texts) or parse_service(*texts)
                    name = service.source.address.name
                    place = next((place for place in spare if place.name == name), None)
                    if place is None:
                        place = self._open(service, name)
                        opened.append(place)
                    else:
                        spare.remove(place)
                except (ValueError, ProgramError) as error:
                    raise ProgramError(f"{where}{error}") from None
                entries.append((texts, service, place))
            _check_alone([place for *_, place in entries])
        except BaseException:
            for place in opened:
                place.close(remove=True)
            raise
        for texts, service, place in entries:
            if texts not in before and not place.passed:
                for sock in (sock for sockets in place.sockets for sock in sockets):
                    sock.listen(service.source.backlog)  # another backlog counts at once
        now = Counter(texts for texts, *_ in entries)
        old = Counter(texts for texts, *_ in self._entries)
        self._entries, self._opened, self._unused = entries, opened, spare
        return f"{(now - old).total()} new, {(old - now).total()} gone, {(now & old).total()} unchanged"

    def close_unused(self, *, remove: bool = True) -> None:
        """Close the sockets that no service has after :meth:`reload` or :meth:`follow`."""
        for place in self._unused:
            place.close(remove=remove)
        self._unused = []

    def close(self, *, remove: bool) -> None:
        """Close all sockets; *remove* removes the paths of UNIX sockets too."""
        for place in self._places():
            place.close(remove=remove)

    def keep(self, worker: int) -> None:
        """Close the sockets of the other workers, in the process of this one."""
        for place in self._places():
            kept = set(place.sockets[worker])
            for sock in {sock for sockets in place.sockets for sock in sockets} - kept:
                sock.close()
            place.sockets = [place.sockets[worker]] * self._workers
        self._opened, self._unused = [], []

    def orders(self, worker: int) -> Iterator[tuple[Order, list[int]]]:
        """Yield what a running worker must do after :meth:`reload`, and the descriptors that it needs."""
        yield ("count", self.names), []
        for place in self._opened:
            yield ("open", [place.number, place.name, place.passed]), [sock.fileno() for sock in place.sockets[worker]]
        yield ("serve", [[*texts, place.number] for texts, _, place in self._entries]), []

    def take(self, place: Sequence[Any], descriptors: list[int]) -> None:
        """Take a place that the parent has opened, in a worker."""
        number, name, passed = place
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self._opened.append(_Place(number, name, [sockets] * self._workers, passed))

    def follow(self, listing: list[tuple[str, str, int]]) -> None:
        """Serve what the parent has listed, in a worker.

        Raises:
            ValueError: A service is wrong: a file has changed since the parent read it. Then nothing has changed.
        """
        before = {texts: service for texts, service, _ in self._entries}
        places = {place.number: place for place in [*self._places(), *self._opened]}
        entries = []
        for source, to, number in listing:
            service = before.get((source, to)) or parse_service(source, to)
            entries.append(((source, to), service, places.pop(number)))
        self._entries, self._opened, self._unused = entries, [], list(places.values())

    def _places(self) -> list[_Place]:
        return [place for *_, place in self._entries]

    def _read(self) -> Iterator[tuple[_Texts, str]]:
        """Yield the addresses of each service, and what begins the sentence about an error in them."""
        yield from ((texts, "") for texts in self._given)
        if self._path is not None:
            for number, table in enumerate(_read_tables(self._path), 1):
                where = f"{self._path}: service {number}: "
                try:
                    yield _parse_table(table), where
                except ValueError as error:
                    raise ProgramError(f"{where}{error}") from None

    def _open(self, service: Service, name: str) -> _Place:
        source, several = service.source, self._workers > 1
        first = listen(source, reuse_port=several)
        place = _Place(next(self._numbers), name, [first], source.address.passed is not None)
        try:
            for _ in range(1, self._workers):
                place.sockets.append(first if place.passed else [share(sock, source.backlog) for sock in first])
        except ProgramError:
            place.close(remove=True)
            raise
        return place


def _check_alone(places: list[_Place]) -> None:
    """Raise ProgramError if two services have one socket of systemd: each connection would go to either."""
    names: dict[int, str] = {}
    for place in places:
        for sock in place.sockets[0]:
            inode = os.fstat(sock.fileno()).st_ino
            if inode in names:
                raise ProgramError(f"{names[inode]} and {place.name} are one socket: write one service for it")
            names[inode] = place.name


def _read_tables(path: str) -> list[Any]:
    try:
        toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise ProgramError(f"--services needs tomli ({error}): install the extra proxyprotocol[services]") from None
    try:
        with open(path, "rb") as file:
            content = toml.load(file)
    except OSError as error:
        raise ProgramError(describe_error(error)) from None
    except (ValueError, RecursionError) as error:  # of TOML or UTF-8, or too many brackets
        raise ProgramError(f"{path} is not TOML: {error}") from None
    for key in content:
        if key != "service":
            raise ProgramError(f"{path}: {describe_unknown('key', key, ['service'])}")
    tables = content.get("service")
    if not isinstance(tables, list) or not tables:
        raise ProgramError(f"{path} has no service: write [[service]], and source = and destination = below it")
    return tables


def _parse_table(table: Any) -> _Texts:
    if not isinstance(table, dict):
        raise ValueError("write [[service]], and source = and destination = below it")
    for key in table:
        if key not in _KEYS:
            raise ValueError(describe_unknown("key", key, _KEYS))
    for key in _KEYS:
        if not isinstance(table.get(key), str):
            raise ValueError(f'{key} = takes an address in quotes, such as ":80" or "app.internal:8080"')
    return table["source"], table["destination"]
