"""What an application can ask its transport: what the header said, and who really connected."""

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
    """The application's transport, behind a header."""
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


def test_the_result_is_there_when_the_application_begins() -> None:
    results: list[ProxyResult | None] = []
    factory = AppFactory(begin=lambda app: results.append(proxy_result(app.transport)))
    accept(wrap(factory)).receive(HEADER)

    (result,) = results
    assert result is not None
    assert result.peername == ("192.0.2.1", 1000)


def test_the_proxy_is_still_known(transport: Any) -> None:
    assert IProxiedTransport(transport).getProxyPeer() == PROXY


def test_the_adapter_is_what_the_interface_says(transport: Any) -> None:
    assert verifyObject(IProxiedTransport, IProxiedTransport(transport))


def test_a_reset_of_what_the_transport_provides_changes_nothing(transport: Any) -> None:
    """As Twisted's startTLS does it."""
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
def test_what_has_nothing_to_do_with_us_has_no_result(transport: Any) -> None:
    assert proxy_result(transport) is None
    assert IProxiedTransport(transport, None) is None


@pytest.mark.parametrize("kind", [mock.Mock, mock.MagicMock])
def test_a_double_that_has_every_attribute_has_no_result(kind: type[mock.Mock]) -> None:
    """One that makes up a transport below each transport was walked down for ever."""
    assert proxy_result(kind()) is None


def test_a_transport_that_is_its_own_has_no_result() -> None:
    transport: Any = StringTransport()
    transport.transport = transport

    assert proxy_result(transport) is None


def test_a_transport_on_another_has_the_others_result() -> None:
    """As where the application is inside wrappers of its own."""
    factory = AppFactory()
    accept(wrap(SpewingFactory(SpewingFactory(SpewingFactory(factory))))).receive(HEADER)

    proxied = IProxiedTransport(factory.app.transport)
    assert proxied.getProxyResult().peername == ("192.0.2.1", 1000)
    assert proxied.getProxyPeer() == PROXY
