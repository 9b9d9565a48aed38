"""The command ``sslconnector``."""

from __future__ import annotations

import sys

try:
    from .commands import cli
except ModuleNotFoundError as missing:  # pragma: no cover - without the extra
    if missing.name not in ("click", "hdrh", "rich", "trustme"):
        raise
    sys.exit(f"the command needs {missing.name}, which is not installed; run: pip install 'sslconnector[harness]'")

__all__ = ["main"]


def main() -> None:
    """Runs the command."""
    cli(prog_name="sslconnector")
