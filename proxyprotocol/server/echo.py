"""The ``proxyprotocol-echo`` command: it sends back what it receives, and logs who the client is."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from proxyprotocol.asyncio import start_server
from proxyprotocol.result import describe_address
from proxyprotocol.server._process.program import ArgumentParser, ProgramError, describe_error, run_program
from proxyprotocol.server._process.signals import ENDING, held_back, let_through
from proxyprotocol.server._process.sockets import listen, unlink
from proxyprotocol.server._relay.options import Listening, parse_listener

__all__ = ["add_arguments", "main", "make_parser", "run", "send_back"]

_log = logging.getLogger("proxyprotocol.server")

_NAME: Final = "proxyprotocol-echo"
_DESCRIPTION: Final = """\
Run a server that wants a PROXY protocol header, sends back what follows it,
and logs who the client is.
"""
_EXAMPLES: Final = """\
examples:
  %(prog)s
  %(prog)s '127.0.0.1:8080?trusted=127.0.0.1'
  %(prog)s 'ssl://:8443?cert=server.pem&pp=v2'
"""
_DEFAULT: Final = "127.0.0.1:10007"
_CHUNK: Final = 65536  # bytes
_IDLE: Final = 3600.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Those after the command's name; None for the process's own.

    Returns:
        The exit status: 0 if a signal ended the server, 2 if it could not start.
    """
    return run_program(_NAME, lambda: run(make_parser().parse_args(arguments)))


def make_parser() -> ArgumentParser:
    """Return the command's parser, from which the manual page is made too."""
    parser = ArgumentParser(_NAME)
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
    parser.add_argument(
        "address",
        nargs="?",
        default=_DEFAULT,
        metavar="HOST:PORT",
        help="where to listen (%(default)s); also ssl://HOST:PORT?cert=FILE or unix:PATH; ?pp=noop expects no header",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends the server, and return the exit status.

    Raises:
        ProgramError: The address is wrong, or listening there is impossible.
    """
    try:
        listening = parse_listener(options.address)
    except ValueError as error:
        raise ProgramError(str(error)) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with held_back():
        asyncio.run(_serve(listening, listen(listening)))
    return 0


async def _serve(listening: Listening, sockets: list[socket.socket]) -> None:
    """Serve on all sockets of an address until a signal ends the server."""
    clients: set[Any] = set()  # their tasks

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.add(task := asyncio.current_task())
        peer, proxy = (describe_address(writer.get_extra_info(name)) for name in ("peername", "proxy_peername"))
        name = peer if peer == proxy else f"{peer} (relayed by {proxy})"
        _log.info("Opened %s", name)
        try:
            reason = await send_back(reader, writer)
        except asyncio.CancelledError:  # the server ends, and waits for this task
            writer.transport.abort()
            reason = "the server ends"
        _log.info("Closed %s: %s", name, reason)
        clients.discard(task)

    ended = asyncio.Event()
    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    let_through()
    tls: dict[str, Any] = {}
    if listening.tls is not None:
        tls = {"ssl": listening.tls, "tls_timeout": listening.tls_timeout}
    servers = []
    for sock in sockets:
        server = await start_server(echo, sock=sock, backlog=listening.backlog, receiver=listening.receiver, **tls)
        servers.append(server)
        _log.info("Listening on %s", describe_address(sock.getsockname()))
    await ended.wait()
    for sock, server in zip(sockets, servers, strict=True):
        if listening.address.passed is None:
            unlink(sock)
        server.close()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients)


async def send_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Send back what a client sends until it ends, and return why the connection ended."""
    try:
        while data := await asyncio.wait_for(reader.read(_CHUNK), _IDLE):
            writer.write(data)
            await asyncio.wait_for(writer.drain(), _IDLE)
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), _IDLE)
    except asyncio.TimeoutError:
        reason = f"nothing has moved for {_IDLE:g} seconds"
    except OSError as error:
        reason = describe_error(error)
    else:
        return "the client has sent everything"
    writer.transport.abort()
    return reason


if __name__ == "__main__":
    sys.exit(main())
