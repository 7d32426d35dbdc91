"""The version of the installed package, which setup.cfg alone names."""

from __future__ import annotations

__all__: list[str] = []


def read_version() -> str:
    """Return the version of the installed package; ``0+checkout`` if it is not installed."""
    # here, because this import takes a third as long as that of the whole package
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("proxyprotocol")
    except PackageNotFoundError:
        return "0+checkout"


def get_attribute(name: str) -> str:
    """Serve ``proxyprotocol.__version__``, as the package's ``__getattr__``."""
    if name == "__version__":
        return read_version()
    raise AttributeError(f"module 'proxyprotocol' has no attribute {name!r}")
