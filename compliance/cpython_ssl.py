"""CPython's own tests (of the installed Python; nothing is copied) with our ``SSLContext``: those of its ``ssl`` module, and those of
asyncio's TLS, which wraps what the context makes.

Of ``test.test_ssl`` only the classes that use a context; the rest tests functions that stay the ``ssl`` module's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import ssl
import sys
import unittest
import warnings
from typing import Any

from sslconnector import stdlib

from .outcomes import run_suite

_CLASSES = [
    "ContextTests",
    "SSLErrorTests",
    "MemoryBIOTests",
    "SSLObjectTests",
    "SimpleBackgroundTests",
    "ThreadedTests",
    "TestPostHandshakeAuth",
]


def run(name: str) -> dict[str, str]:
    """Runs the tests of a module. Returns the text of what failed, by test; empty for what passed or was skipped."""
    from test import support  # type: ignore[import-not-found]

    support.SHORT_TIMEOUT, support.LONG_TIMEOUT, support.LOOPBACK_TIMEOUT = 15.0, 20.0, 10.0
    ssl.SSLContext = stdlib.SSLContext  # type: ignore[misc]
    ssl.create_default_context = stdlib.create_default_context  # type: ignore[assignment]
    module: Any = importlib.import_module(name)
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromNames(_CLASSES, module) if name == "test.test_ssl" else loader.loadTestsFromModule(module)
    return run_suite(suite)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    out = sys.stdout
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        found = run(sys.argv[1])
    json.dump(found, out, indent=1)
    out.flush()
    # Threads of the tests' servers may still wait.
    os._exit(0)
