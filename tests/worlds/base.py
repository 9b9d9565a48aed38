"""What the suite asks of a world, and what asynchronous worlds share."""

from __future__ import annotations

import queue
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from sslconnector import Connector

__all__ = ["TIMEOUT", "AsyncListener", "AsyncWorld", "Listener", "Stream", "World", "causes", "handshake_limit"]

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
    #: Whether closing, too, tells that the connection was cut.
    close_tells_of_a_cut = False
    #: Whether a stream can be closed while another task is sending, and tells what was lost.
    closes_while_sending = False

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

    def __init__(self, world: AsyncWorld, inner: Any) -> None:
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
    def __init__(self, world: AsyncWorld) -> None:
        super().__init__()
        self.world = world
        #: closes it, a coroutine function
        self.end: Callable[[], Coroutine[Any, Any, Any]]

    def put(self, inner: Any) -> None:
        self.accepted.put(AsyncStream(self.world, inner))

    def close(self) -> None:
        self.world.call(self.end)


class AsyncWorld(World):
    """Coroutines in a thread."""

    cancels = closes_while_sending = True

    def call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Runs a coroutine there, for at most ``TIMEOUT``."""
        raise NotImplementedError

    def connect(self, port: int, context: Any, *, server_hostname: str | None = "localhost", timeout: float | None = None) -> Stream:
        options: dict[str, Any] = {}
        if context is not None:
            options = {"ssl": context, "server_hostname": server_hostname, "ssl_handshake_timeout": timeout}
        return AsyncStream(self, self.call(lambda: self.a_connect(port, **options)))

    def listen(self, context: Any, *, timeout: float | None = None) -> Listener:
        listener = AsyncListener(self)
        options: dict[str, Any] = {} if context is None else {"ssl": context, "ssl_handshake_timeout": timeout}
        self.call(lambda: self.a_listen(listener, **options))
        return listener

    async def a_connect(self, port: int, **options: Any) -> Any:
        """Gives what AsyncStream calls."""
        raise NotImplementedError

    async def a_listen(self, listener: AsyncListener, **options: Any) -> None:
        """Sets the listener's ``port`` and ``end``."""
        raise NotImplementedError


@contextmanager
def causes(broken: type[Exception], closed: type[Exception]) -> Iterator[None]:
    """What the suite expects stands behind the errors of trio and anyio."""
    try:
        yield
    except broken as error:
        raise error.__cause__ or ConnectionResetError("broken") from None
    except closed:
        raise ConnectionAbortedError("closed") from None


def handshake_limit(context: Any, ssl_handshake_timeout: float | None = None, **options: Any) -> dict[str, Any]:
    """asyncio's option as ours, for who has it among the limits."""
    return {"limits": context.config.limits.with_timeouts(handshake=ssl_handshake_timeout), **options}
