"""The endpoint strings of proxyprotocol, for Twisted to find."""

from __future__ import annotations

from proxyprotocol.twisted.strings import ServerStringParser

server_string_parser = ServerStringParser()
