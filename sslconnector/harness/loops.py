"""Which event loop to run on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["LOOPS", "run"]

LOOPS = ("asyncio", "uvloop")

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result], loop: str) -> _Result:
    """Like ``asyncio.run``, on the named loop.

    :raises ModuleNotFoundError: when uvloop is asked for and not installed.
    """
    factory = None
    if loop == "uvloop":
        try:
            import uvloop
        except ModuleNotFoundError:
            main.close()
            raise ModuleNotFoundError("uvloop is not installed; run: pip install 'sslconnector[uvloop]', or leave --loop out") from None
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
