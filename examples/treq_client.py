r"""An HTTP client that names somebody else as the client: ``python examples/treq_client.py ENDPOINT URL``.

The endpoint string says where to connect, whatever host the URL names, and what is sent there before HTTP::

    proxyprotocol:tcp:127.0.0.1:8080:ppSource=203.0.113.7\:5678:ppDest=198.51.100.9\:443
"""

from __future__ import annotations

import sys
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.web.client import URI, Agent


class OneEndpoint:
    """Sends every request to the same place."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: URI) -> Any:
        """Return the endpoint. An endpoint ``proxyprotocol:tls:...`` does TLS itself."""
        return self._endpoint


async def get(reactor: Any, description: str, url: str) -> None:
    """Get a page, and print it."""
    endpoint = clientFromString(reactor, description)
    agent: Any = Agent.usingEndpointFactory(reactor, OneEndpoint(endpoint))
    response: Any = await HTTPClient(agent).get(url, timeout=10)
    print(response.code, await response.text())


def main(reactor: Any, description: str, url: str) -> Deferred[None]:
    """Run until the page is there."""
    return ensureDeferred(get(reactor, description, url))


if __name__ == "__main__":
    react(main, sys.argv[1:])
