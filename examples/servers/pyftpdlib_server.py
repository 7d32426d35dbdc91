"""pyftpdlib: an FTP server for anonymous users, who see the current folder."""

from __future__ import annotations

import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

from proxyprotocol.integrations.pyftpdlib import read_headers

FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_anonymous(".")

server = FTPServer(("127.0.0.1", int(sys.argv[1])), FTPHandler)
read_headers(server, trusted=["127.0.0.1"])
server.serve_forever()
