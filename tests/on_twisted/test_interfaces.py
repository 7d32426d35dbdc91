"""What an application can ask its transport: the header, and the proxy's address."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import SpewingFactory
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from proxyprotocol import HeaderPolicy, ProxyResult
from proxyprotocol.twisted import IProxiedTransport, proxy_result
from tests.on_twisted.reactors import HEADER, PROXY, AppFactory, accept, wrap
from tests.vectors import VECTORS, Vector, describe


@pytest.fixture
def transport() -> Any:
    """The application's transport after a header."""
    transport = accept(wrap(AppFactory()))
    transport.receive(HEADER)
    return transport


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_the_result_is_what_the_header_said(vector: Vector) -> None:
    transport = accept(wrap(AppFactory()))
    transport.receive(vector.header)

    result = IProxiedTransport(transport).getProxyResult()
    assert describe(result) == describe(vector.result)
    assert proxy_result(transport) is result


def test_the_result_is_available_in_connectionMade() -> None:
    results: list[ProxyResult | None] = []
    factory = AppFactory(begin=lambda app: results.append(proxy_result(app.transport)))
    accept(wrap(factory)).receive(HEADER)

    (result,) = results
    assert result is not None
    assert result.peername == ("192.0.2.1", 1000)


def test_getProxyPeer_returns_the_proxys_address(transport: Any) -> None:
    assert IProxiedTransport(transport).getProxyPeer() == PROXY


def test_the_adapter_provides_the_interface(transport: Any) -> None:
    assert verifyObject(IProxiedTransport, IProxiedTransport(transport))


def test_resetting_the_transports_interfaces_keeps_the_adapter(transport: Any) -> None:
    """Twisted's startTLS does this."""
    directlyProvides(transport, ISSLTransport)

    assert IProxiedTransport(transport).getProxyPeer() == PROXY


def test_a_plain_connection_has_no_result() -> None:
    transport = accept(wrap(AppFactory(), policy=HeaderPolicy.SKIP))

    assert proxy_result(transport) is None
    with pytest.raises(TypeError, match="adapt"):
        IProxiedTransport(transport)
    assert IProxiedTransport(transport, None) is None


@pytest.mark.parametrize(
    "transport", [None, 1, "transport", object(), StringTransport()], ids=lambda value: type(value).__name__
)
def test_an_unrelated_object_has_no_result(transport: Any) -> None:
    assert proxy_result(transport) is None
    assert IProxiedTransport(transport, None) is None


@pytest.mark.parametrize("kind", [mock.Mock, mock.MagicMock])
def test_a_mock_with_every_attribute_has_no_result(kind: type[mock.Mock]) -> None:
    """Once the search never ended: the mock makes up a transport below each transport."""
    assert proxy_result(kind()) is None


def test_a_transport_that_refers_to_itself_has_no_result() -> None:
    transport: Any = StringTransport()
    transport.transport = transport

    assert proxy_result(transport) is None


def test_a_layer_has_the_result_of_the_transport_below() -> None:
    """Applications with their own wrappers need this."""
    factory = AppFactory()
    accept(wrap(SpewingFactory(SpewingFactory(SpewingFactory(factory))))).receive(HEADER)

    proxied = IProxiedTransport(factory.app.transport)
    assert proxied.getProxyResult().peername == ("192.0.2.1", 1000)
    assert proxied.getProxyPeer() == PROXY
