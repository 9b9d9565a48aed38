"""asyncio's streams over our transports.

``StreamReader``, ``StreamWriter`` and ``StreamReaderProtocol`` derive from asyncio's and differ where those lose something:

* An error (a cut connection is one) is raised after the data that came before it, not instead of it.
* The peer's close_notify does not close the connection: writing goes on until ``close()`` (half-close). asyncio's stream protocol refuses
  that as soon as a transport has an ``sslcontext``.
* A cancelled ``read()`` keeps what it had collected for the next one, and a cancelled ``wait_closed()`` ends nobody else's.
* ``start_tls`` moves flow control to the new transport, and does not let bytes from before the upgrade through (FAULTS F01).
"""

from __future__ import annotations

import asyncio
from asyncio.streams import _DEFAULT_LIMIT  # type: ignore[attr-defined]
from collections.abc import Awaitable, Callable
from typing import Any

from ..context import ClientContext, ServerContext
from ..session import Session
from .connections import create_connection, create_server, create_unix_connection, create_unix_server, start_tls
from .protocol import IdentityProvider

__all__ = [
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

#: What a server calls for each connection: a function, or a coroutine function that becomes a task.
ClientConnected = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]


class StreamReader(asyncio.StreamReader):
    """An ``asyncio.StreamReader`` that raises the connection's error after the data, at every read that has nothing more to give.

    ``read(-1)``, ``readexactly`` and ``readuntil`` raise it, too, instead of ending early; what had come then stays for ``read(n)``. For
    an end without close_notify the error is a :class:`~sslconnector.TruncationError`.
    """

    _failure: BaseException | None = None
    _ended_well = False

    def set_exception(self, exc: BaseException) -> None:
        self._failure = self._failure or exc
        # After the peer's orderly end only writing can still fail.
        self._ended_well = self._ended_well or self._eof
        self.feed_eof()

    def exception(self) -> Any:
        # A copy each time: the traceback of one raised again and again would tie all its callers' frames together (FAULTS F28).
        again = getattr(self._failure, "again", None)
        return self._failure if again is None else again()

    def at_eof(self) -> bool:
        """Whether all was read and the end was an orderly one."""
        return super().at_eof() and (self._failure is None or self._ended_well)

    async def read(self, n: int = -1) -> bytes:
        if n == 0:
            return b""
        if n > 0:
            data = await super().read(n)
            if not data:
                self._raise_failure()
            return data
        blocks = []
        try:
            while block := await self.read(self._limit):
                blocks.append(block)
        except BaseException:
            self._buffer[:0] = b"".join(blocks)
            raise
        return b"".join(blocks)

    async def readexactly(self, n: int) -> bytes:
        try:
            return await super().readexactly(n)
        except asyncio.IncompleteReadError as short:
            self._raise_failure(short.partial)
            raise

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        try:
            return await super().readuntil(separator)
        except asyncio.IncompleteReadError as short:
            self._raise_failure(short.partial)
            raise

    def _raise_failure(self, partial: bytes = b"") -> None:
        """Raises what ended the stream, if it was not the peer's orderly end; then ``partial`` is there again to be read."""
        if self._failure is not None and not self._ended_well:
            self._buffer[:0] = partial
            raise self.exception() from None

    # What asyncio's class keeps to itself and ours needs to know.
    _buffer: bytearray
    _limit: int
    _eof: bool
    _transport: Any


class StreamWriter(asyncio.StreamWriter):
    """An ``asyncio.StreamWriter`` with half-close (``write_eof``) and ``start_tls``."""

    # The three are asyncio's.
    _transport: Any
    _protocol: StreamReaderProtocol
    _reader: StreamReader

    async def wait_closed(self) -> None:
        # Everybody waits for the same future: one who is cancelled must not cancel it for the others.
        await asyncio.shield(self._protocol._get_close_waiter(self))

    async def start_tls(  # type: ignore[override]
        self,
        sslcontext: ClientContext | ServerContext,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        session: Session | None = None,
        identity_provider: IdentityProvider | None = None,
    ) -> None:
        """Goes on with TLS, as client or server according to the context. Reader and writer stay the same.

        What was written before goes out first, in clear; no ``drain()`` is needed. Bytes that the reader holds and that are not TLS make
        it refuse: see :func:`start_tls`.

        :raises ApiMisuse: when the reader holds bytes in clear; nothing has changed.
        :raises TLSError: when the handshake fails; the connection is closed then.
        """
        transport = await start_tls(
            self._transport,
            self._protocol,
            sslcontext,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            session=session,
            identity_provider=identity_provider,
        )
        self._transport = transport
        self._protocol.replace_transport(transport)


