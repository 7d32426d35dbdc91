"""The documentation describes every option."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyprotocol.options import OPTIONS, SENDER_OPTIONS


def endpoint_options(text: str) -> set[str]:
    """The options of endpoint strings that a table describes, spelled in lower case and without their prefix."""
    return {name.lower() for name in re.findall(r"^(?:\| `|``)pp(\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_documentation_has_every_option_of_a_server(project_root: Path, option: str) -> None:
    docs = project_root / "docs"
    relay = "accept" if option == "version" else option  # pp= was taken: it says what the relay sends
    assert option.replace("_", "") in endpoint_options((project_root / "README.md").read_text())
    assert f"\n``PROXYPROTOCOL_{option.upper()}`` " in (docs / "asyncio.rst").read_text()
    assert f"   * - ``{relay}=" in (docs / "relay.rst").read_text()


@pytest.mark.parametrize("option", SENDER_OPTIONS)
def test_the_documentation_has_every_option_of_a_client(project_root: Path, option: str) -> None:
    assert option in endpoint_options((project_root / "docs" / "twisted.rst").read_text())
