"""What `decode` and `check` need: descriptions of headers, and the captures and dumps that hold them."""

from __future__ import annotations
