"""One driver for each way to use the library, so that one suite (tests/test_behaviour.py) can be run over all of them.

A driver presents its world as blocking calls; asynchronous worlds run in a thread of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from .base import Listener, Stream, World

__all__ = ["WORLDS", "Listener", "Stream", "World", "make_world"]

_LOOPS = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]
_OTHERS = ["blocking", "nonblocking", "trio", "anyio-asyncio", "anyio-trio", "twisted"]
WORLDS = [*(f"{kind}-{loop}" for kind in ("protocol", "buffered", "streams") for loop in _LOOPS), *_OTHERS]


def make_world(name: str) -> World:
    """The world of that name."""
    from . import anyios, protocols, sockets, streams, trios, twisteds

    kind, _, loop = name.partition("-")
    makers: dict[str, Callable[[], World]] = {
        "protocol": lambda: protocols.ProtocolWorld(loop),
        "buffered": lambda: protocols.BufferedWorld(loop),
        "streams": lambda: streams.StreamWorld(loop),
        "trio": trios.TrioWorld,
        "anyio": lambda: anyios.AnyioOnTrioWorld() if loop == "trio" else anyios.AnyioOnAsyncioWorld(loop),
        "twisted": twisteds.TwistedWorld,
        "blocking": sockets.BlockingWorld,
        "nonblocking": sockets.NonBlockingWorld,
    }
    return makers[kind]()
