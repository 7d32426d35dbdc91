"""See the library at work: this is ``proxyprotocol demo``, for a checkout without installed commands.

``make demo`` runs it; ``make demo VERBOSE=1`` shows every header, and ``make demo KEEP=1`` leaves the servers running
and says what to type.
"""

from __future__ import annotations

import sys

from proxyprotocol.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
