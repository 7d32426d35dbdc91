"""An SSH server of twisted.conch, that answers every command with its client's address.

It has its own key in ``host_key`` here, and that of its one user, alice, in ``alice.pub``.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.cred.portal import IRealm, Portal
from twisted.internet.error import ProcessDone
from twisted.python.components import registerAdapter
from twisted.python.failure import Failure
from zope.interface import implementer

from .serve import serve


class User(ConchUser):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.channelLookup[b"session"] = SSHSession


class Session:
    def __init__(self, user: User) -> None:
        self._connection: Any = user.conn

    def execCommand(self, process: Any, command: bytes) -> None:
        client = self._connection.transport.getPeer().address
        process.outReceived(f"{client.host} {client.port} ".encode() + command)
        process.processEnded(Failure(ProcessDone(0)))

    def eofReceived(self) -> None:
        pass

    def closed(self) -> None:
        pass


@implementer(IRealm)
class Realm:
    def requestAvatar(self, name: bytes | tuple[()], mind: object, *interfaces: Any) -> Any:
        return interfaces[0], User(), lambda: None


class Server(SSHFactory):
    def __init__(self, host_key: Key, users: Portal) -> None:
        self.privateKeys = {host_key.sshType(): host_key}
        self.publicKeys = {host_key.sshType(): host_key.public()}
        self.portal = users


if __name__ == "__main__":
    registerAdapter(Session, User, ISession)
    alice = InMemorySSHKeyDB({b"alice": [Key.fromFile("alice.pub")]})
    serve(Server(Key.fromFile("host_key"), Portal(Realm(), [SSHPublicKeyChecker(alice)])))
