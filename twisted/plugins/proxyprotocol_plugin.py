"""The endpoint strings of proxyprotocol, for Twisted to find."""

from __future__ import annotations

from proxyprotocol.twisted.strings import ClientStringParser, ServerStringParser

server_string_parser = ServerStringParser()
client_string_parser = ClientStringParser()
