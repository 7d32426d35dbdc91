"""``proxyprotocol run -- COMMAND``: starts a Python server whose listeners then read headers, with no change to it.

The launcher checks the command and replaces itself with it. The server's interpreter, and those of the workers that it
starts, find the module ``sitecustomize`` of this package first. It watches the sockets of the process, and switches on
an integration as soon as its server is imported.
"""

from __future__ import annotations

__all__: list[str] = []
