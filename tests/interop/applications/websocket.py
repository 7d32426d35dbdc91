"""An autobahn WebSocket server: it answers every message with its client's address."""

from __future__ import annotations

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest

from .serve import serve


class WhoAmI(WebSocketServerProtocol):
    def onConnect(self, request: ConnectionRequest) -> None:
        # given as tcp4:192.0.2.1:1000
        self._host, self._port = request.peer.partition(":")[2].rsplit(":", 1)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        answer = f"{self._host} {self._port} ".encode() + payload
        self.sendMessage(answer, isBinary)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    factory = WebSocketServerFactory()  # type: ignore[no-untyped-call]
    factory.protocol = WhoAmI
    serve(factory)
