"""Servers that ``.ci/run`` unpacks: as packages, Exim and Postfix exclude each other, and each would start itself."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ._programs import Program, reserved_port, wait_until_listening

ROOT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "proxyprotocol" / "servers"


def _find(name: str) -> Path:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{path} is missing; .ci/run unpacks it")
    return path


def _libraries() -> str:
    folders = [
        ROOT / "usr/lib/postfix",
        ROOT / "usr/lib",
        *ROOT.glob("usr/lib/*-linux-gnu"),
        *ROOT.glob("lib/*-linux-gnu"),
    ]
    return "LD_LIBRARY_PATH=" + ":".join(map(str, folders))


def _own(directory: Path, user: str | int) -> Path:
    """Make a directory for a server that drops root's privileges, and then needs access to the parent too."""
    directory.parent.chmod(0o755)
    directory.mkdir()
    if os.geteuid() == 0:
        shutil.chown(directory, user)
    return directory


def exim(directory: Path, port: int, proxied: bool) -> list[str]:
    """Configure Exim, with ``hosts_proxy`` or without, and return the command."""
    executable = _find("usr/sbin/exim4")
    spool = _own(directory / "spool", "nobody")
    path = directory / "exim.conf"
    path.write_text(
        f"exim_path = {executable}\nprimary_hostname = mail.example\nspool_directory = {spool}\n"
        f"log_file_path = {spool}/%slog\npid_file_path = {spool}/pid\n"
        f"local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {port}\nacl_smtp_rcpt = deny\nnever_users = root\n"
        "keep_environment =\nhost_lookup =\ntls_advertise_hosts =\n"
        # If clients may speak before the greeting, Exim does not check when they do.
        "pipelining_connect_advertise_hosts =\n" + "hosts_proxy = 127.0.0.1\n" * proxied
    )
    # Exim looks up a user that only the installation of its package creates.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", directory)
    with open(directory / "passwd", "a") as file:
        file.write(f"Debian-exim:x:{user.pw_uid}:{user.pw_gid}::/nonexistent:/usr/sbin/nologin\n")
    with open(directory / "group", "a") as file:
        file.write(f"Debian-exim:x:{user.pw_gid}:\n")
    names = [f"NSS_WRAPPER_{name.upper()}={directory / name}" for name in ("passwd", "group")]
    environment = [_libraries(), "LD_PRELOAD=libnss_wrapper.so", *names]
    return ["env", *environment, str(executable), "-C", str(path), "-bdf"]


def postfix(directory: Path, port: int, proxied: bool) -> list[str]:
    """Configure Postfix, with ``smtpd_upstream_proxy_protocol`` or without, and return the command. It needs root."""
    master = _find("usr/lib/postfix/sbin/master")
    queue, data = _own(directory / "queue", "root"), _own(directory / "data", "daemon")
    (queue / "pid").mkdir()
    for name in ("private", "public"):
        _own(queue / name, "daemon")
    (directory / "main.cf").write_text(
        f"compatibility_level = 3.6\nmyhostname = mail.example\nmydestination =\ninet_interfaces = 127.0.0.1\n"
        f"queue_directory = {queue}\ndata_directory = {data}\ncommand_directory = {ROOT}/usr/sbin\n"
        f"daemon_directory = {master.parent}\nshlib_directory = {master.parent.parent}\n"
        f"meta_directory = {ROOT}/etc/postfix\nmaillog_file = {directory}/log\nmaillog_file_prefixes = {directory}\n"
        # the users of its package do not exist
        "mail_owner = daemon\nsetgid_group = games\ndefault_privs = nobody\n"
        "alias_maps =\nalias_database =\nlocal_recipient_maps =\nsmtpd_peername_lookup = no\n"
        "import_environment = MAIL_CONFIG MAIL_LOGTAG POSTLOG_SERVICE POSTLOG_HOSTNAME LD_LIBRARY_PATH\n"
        + "smtpd_upstream_proxy_protocol = haproxy\n"
        * proxied
    )
    (directory / "master.cf").write_text(
        f"127.0.0.1:{port} inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\n"
        "cleanup unix n - n - 0 cleanup\nrewrite unix - - n - - trivial-rewrite\nanvil unix - - n - 1 anvil\n"
    )
    return ["env", _libraries(), str(master), "-d", "-c", str(directory)]


def unbound(directory: Path, port: int, proxied: bool) -> list[str]:
    """Configure unbound, with ``proxy-protocol-port`` or without, and return the command."""
    executable = _find("usr/sbin/unbound")
    path = directory / "unbound.conf"
    path.write_text(
        f'server:\n interface: 127.0.0.1@{port}\n chroot: ""\n username: ""\n directory: "{directory}"\n pidfile: ""\n'
        ' use-syslog: no\n local-zone: "example." static\n local-data: "www.example. A 192.0.2.1"\n'
        + f" proxy-protocol-port: {port}\n"
        * proxied
    )
    return ["env", _libraries(), str(executable), "-d", "-c", str(path)]


#: Writes a server's configuration for a port, with headers or without, and returns its command.
Configure = Callable[[Path, int, bool], list[str]]


@contextlib.contextmanager
def running(configure: Configure, directory: Path, proxied: bool) -> Iterator[str]:
    """Run a server, and yield its address."""
    with reserved_port() as port:
        program = Program(configure(directory, port, proxied), directory)
        try:
            wait_until_listening(program, ("127.0.0.1", port))
            yield f"127.0.0.1:{port}"
        finally:
            program.stop()
