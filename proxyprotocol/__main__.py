"""The ``proxyprotocol`` command, and ``python -m proxyprotocol``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command, and return its exit status; 2 if another package has replaced files of this one."""
    try:
        from proxyprotocol._adapters import installation  # noqa: F401
    except ImportError as error:
        # one sentence: a traceback would not help the user
        print(f"proxyprotocol: {error}", file=sys.stderr)
        return 2
    from proxyprotocol.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
