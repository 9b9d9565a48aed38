"""Sphinx configuration."""

from sslconnector import __version__

project = "sslconnector"
author = "the sslconnector authors"
copyright = "2026, the sslconnector authors"  # noqa: A001
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
exclude_patterns = ["_build"]
autodoc_inherit_docstrings = False
