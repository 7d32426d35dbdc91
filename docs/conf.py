"""Sphinx's settings. `make docs` builds the pages and takes a warning for an error."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

_setup = ConfigParser()
_setup.read(Path(__file__).parent.parent / "setup.cfg")

project = _setup["metadata"]["name"]
author = _setup["metadata"]["author"]
release = _setup["metadata"]["version"]
project_copyright = f"2026 {author}"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
language = "en_GB"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Types are put beside the arguments that a docstring describes; the others would be a list of types without a word.
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
# As fields of the class: a list of attributes would be a second description of those that are properties.
napoleon_use_ivar = True
