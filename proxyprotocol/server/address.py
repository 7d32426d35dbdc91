"""The addresses on the command line of the relay and the echo server."""

from __future__ import annotations

import re
import ssl as _ssl
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.messages import describe_unknown
from proxyprotocol.options import choose
from proxyprotocol.result import describe_address
from proxyprotocol.version import ProxyProtocolVersion

__all__ = ["VERSION_OPTIONS", "Address"]

#: The two names of the option for the version of the header, on either side of a service.
VERSION_OPTIONS = ("accept", "pp")

_TLS_OPTIONS = ("cert", "key", "verify", "cafile", "capath", "alpn")

_CODECS: dict[str, ProxyProtocol] = {codec.name.lower(): codec.value for codec in ProxyProtocolVersion}
_VERIFY_MODES = {mode.name.lower(): mode for mode in _ssl.VerifyMode}
# schemes without a host; the rest of the address is a path or a name
_PATH_SCHEMES = ("unix", "systemd", "ssl+systemd")
_SCHEMES = ("", "ssl", *_PATH_SCHEMES)
_FORMS = {
    False: "HOST:PORT, ssl://HOST:PORT or unix:PATH",
    True: "HOST:PORT, ssl://HOST:PORT, unix:PATH or systemd:NAME",
}


class Address:
    """An address on the command line, such as:

    * ``HOST:PORT``, with an IPv6 address in brackets
    * ``HOST:PORT?pp=v1``, or ``?accept=v1``, which means the same
    * ``ssl://HOST:PORT``, on the listening side with ``?cert=cert.pem&key=key.pem``
    * ``ssl://HOST:PORT?cert=cert.pem&alpn=h2,http/1.1``
    * ``ssl://HOST:PORT?cert=cert.pem&verify=CERT_REQUIRED&cafile=authority.pem``
    * ``unix:/run/app.sock``, or ``unix:@name`` for an abstract socket
    * ``systemd:name``, a socket that systemd passes to the process, or ``ssl+systemd:name?cert=cert.pem``

    The constructor accepts any text, as in ``proxy-protocol``. The properties raise ValueError for the parts that they
    need; :meth:`check` checks everything.

    Args:
        addr: The text.
        server: Whether to listen there rather than to connect.

    Attributes:
        url: The parts of the text.
        query: The options, each with all its values.
        server: The argument.
    """  # noqa: D415  # ends in a list

    __slots__ = ("_text", "query", "server", "url")

    server: bool
    url: SplitResult
    query: dict[str, list[str]]

    def __init__(self, addr: str, *, server: bool = False) -> None:
        self._text = addr
        self.server = server
        scheme, colon, rest = addr.partition(":")
        if colon and scheme in _PATH_SCHEMES:
            path, _, query = rest.partition("?")
            self.url = SplitResult(scheme, "", path, query, "")
        else:
            try:
                self.url = urlsplit(addr if "://" in addr else f"//{addr}")
            except ValueError as error:  # an open bracket
                raise ValueError(f"{addr!r} is not an address such as {_FORMS[server]}: {error}") from None
        self.query = parse_qs(self.url.query, keep_blank_values=True)

    def __str__(self) -> str:
        """Return the text, with host and port before the options."""
        return f"{self.url.scheme}:{self.url.path}" if self.url.scheme in _PATH_SCHEMES else self.url.geturl()

    def option(self, name: str) -> str | None:
        """Return the last value of an option; None without that option."""
        values = self.query.get(name)
        return values[-1] if values else None

    @property
    def host(self) -> str:
        """The host, without brackets; empty for all addresses of this machine, and for a UNIX socket."""
        netloc = self.url.netloc.rpartition("@")[2]
        if netloc.startswith("["):
            return netloc[1:].partition("]")[0]
        return netloc.partition(":")[0]

    @property
    def port(self) -> int | None:
        """The port; None without one.

        Raises:
            ValueError: The port is not a number from 0 to 65535.
        """
        try:
            return self.url.port
        except ValueError:
            problem = "the port is not a number from 0 to 65535"
            raise ValueError(f"{self._text!r} is not an address such as {_FORMS[self.server]}: {problem}") from None

    @property
    def path(self) -> str | None:
        """The path of a UNIX socket; an abstract one begins with a NUL. None for any other address."""
        if self.url.scheme != "unix":
            return None
        path = self.url.path
        return "\0" + path[1:] if path.startswith("@") else path

    @property
    def passed(self) -> str | None:
        """The name of a socket that systemd passes; None for any other address."""
        return self.url.path if self.url.scheme in ("systemd", "ssl+systemd") else None

    @property
    def tls(self) -> bool:
        """Whether connections there use TLS."""
        return self.url.scheme.startswith("ssl")

    @property
    def given(self) -> str:
        """The address as it was written, without its options; metrics name a service so."""
        return self._text.partition("?")[0]

    @property
    def name(self) -> str:
        """The address without its options, for messages."""
        if self.path is not None:
            return describe_address(self.path)
        if self.passed is not None:
            return f"systemd:{self.passed}"
        return describe_address((self.host or "*", self.port))

    @property
    def pp(self) -> ProxyProtocol:
        """The codec that ``pp=`` or ``accept=`` names. By default it reads both versions, and packs version 2.

        Raises:
            ValueError: The name is unknown.
        """
        return choose(f"{self.version_option}=", self.option(self.version_option) or "detect", _CODECS)

    @property
    def version_option(self) -> str:
        """The option for the version of the header, as it is spelt here."""
        return "accept" if "accept" in self.query else "pp"

    @property
    def ssl(self) -> _ssl.SSLContext | None:
        """A TLS context, which each access makes anew from the files; None without TLS.

        Raises:
            ValueError: A file cannot be used, a listening address lacks ``cert=``, or ``verify=`` is wrong.
        """
        if not self.tls:
            return None
        files = {name: path for name in ("cert", "key", "cafile", "capath") if (path := self.option(name)) is not None}
        cert, key, verify = files.pop("cert", None), files.pop("key", None), self.option("verify")
        if cert is None and self.server:
            raise ValueError(f"{self._text!r} needs cert=, the file with the server's certificate")
        if cert is None and key is not None:
            raise ValueError(f"{self._text!r} has key= but lacks cert=, the file with the certificate")
        for name, path in {"cert": cert, "key": key, **files}.items():
            try:
                if name == "capath" and path is not None:
                    next(Path(path).iterdir(), None)
                elif path is not None:
                    Path(path).open("rb").close()
            except OSError as error:
                raise ValueError(f"{name}={path} cannot be read: {error.strerror}") from None
        purpose = _ssl.Purpose.CLIENT_AUTH if self.server else _ssl.Purpose.SERVER_AUTH
        what = "certificates of authorities in " + " and ".join(f"{name}={path}" for name, path in files.items())
        try:
            context = _ssl.create_default_context(purpose, **files)
            if cert is not None:
                what = f"certificate {cert}" if key is None else f"certificate {cert} with the key {key}"
                # OpenSSL would ask for a password at the terminal, and stop a service from starting
                context.load_cert_chain(cert, key, password=b"")
        except (_ssl.SSLError, ValueError) as error:
            raise ValueError(f"The {what} cannot be used: {error}") from None
        # with renegotiation, a peer could make a write wait for a read
        context.options |= _ssl.OP_NO_RENEGOTIATION
        alpn = self.option("alpn")
        if alpn is not None:
            names = [name.strip() for name in alpn.split(",")]
            if not all(name.isascii() and 0 < len(name) < 256 for name in names):
                raise ValueError(f"alpn= takes names of protocols, such as h2,http/1.1, not {alpn!r}")
            context.set_alpn_protocols(names)
        if verify is not None:
            mode = choose("verify=", verify, _VERIFY_MODES)
            if mode is _ssl.CERT_NONE:
                context.check_hostname = False
            elif self.server and not files:
                raise ValueError(
                    f"verify={verify} needs cafile= or capath=, the certificates of the authorities to trust"
                )
            context.verify_mode = mode
        return context

    def check(self, known: tuple[str, ...], elsewhere: tuple[str, ...] = ()) -> None:
        """Check the whole address.

        Args:
            known: The names of the options that it may have, besides those of TLS.
            elsewhere: The names of options that belong to the other address of a service.

        Raises:
            ValueError: The address is wrong. The text is a sentence.
        """
        url, unix = self.url, self.url.scheme in _PATH_SCHEMES
        wrong = url.scheme not in _SCHEMES or url.fragment or "@" in url.netloc
        if wrong or (not unix and (url.path or self.port is None)):
            raise ValueError(f"{self._text!r} is not an address such as {_FORMS[self.server]}")
        if self.passed is not None and not self.server:
            raise ValueError(f"{self._text!r} is a socket to listen on, not to connect to")
        if self.passed is not None and not re.fullmatch(r"[^:/]+", self.passed):
            raise ValueError(f"{self._text!r} lacks the name of a socket of systemd: write systemd:web, or systemd:0")
        if unix and not url.path.strip("@"):
            raise ValueError(f"{self._text!r} lacks the path of a UNIX socket: write unix:/run/app.sock")
        tls = (*_TLS_OPTIONS, "tls_timeout" if self.server else "server_name")
        allowed = (*known, *tls) if self.tls else known
        for name, values in self.query.items():
            if name in allowed:
                if len(values) > 1:
                    raise ValueError(f"{self._text!r}: {name}= is there {len(values)} times; write it once")
                continue
            problem = describe_unknown("option", name, allowed)
            if name in tls or name in elsewhere:
                other = f"the address to {'connect to' if self.server else 'listen on'}"
                problem = f"{name}= is an option for {'ssl:// addresses' if name in tls else other}"
            raise ValueError(f"{self._text!r}: {problem}")
        if set(VERSION_OPTIONS) <= self.query.keys():
            raise ValueError(f"{self._text!r}: accept= and pp= mean the same; write one of them")
