"""Gives back the memory of connections that have fallen quiet: one sweep over all of a loop instead of a timer for each.

OpenSSL's buffers grow with what passes through them (34 KiB for a record of 16 KiB in each direction) and never shrink by themselves (F34).
New ones cost some microseconds, so a busy connection keeps what it has. How many have grown at the same time decides what the process
keeps in the end: the C heap does not return what lies between other connections' memory. So the sweeps come often.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .poller import kept_by_loop

if TYPE_CHECKING:
    from .protocol import TLSProtocol

__all__ = ["Sweeper", "sweeper_of"]


class Sweeper:
    """The grown connections of one loop.

    :param seconds: a connection that moved nothing for so long, and at most twice as long, is shrunk.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        # What each had moved at the last sweep.
        self._grown: dict[TLSProtocol, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, protocol: TLSProtocol) -> None:
        """Its buffers have grown."""
        self._grown[protocol] = -1
        if self._timer is None:
            self._start()

    def discard(self, protocol: TLSProtocol) -> None:
        """Its connection has ended."""
        self._grown.pop(protocol, None)
        if not self._grown and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        for protocol, before in list(self._grown.items()):
            moved = protocol.connector.bytes_moved
            if moved != before:
                self._grown[protocol] = moved
            elif protocol.shrink():
                self._grown.pop(protocol, None)
        if self._grown:
            self._start()


def sweeper_of(loop: asyncio.AbstractEventLoop, seconds: float) -> Sweeper:
    """The loop's sweeper for connections with this ``Limits.release_memory_after``."""
    sweepers: dict[float, Sweeper] = kept_by_loop(loop, "_sslconnector_sweepers", dict)
    if seconds not in sweepers:
        sweepers[seconds] = Sweeper(loop, seconds)
    return sweepers[seconds]
