"""The codecs, by the names that configuration files use."""

from __future__ import annotations

from enum import Enum
from typing import cast

from proxyprotocol.codec import ProxyProtocol
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.noop import ProxyProtocolNoop
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

__all__ = ["ProxyProtocolVersion"]


class ProxyProtocolVersion(Enum):
    """Every codec for connections by name."""

    NOOP = ProxyProtocolNoop()
    DETECT = ProxyProtocolDetect()
    V1 = ProxyProtocolV1()
    V2 = ProxyProtocolV2()

    @classmethod
    def get(cls, name: str | None = None) -> ProxyProtocol:
        """Return a codec by its name.

        Args:
            name: ``noop``, ``detect``, ``v1`` or ``v2``, in upper or lower case; None or empty for ``noop``.

        Raises:
            KeyError: No codec has this name.
        """
        return cast(ProxyProtocol, cls[name.upper() if name else "NOOP"].value)
