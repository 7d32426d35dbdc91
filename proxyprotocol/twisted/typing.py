"""What this package takes from Twisted and zope.interface, for type checkers that run without mypy-zope.

Such a checker does not know that a class implements an interface, so each type also names the methods that we call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from twisted.internet import interfaces

__all__ = ["ClientEndpoint", "Interface", "ProtocolFactory", "ServerEndpoint", "TimeSource", "method"]


class _Listens(Protocol):
    def listen(self, protocolFactory: Any, /) -> Any: ...


class _Connects(Protocol):
    def connect(self, protocolFactory: Any, /) -> Any: ...


class _Builds(Protocol):
    def buildProtocol(self, addr: Any, /) -> Any: ...
    def doStart(self) -> Any: ...
    def doStop(self) -> Any: ...


class _Times(Protocol):
    def seconds(self) -> Any: ...
    def callLater(self, delay: Any, callable: Any, /) -> Any: ...


#: A server endpoint, such as a ``TCP4ServerEndpoint``, or what ``serverFromString`` returns.
ServerEndpoint: TypeAlias = "interfaces.IStreamServerEndpoint | _Listens"

#: A client endpoint, such as a ``HostnameEndpoint``, or what ``clientFromString`` returns.
ClientEndpoint: TypeAlias = "interfaces.IStreamClientEndpoint | _Connects"

#: A factory, such as a ``Site``, or what ``Factory.forProtocol`` returns.
ProtocolFactory: TypeAlias = "interfaces.IProtocolFactory | _Builds"

#: A reactor, or a ``Clock`` in tests.
TimeSource: TypeAlias = "interfaces.IReactorTime | _Times"


if TYPE_CHECKING:

    class Interface:
        """An interface of ours: called with an object, it finds the adapter."""

        def __init__(self, adapted: object, alternate: Any = ..., /) -> None: ...

        @classmethod
        def providedBy(cls, ob: object, /) -> bool:
            """Return whether an object provides this interface."""
            return False

    #: Marks a method of an interface, which has no *self*.
    method = staticmethod
else:
    from zope.interface import Interface

    def method(function):
        """Mark a method of an interface, which has no *self*."""
        return function
