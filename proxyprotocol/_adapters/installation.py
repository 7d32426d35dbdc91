"""Raises an ImportError if ``proxy-protocol`` has replaced or removed files of this package.

Both packages are imported as ``proxyprotocol``, and pip lets either overwrite the other. Every module that only this
package has (an adapter, the command) imports this one first. So the user reads what to do, and not that a name is
missing.
"""

from __future__ import annotations

import sys

# proxy-protocol overwrites the package's __init__.py, which Python has imported before this module.
if not hasattr(sys.modules["proxyprotocol"], "ProxyProtocolError"):
    raise ImportError(
        "The package proxy-protocol has replaced or removed files of proxyprotocol: both have the same import name. "
        "Run `pip uninstall proxy-protocol`, then `pip install --force-reinstall proxyprotocol`."
    )
