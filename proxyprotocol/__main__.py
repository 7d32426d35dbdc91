"""Floor 6: the ``proxyprotocol`` command, and ``python -m proxyprotocol``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command.

    Returns:
        The exit status, as :func:`proxyprotocol.cli.main` gives it; 2 where files of this package were replaced.
    """
    try:
        from proxyprotocol._adapters import installation  # noqa: F401
    except ImportError as error:
        # one sentence for a user, who can do nothing with a traceback
        print(f"proxyprotocol: {error}", file=sys.stderr)
        return 2
    from proxyprotocol.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
