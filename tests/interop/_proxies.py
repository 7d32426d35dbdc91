"""The proxies of these tests. Each test starts its own, in the foreground, and stops it at its end."""

from __future__ import annotations

import contextlib
import csv
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from ._programs import Program, connect, find_program, reserved_port, wait_until_listening


class Statistics(NamedTuple):
    """The state of the server, as HAProxy sees it."""

    status: str
    last_check: str
    failed_checks: int
    times_down: int


class HAProxy:
    """HAProxy in TCP mode: one frontend, one server.

    Args:
        stack: Ends with the test, and stops the program then.
        directory: The folder for the configuration.
    """

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self._executable = find_program("haproxy")
        self._stack = stack
        self._directory = directory
        self._statistics_port = 0

    def start(self, server: str, *, bind: str = "127.0.0.1:{port}", more: str = "") -> int:
        """Start it, and wait until it listens.

        Args:
            server: The server's address and options, as in the configuration.
            bind: The frontend's address and options, where ``{port}`` stands for the port.
            more: More lines for the section.

        Returns:
            The frontend's port.
        """
        host = bind.rpartition(":{port}")[0] or "127.0.0.1"
        port = self._stack.enter_context(reserved_port(host))
        self._statistics_port = self._stack.enter_context(reserved_port())
        path = self._directory / "haproxy.cfg"
        path.write_text(
            f"global\n    stats socket ipv4@127.0.0.1:{self._statistics_port}\n"
            "defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 30s\n    timeout server 30s\n"
            f"listen frontend\n    bind {bind.format(port=port)}\n    {more}\n    server server {server}\n"
        )
        program = Program([self._executable, "-db", "-f", str(path)], self._directory)
        self._stack.callback(program.stop)
        # Ask the statistics, because a connection to the frontend would reach our server. HAProxy binds all addresses
        # before it serves any, so wait for an answer: an accepted connection proves only that the address is bound.
        wait_until_listening(program, ("127.0.0.1", self._statistics_port))
        self._ask("show info")
        return port

    def statistics(self) -> Statistics:
        """Return what the statistics socket says about the server."""
        rows = csv.DictReader(self._ask("show stat").lstrip("# ").splitlines())
        (row,) = (row for row in rows if row["svname"] == "server")
        last_check = row["check_status"].removeprefix("* ")  # the asterisk means that the next check has started
        return Statistics(row["status"], last_check, int(row["chkfail"]), int(row["chkdown"]))

    def _ask(self, question: str) -> str:
        with connect(("127.0.0.1", self._statistics_port)) as client, client.makefile() as answer:
            client.sendall(f"{question}\n".encode())
            return answer.read()


class Nginx:
    """nginx with its stream module: one listener, one server, ``proxy_protocol on``.

    Args:
        stack: Ends with the test, and stops the program then.
        directory: The folder for the configuration.
    """

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self._executable = find_program("nginx")
        self._load_stream = _load_stream(self._executable)
        self._stack = stack
        self._directory = directory

    def start(self, server: str, *, listen: str = "127.0.0.1:{port} reuseport") -> int:
        """Start it, and wait until it listens.

        Args:
            server: The server's address.
            listen: The listener's address and options, where ``{port}`` stands for the port.

        Returns:
            The listener's port.
        """
        host = listen.rpartition(":{port}")[0].strip("[]") or "127.0.0.1"
        port = self._stack.enter_context(reserved_port(host))
        ready = self._stack.enter_context(reserved_port())
        path = self._directory / "nginx.conf"
        path.write_text(
            f"{self._load_stream}\ndaemon off; master_process off; error_log stderr; pid {self._directory}/nginx.pid;\n"
            "events {}\n"
            "stream {\n"
            f"    server {{ listen {listen.format(port=port)}; proxy_pass {server}; proxy_protocol on; }}\n"
            f"    server {{ listen 127.0.0.1:{ready} reuseport; return ready; }}\n"
            "}\n"
        )
        command = [self._executable, "-e", "stderr", "-p", str(self._directory), "-c", str(path)]
        program = Program(command, self._directory)
        self._stack.callback(program.stop)
        # Ask there, because a connection to the listener would reach our server. nginx binds all addresses before it
        # serves any, so wait for an answer: an accepted connection proves only that the address is bound.
        wait_until_listening(program, ("127.0.0.1", ready))
        with connect(("127.0.0.1", ready)) as client:
            assert client.recv(1)
        return port


def _load_stream(executable: str) -> str:
    """Return the line of the configuration that loads the stream module. Without the module the test is skipped."""
    built = subprocess.run([executable, "-V"], capture_output=True, text=True, check=True).stderr.split()
    if "--with-stream" in built:
        return ""
    folders = [word.partition("=")[2] for word in built if word.startswith("--modules-path=")]
    module = Path(*folders, "ngx_stream_module.so")
    if "--with-stream=dynamic" not in built or not module.exists():
        pytest.skip("this nginx has no stream module")
    return f"load_module {module};"


class DNSdist:
    """dnsdist: one listener, for UDP and TCP, and one server, ``useProxyProtocol``.

    Args:
        stack: Ends with the test, and stops the program then.
        directory: The folder for the configuration.
    """

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self._executable = find_program("dnsdist")
        self._stack = stack
        self._directory = directory

    def start(self, server: str, *, host: str = "127.0.0.1", more: str = "") -> int:
        """Start it, and wait until it listens. It checks the server at once, and then every second.

        Args:
            server: The server's address.
            host: The listener's host.
            more: More lines for the configuration.

        Returns:
            The listener's port.
        """
        with contextlib.ExitStack() as until_listening:
            port = _reserve_both(until_listening, host)
            path = self._directory / f"dnsdist-{port}.conf"
            local = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            path.write_text(
                # stops its query for security updates
                'setSecurityPollSuffix("")\n'
                f'setLocal("{local}", {{reusePort=true}})\nsetACL({{"127.0.0.0/8", "::1/128"}})\n'
                f'newServer({{address="{server}", useProxyProtocol=true}})\n{more}\n'
            )
            program = Program([self._executable, "--supervised", "--disable-syslog", "-C", str(path)], self._directory)
            self._stack.callback(program.stop)
            wait_until_listening(program, (host, port))
        return port


def _reserve_both(stack: contextlib.ExitStack, host: str) -> int:
    """Reserve a port for streams and datagrams until the program listens. Later we would get some of its datagrams."""
    while True:
        with contextlib.ExitStack() as attempt:
            port = attempt.enter_context(reserved_port(host))
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            holder = attempt.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                holder.bind((host, port))
            except OSError:
                continue  # another program uses this number for datagrams
            stack.enter_context(attempt.pop_all())
            return port