class StreamReaderProtocol(asyncio.StreamReaderProtocol):
    """Between a transport and our stream classes."""

    # These are asyncio's.
    _get_close_waiter: Callable[[asyncio.StreamWriter], asyncio.Future[None]]
    _loop: asyncio.AbstractEventLoop
    _stream_reader: Any
    _transport: Any
    _client_connected_cb: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        callback, self._client_connected_cb = self._client_connected_cb, None
        # Without its callback asyncio's makes no writer.
        super().connection_made(transport)
        if callback is None:
            return
        reader: StreamReader = self._stream_reader
        self._strong_reader = None
        result = callback(reader, StreamWriter(self._transport, self, reader, self._loop))
        if asyncio.iscoroutine(result):
            self._task = self._loop.create_task(result)
            self._task.add_done_callback(self._handled)

    def _handled(self, task: asyncio.Task[Any]) -> None:
        transport = self._transport
        if task.cancelled():
            error = None
        elif (error := task.exception()) is None:
            return
        else:
            message = "Unhandled exception in client_connected_cb"
            self._loop.call_exception_handler({"message": message, "exception": error, "transport": transport})
        if transport is not None:
            # What the handler wrote may be half an answer: not an orderly end.
            transport.abort()

    def eof_received(self) -> bool:
        reader = self._stream_reader
        if reader is not None:
            reader.feed_eof()
        # Half-close: writing goes on until the application closes.
        return True

    def replace_transport(self, transport: asyncio.Transport) -> None:
        """From now on the connection goes over ``transport``."""
        self._transport = transport
        reader = self._stream_reader
        if reader is not None:
            # Else the reader would go on pausing the wire below.
            reader._transport = transport


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = _DEFAULT_LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connects; like ``asyncio.open_connection``. ``options`` are those of :func:`create_connection`.

    :param limit: bytes that the reader holds before reading pauses (twice as many), and the longest line.
    """
    return await _open(lambda factory: create_connection(factory, host, port, **options), limit)


async def open_unix_connection(path: Any = None, *, limit: int = _DEFAULT_LIMIT, **options: Any) -> tuple[StreamReader, StreamWriter]:
    """Connects to a UNIX socket; like ``asyncio.open_unix_connection``. ``options`` are those of :func:`create_unix_connection`."""
    return await _open(lambda factory: create_unix_connection(factory, path, **options), limit)


async def start_server(
    client_connected_cb: ClientConnected, host: Any = None, port: Any = None, *, limit: int = _DEFAULT_LIMIT, **options: Any
) -> asyncio.Server:
    """Listens; like ``asyncio.start_server``. ``options`` are those of :func:`create_server`.

    :param client_connected_cb: called with reader and writer when a handshake is complete. When it raises, the loop's exception handler
        is told and the connection is given up.
    """
    return await create_server(_factory(client_connected_cb, limit), host, port, **options)


async def start_unix_server(
    client_connected_cb: ClientConnected, path: Any = None, *, limit: int = _DEFAULT_LIMIT, **options: Any
) -> asyncio.Server:
    """Listens on a UNIX socket; like ``asyncio.start_unix_server``. Parameters as in :func:`start_server`."""
    return await create_unix_server(_factory(client_connected_cb, limit), path, **options)


_Connect = Callable[[Callable[[], StreamReaderProtocol]], Awaitable[tuple[asyncio.Transport, StreamReaderProtocol]]]


async def _open(connect: _Connect, limit: int) -> tuple[StreamReader, StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    protocol = StreamReaderProtocol(reader, loop=loop)
    transport, _ = await connect(lambda: protocol)
    return reader, StreamWriter(transport, protocol, reader, loop)


def _factory(client_connected_cb: ClientConnected, limit: int) -> Callable[[], StreamReaderProtocol]:
    if not callable(client_connected_cb):
        raise TypeError(f"client_connected_cb must be callable, not {type(client_connected_cb).__name__}")
    loop = asyncio.get_running_loop()

    def factory() -> StreamReaderProtocol:
        callback: Any = client_connected_cb
        return StreamReaderProtocol(StreamReader(limit=limit, loop=loop), callback, loop=loop)

    return factory
