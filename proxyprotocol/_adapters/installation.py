"""Raises an ImportError where ``proxy-protocol`` has replaced or removed files of this package.

Both packages are imported as ``proxyprotocol``, and pip lets either overwrite the other. Each entry that only this
package has (an adapter, the command) imports this module first, so that the user reads what to do, instead of the error
that the first missing name would cause.
"""

from __future__ import annotations

import sys

__all__: list[str] = []

# Python has imported the front door, which proxy-protocol overwrites, before any entry below it.
if not hasattr(sys.modules["proxyprotocol"], "ProxyProtocolError"):
    raise ImportError(
        "The package proxy-protocol has replaced or removed files of proxyprotocol: both have the same import name. "
        "Run `pip uninstall proxy-protocol`, then `pip install --force-reinstall proxyprotocol`."
    )
