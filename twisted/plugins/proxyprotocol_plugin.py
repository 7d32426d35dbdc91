"""The endpoint strings of proxyprotocol, and its command of twistd, for Twisted to find."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

from proxyprotocol.twisted.strings import ClientStringParser, ServerStringParser

server_string_parser = ServerStringParser()
client_string_parser = ClientStringParser()
service_maker = ServiceMaker(
    "PROXY protocol",
    "proxyprotocol.twisted.service",
    "A relay or an echo server for the PROXY protocol",
    "proxyprotocol",
)
