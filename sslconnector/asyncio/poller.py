"""All sockets of a loop behind one descriptor.

The loop watches one epoll set, and everything that is ready in it is served in one callback: what a loop does for each callback (a
handle, a queue, a look at its timers) is done once for all. What is watched also stays watched until it says otherwise; libuv, for one,
forgets a descriptor at its first error, before what had come ahead of the error was read.

Where there is no epoll, the loop watches each descriptor itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import select
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from .._engine import epoll_set

__all__ = ["READ", "WRITE", "Watched", "kept_by_loop", "poller_of"]

#: what a descriptor is watched for
READ, WRITE = 1, 4

# Ready descriptors served in one callback, before the loop gets to its timers and to others.
_BATCH = 64


class Watched(Protocol):
    """Who is told that a descriptor is ready."""

    @property
    def patient(self) -> bool:
        """Whether others come first. Of those that say so, one is served for each look at all: a handshake takes as long as twenty
        messages, and a burst of them would make established connections wait."""

    def readable(self) -> None:
        """Something came, or the end, or an error: the read finds out."""

    def writable(self) -> None:
        """There is room, or an error: the write finds out."""


class Poller:
    """The descriptors that are watched in one loop. Each is served in the context in which it was watched first, as by asyncio."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._set: Any = None

    def watch(self, fd: int, watched: Watched, mask: int) -> None:
        """From now on ``watched`` is called when ``fd`` is ready for one of ``mask``."""
        if self._set is None:
            self._set = (epoll_set or EpollSet)(_BATCH, self._failed)
            self._loop.add_reader(self._set.fileno(), self._set.serve)
        self._set.watch(fd, watched, mask)

    def change(self, fd: int, mask: int) -> None:
        """It is watched for something else; for nothing at all with 0."""
        if self._set is not None:
            self._set.change(fd, mask)

    def forget(self, fd: int) -> None:
        """It is no longer watched, and may be closed."""
        if self._set is not None:
            self._set.forget(fd)
            if not len(self._set):
                if not self._loop.is_closed():
                    self._loop.remove_reader(self._set.fileno())
                self._set.close()
                self._set = None

    def _failed(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a callback of a socket raised", "exception": error})


class EpollSet:
    """An epoll set that calls who is ready. (The compiled twin has one of its own.)

    :param batch: how many are served at most in one call of ``serve``.
    :param failed: is told what a callback raised.
    """

    def __init__(self, batch: int, failed: Any) -> None:
        self._epoll = select.epoll()
        self._batch = batch
        self._failed = failed
        self._all: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._all)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()

    def watch(self, fd: int, watched: Watched, mask: int) -> None:
        self._all[fd] = _Entry(watched, mask)
        if mask:
            self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        entry = self._all[fd]
        before, entry.mask = entry.mask, mask
        if mask == before:
            return
        if not before:
            self._epoll.register(fd, mask)
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            # Errors are reported even to who asked for nothing.
            self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        if self._all.pop(fd).mask:
            self._epoll.unregister(fd)

    def serve(self) -> None:
        """Calls who is ready."""
        patient: tuple[int, int] | None = None
        for fd, events in self._epoll.poll(0, self._batch):
            entry = self._all.get(fd)
            if entry is None:
                continue
            if not entry.watched.patient:
                self._serve(fd, events)
            elif patient is None:
                patient = fd, events
        if patient is not None:
            self._serve(*patient)

    def _serve(self, fd: int, events: int) -> None:
        # Those called before may have forgotten it, or changed what it is watched for.
        entry = self._all.get(fd)
        if entry is not None and entry.mask & READ and events != WRITE:
            try:
                entry.run(entry.watched.readable)
            except Exception as error:
                self._failed(error)
        if events != READ:
            entry = self._all.get(fd)
            if entry is not None and entry.mask & WRITE:
                try:
                    entry.run(entry.watched.writable)
                except Exception as error:
                    self._failed(error)


class _Entry:
    __slots__ = ("mask", "run", "watched")

    def __init__(self, watched: Watched, mask: int) -> None:
        self.mask = mask
        self.run = contextvars.copy_context().run
        self.watched = watched


class LoopPoller:
    """The same on the loop's own calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._all: dict[int, tuple[Watched, int]] = {}

    def watch(self, fd: int, watched: Watched, mask: int) -> None:
        self._all[fd] = (watched, 0)
        self.change(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        loop = self._loop
        watched, before = self._all[fd]
        self._all[fd] = (watched, mask)
        if loop.is_closed():
            return
        if mask & READ and not before & READ:
            loop.add_reader(fd, watched.readable)
        elif before & READ and not mask & READ:
            loop.remove_reader(fd)
        if mask & WRITE and not before & WRITE:
            loop.add_writer(fd, watched.writable)
        elif before & WRITE and not mask & WRITE:
            loop.remove_writer(fd)

    def forget(self, fd: int) -> None:
        self.change(fd, 0)
        del self._all[fd]


_Made = TypeVar("_Made")


def kept_by_loop(loop: asyncio.AbstractEventLoop, name: str, make: Callable[[], _Made]) -> _Made:
    """What belongs to the loop and ends with it. It refers back to the loop, so no table of ours may hold it: the loop itself does."""
    made: _Made | None = getattr(loop, name, None)
    if made is None:
        made = make()
        setattr(loop, name, made)
    return made


def poller_of(loop: asyncio.AbstractEventLoop) -> Poller | LoopPoller:
    """The loop's poller."""
    return kept_by_loop(loop, "_sslconnector_poller", lambda: Poller(loop) if hasattr(select, "epoll") else LoopPoller(loop))
