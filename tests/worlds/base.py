"""What the suite asks of a world, and what asynchronous worlds share."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sslconnector import Connector

__all__ = ["TIMEOUT", "AsyncioWorld", "Listener", "Stream", "World"]

#: seconds after which a call that should have returned is an error
TIMEOUT = 30


class Stream:
    """One connection. Calls block; one thread may receive while another sends."""

    #: None before TLS
    connector: Connector | None

    def send(self, data: bytes) -> None:
        """Returns when the data is taken and the world's flow control says to go on."""
        raise NotImplementedError

    def recv(self) -> bytes:
        """Some bytes; empty after the peer's end; raises what went wrong."""
        raise NotImplementedError

    def close_write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Closes and waits until it is closed; raises what the world reports then."""
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def start_tls(self, context: Any, **options: Any) -> None:
        raise NotImplementedError

    # What is the same everywhere.

    def recv_all(self) -> bytes:
        """Everything until the peer's end."""
        parts = []
        while data := self.recv():
            parts.append(data)
        return b"".join(parts)

    def recv_exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            data = self.recv()
            assert data, f"ended after {len(parts)} of {size} bytes"
            parts += data
        return bytes(parts)


class Listener:
    """A listening address; what it accepts is waited for with ``accept``."""

    port: int

    def __init__(self) -> None:
        self.accepted: queue.Queue[Stream] = queue.Queue()

    def accept(self) -> Stream:
        """The next connection with a complete handshake."""
        return self.accepted.get(timeout=TIMEOUT)

    def close(self) -> None:
        raise NotImplementedError


class World:
    """A way to use the library."""

    #: Whether an operation can be cancelled while it waits; sockets have time-outs instead.
    cancels = False

    def __init__(self) -> None:
        #: all that was made, to be given up at the end where a test has not closed it
        self.streams: list[Stream] = []

    def connect(self, port: int, context: Any, *, server_hostname: str | None = "localhost", timeout: float | None = None) -> Stream:
        """Connects to 127.0.0.1, with TLS unless ``context`` is None.

        :param timeout: seconds for the handshake.
        """
        raise NotImplementedError

    def listen(self, context: Any, *, timeout: float | None = None) -> Listener:
        """Listens on 127.0.0.1, with TLS unless ``context`` is None."""
        raise NotImplementedError

    def cancelled(self, steps: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        """Runs a coroutine of the world and cancels it after so many turns of the loop. True: it was finished before that."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the world; problems that it reported to nobody fail the test."""
        for stream in self.streams:
            stream.abort()


class AsyncStream(Stream):
    """The blocking face of a stream with coroutine methods of the same names."""

    def __init__(self, world: AsyncioWorld, inner: Any) -> None:
        self.world, self.inner = world, inner
        world.streams.append(self)

    @property
    def connector(self) -> Connector | None:  # type: ignore[override]
        return self.inner.connector()  # type: ignore[no-any-return]

    def send(self, data: bytes) -> None:
        self.world.call(lambda: self.inner.send(data))

    def recv(self) -> bytes:
        return self.world.call(self.inner.recv)  # type: ignore[no-any-return]

    def close_write(self) -> None:
        self.world.call(self.inner.close_write)

    def close(self) -> None:
        self.world.call(self.inner.close)

    def abort(self) -> None:
        self.world.call(self.inner.abort)

    def start_tls(self, context: Any, **options: Any) -> None:
        self.world.call(lambda: self.inner.start_tls(context, **options))


class AsyncListener(Listener):
    def __init__(self, world: AsyncioWorld) -> None:
        super().__init__()
        self.world = world
        self.server: asyncio.Server

    def put(self, inner: Any) -> None:
        self.accepted.put(AsyncStream(self.world, inner))

    def close(self) -> None:
        self.world.call(self._close)

    async def _close(self) -> None:
        self.server.close()


class AsyncioWorld(World):
    """An event loop in a thread. Subclasses have ``a_connect`` and ``a_listen``."""

    cancels = True

    def __init__(self, loop: str) -> None:
        super().__init__()
        if loop == "uvloop":
            self.loop = pytest.importorskip("uvloop").new_event_loop()
        else:
            self.loop = asyncio.new_event_loop()
        self.problems: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        future = asyncio.run_coroutine_threadsafe(make(), self.loop)
        try:
            return future.result(TIMEOUT)
        except TimeoutError:
            if not future.done():
                future.cancel()
                raise AssertionError(f"a call did not return within {TIMEOUT} s") from None
            raise

    def connect(self, port: int, context: Any, *, server_hostname: str | None = "localhost", timeout: float | None = None) -> Stream:
        options: dict[str, Any] = {}
        if context is not None:
            options = {"ssl": context, "server_hostname": server_hostname, "ssl_handshake_timeout": timeout}
        return AsyncStream(self, self.call(lambda: self.a_connect(port, **options)))

    def listen(self, context: Any, *, timeout: float | None = None) -> Listener:
        listener = AsyncListener(self)
        options: dict[str, Any] = {} if context is None else {"ssl": context, "ssl_handshake_timeout": timeout}
        listener.server = self.call(lambda: self.a_listen(listener, **options))
        listener.port = listener.server.sockets[0].getsockname()[1]
        return listener

    async def a_connect(self, port: int, **options: Any) -> Any:
        raise NotImplementedError

    async def a_listen(self, listener: AsyncListener, **options: Any) -> asyncio.Server:
        raise NotImplementedError

    def cancelled(self, steps: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        async def run() -> bool:
            task = asyncio.ensure_future(make())
            for _ in range(steps):
                if task.done():
                    break
                await asyncio.sleep(0)
            if task.done():
                task.result()
                return True
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return False
            return True

        return self.call(run)  # type: ignore[no-any-return]

    def close(self) -> None:
        super().close()

        async def settle() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)

        self.call(settle)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT)
        self.loop.close()
        assert self.problems == []
