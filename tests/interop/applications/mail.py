"""A mail server of twisted.mail, with STARTTLS, that writes each message into its log.

Not ``twistd mail``: that can neither add a user nor deliver into a Maildir on Python 3, and has no STARTTLS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.mail.interfaces import IMessageDelivery, IMessageSMTP
from twisted.mail.smtp import ESMTP, Address, SMTPFactory, User
from twisted.python import log
from zope.interface import implementer

from .serve import serve


@implementer(IMessageSMTP)
class Message:
    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> Deferred[None]:
        log.msg(f"message: {b' | '.join(self._lines).decode()}")
        return succeed(None)

    def connectionLost(self) -> None:
        self._lines.clear()


@implementer(IMessageDelivery)
class Delivery:
    def receivedHeader(self, helo: tuple[bytes, bytes], origin: Address, recipients: list[User]) -> bytes:
        name, client = helo
        return b"Received: from %s ([%s])" % (name, client)

    def validateFrom(self, helo: tuple[bytes, bytes], origin: Address) -> Address:
        return origin

    def validateTo(self, user: User) -> type[Message]:
        return Message


@implementer(IRealm)
class Realm:
    def requestAvatar(self, name: bytes | tuple[()], mind: object, *interfaces: Any) -> Any:
        return IMessageDelivery, Delivery(), lambda: None


class MailFactory(SMTPFactory):
    protocol = ESMTP

    def __init__(self, context: CertificateOptions) -> None:
        super().__init__(Portal(Realm(), [AllowAnonymousAccess()]))  # type: ignore[no-untyped-call]
        self._context = context

    def buildProtocol(self, addr: IAddress | None) -> Any:
        log.msg(f"client: {addr}")
        protocol = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        protocol.ctx = self._context
        return protocol


if __name__ == "__main__":
    serve(MailFactory(PrivateCertificate.loadPEM(Path("server.pem").read_bytes()).options()))
