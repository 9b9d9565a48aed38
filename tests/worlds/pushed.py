"""What protocols of asyncio and of Twisted have in common: data comes when it comes, and is kept until somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Pushed"]


class Pushed:
    """A connection whose protocol puts what it is told here.

    :param event: makes an event as asyncio's.
    """

    def __init__(self, event: Callable[[], Any]) -> None:
        self.transport: Any = None
        self.data = b""
        self.ended = self.lost = False
        self.error: BaseException | None = None
        self.changed, self.writable = event(), event()
        self.writable.set()

    def came(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def came_to_an_end(self) -> None:
        self.ended = True
        self.changed.set()

    def was_lost(self, error: BaseException | None) -> None:
        assert not self.lost
        self.lost, self.error = True, error
        self.changed.set()
        self.writable.set()

    def taken(self) -> bytes:
        data, self.data = self.data, b""
        return data

    async def until_lost(self) -> None:
        while not self.lost:
            self.changed.clear()
            await self.changed.wait()

    # What AsyncStream calls.

    async def recv(self) -> bytes:
        while not (self.data or self.ended or self.lost):
            self.changed.clear()
            await self.changed.wait()
        if not self.data and not self.ended and self.error is not None:
            raise self.error
        data = self.taken()
        self.resume()
        return data

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        await self.writable.wait()
        if self.lost:
            raise self.error or ConnectionResetError("lost")

    async def close(self) -> None:
        self.lose()
        await self.until_lost()
        if self.error is not None:
            raise self.error

    def resume(self) -> None:
        """Data is wanted again."""
        raise NotImplementedError

    def lose(self) -> None:
        """The world's way to close."""
        raise NotImplementedError
