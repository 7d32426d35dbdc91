"""Jupyter Server: its configuration file.

PROXYPROTOCOL_TRUSTED=10.0.0.0/8 jupyter server --config jupyter_server_config.py
"""

from __future__ import annotations

from proxyprotocol.integrations.tornado import switch_on

switch_on()
