"""Streams and listeners after trio's rules: every call is a checkpoint, one task receives and one sends, errors are trio's."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from ..awaiting import AwaitingTLS, IdentityProvider, WireLost, World
from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..limits import Limits
from ..session import Session

__all__ = [
    "IdentityProvider",
    "TLSListener",
    "TLSStream",
    "open_tls_over_tcp_listeners",
    "open_tls_over_tcp_stream",
    "serve_tls_over_tcp",
]

_log = logging.getLogger(__name__)

# Most bytes of plaintext that receive_some() gives when it is not told.
_MOST = 65536


class _World(World):
    Lock = trio.StrictFIFOLock
    CancelScope = trio.CancelScope
    current_time = staticmethod(trio.current_time)
    checkpoint = staticmethod(trio.lowlevel.checkpoint)
    checkpoint_if_cancelled = staticmethod(trio.lowlevel.checkpoint_if_cancelled)
    cancel_shielded_checkpoint = staticmethod(trio.lowlevel.cancel_shielded_checkpoint)
    BrokenResourceError, ClosedResourceError = trio.BrokenResourceError, trio.ClosedResourceError


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except trio.BrokenResourceError as error:
        raise WireLost(str(error.__cause__ or error) or "the transport is broken") from error


class _StreamWire:
    """Any stream of trio's."""

    keeps = resets = busy = False

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: Any = stream

    async def receive(self, most: int) -> bytes | bytearray:
        with _lost():
            return await self.stream.receive_some(most)  # type: ignore[no-any-return]

    async def send(self, data: memoryview) -> int:
        with _lost():
            await self.stream.send_all(data)
        return len(data)

    async def end_writing(self) -> None:
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            with _lost():
                await self.stream.send_eof()

    async def close(self) -> None:
        await self.stream.aclose()


class _SocketWire(_StreamWire):
    """A socket: it tells how much a send has taken, also when it was cancelled."""

    keeps = resets = True

    async def send(self, data: memoryview) -> int:
        sock = self.stream.socket
        if sock.fileno() < 0:
            raise trio.ClosedResourceError("the transport was closed")
        try:
            return await sock.send(data)  # type: ignore[no-any-return]
        except OSError as error:
            if sock.fileno() < 0:
                raise trio.ClosedResourceError("the transport was closed") from None
            raise WireLost(str(error)) from error


class TLSStream(trio.abc.HalfCloseableStream):
    """A stream with TLS on it. The handshake is a part of the first call that needs it, or of :meth:`do_handshake`.

    While it is wrapped, ``transport_stream`` belongs to this stream; :meth:`unwrap` gives it back.

    What goes wrong is ``trio.BrokenResourceError``; its ``__cause__`` is ours, for instance :class:`~sslconnector.TruncationError` for a
    connection that was cut.

    Over a ``trio.SocketStream`` a call that is cancelled loses nothing: what of it was encrypted goes out first with the next one. Over
    another stream, whose cancelled ``send_all`` tells nobody how much it took, sending is over then, and says so.

    :param context: a client's or a server's; it says which side this is.
    :param server_hostname: for clients: the name that the certificate must carry.
    :param session: for clients: a session to resume.
    :param limits: instead of the context's, with the deadlines for handshake and close among others.
    :param identity_provider: for a context with ``identity_on_demand``; may be a coroutine function.
    :param left_over: the first ciphertext, when it was read together with what came in clear (after STARTTLS).
    """

    def __init__(
        self,
        transport_stream: trio.abc.Stream,
        context: ClientContext | ServerContext,
        *,
        server_hostname: str | None = None,
        session: Session | None = None,
        limits: Limits | None = None,
        identity_provider: IdentityProvider | None = None,
        left_over: bytes = b"",
    ) -> None:
        for name in ("receive_some", "send_all"):
            if not callable(getattr(transport_stream, name, None)):
                raise TypeError(f"transport_stream must be a trio stream; {type(transport_stream).__name__} has no {name}()")
        connector = Connector(context, server_hostname=server_hostname, session=session, limits=limits)
        wire = (_SocketWire if isinstance(transport_stream, trio.SocketStream) else _StreamWire)(transport_stream)
        self._tls = AwaitingTLS(_World, wire, connector, identity_provider, left_over)
        #: What is wrapped; None after ``unwrap``.
        self.transport_stream: trio.abc.Stream | None = transport_stream
        #: The connection; everything that is known about it can be asked here.
        self.connector: Connector = connector
        self._sends = _Turn("another task is sending on this TLSStream")
        self._receives = _Turn("another task is receiving from this TLSStream")

    async def do_handshake(self) -> None:
        """Shakes hands; only a checkpoint when it is done already.

        :raises trio.BrokenResourceError: when it fails.
        """
        await trio.lowlevel.checkpoint()
        with self._tls.errors():
            await self._tls.shake()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes, at most ``max_bytes`` (and at most 64 KiB); ``b""`` after the peer's close_notify.

        :raises trio.BrokenResourceError: from :class:`~sslconnector.TruncationError` when the connection was cut, after all that came
            before.
        """
        if max_bytes is None:
            max_bytes = _MOST
        elif isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be a whole number or None, not {max_bytes!r}")
        elif max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._receives, self._tls.errors():
            return await self._tls.receive(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts and sends all of ``data``."""
        with self._sends, self._tls.errors():
            await self._tls.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until the transport may take something."""
        with self._sends, self._tls.errors():
            await self._tls.flush()
            self._tls.check_sendable()
            assert self.transport_stream is not None
            await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Half-close: close_notify. Receiving goes on; sending is over."""
        with self._sends, self._tls.errors():
            await self._tls.close_write()

    async def unwrap(self) -> tuple[trio.abc.Stream, bytes]:
        """Ends TLS and gives the transport back: sends close_notify and waits for the peer's.

        :returns: the transport, and what was read from it behind the peer's close_notify. That is not protected.
        :raises ApiMisuse: when there is data that nobody has received; receive it, then ``unwrap`` again.
        """
        with self._sends, self._receives, self._tls.errors():
            trailing = await self._tls.unwrap()
            transport, self.transport_stream = self.transport_stream, None
            assert transport is not None
            return transport, trailing

    async def aclose(self) -> None:
        """Closes: what was sent goes out, then close_notify.

        Waits for at most ``Limits.close_flush_timeout`` without any byte taken, then for at most a second for the peer's end, so that what
        was sent is not destroyed by a reset. Cancelled, it closes at once, which looks like a cut to the peer.

        :raises trio.BrokenResourceError: from :class:`~sslconnector.CloseTimeout` when what another task was sending could not be sent.
        """
        await self._tls.aclose()


class _Turn:
    """Lets one task in."""

    def __init__(self, message: str) -> None:
        self._message, self._taken = message, False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(self._message)
        self._taken = True

    def __exit__(self, *exception: object) -> None:
        self._taken = False


class TLSListener(trio.abc.Listener[TLSStream]):
    """Wraps what another listener accepts. ``accept`` waits for no handshake: that is for the task which handles the connection.

    The parameters are those of :class:`TLSStream`.
    """

    def __init__(
        self,
        transport_listener: trio.abc.Listener[Any],
        context: ServerContext,
        *,
        limits: Limits | None = None,
        identity_provider: IdentityProvider | None = None,
    ) -> None:
        if not isinstance(context, ServerContext):
            raise TypeError(f"context must be a ServerContext, not {type(context).__name__}")
        context.check_identity_provider(identity_provider)
        self.transport_listener = transport_listener
        self._context = context
        self._options: dict[str, Any] = {"limits": limits, "identity_provider": identity_provider}

    async def accept(self) -> TLSStream:
        return TLSStream(await self.transport_listener.accept(), self._context, **self._options)

    async def aclose(self) -> None:
        await self.transport_listener.aclose()


async def open_tls_over_tcp_stream(
    host: str,
    port: int,
    *,
    context: ClientContext | None = None,
    server_hostname: str | None = None,
    session: Session | None = None,
    limits: Limits | None = None,
    happy_eyeballs_delay: float | None = 0.25,
) -> TLSStream:
    """Connects over TCP. The handshake follows with the first call, or ``do_handshake()``.

    :param context: None for ``ClientContext()``, which believes the system's CAs.
    :param server_hostname: the name that the certificate must carry; None for ``host``.
    """
    if context is None:
        context = ClientContext()
    elif not isinstance(context, ClientContext):
        raise TypeError(f"context must be a ClientContext, not {type(context).__name__}")
    stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=happy_eyeballs_delay)
    try:
        return TLSStream(stream, context, server_hostname=server_hostname or host, session=session, limits=limits)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def open_tls_over_tcp_listeners(
    port: int, context: ServerContext, *, host: str | bytes | None = None, backlog: int | None = None, **options: Any
) -> list[TLSListener]:
    """Listens on TCP; ``options`` are those of :class:`TLSListener`."""
    listeners = await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    return [TLSListener(listener, context, **options) for listener in listeners]


async def serve_tls_over_tcp(
    handler: Callable[[TLSStream], Awaitable[object]],
    port: int,
    context: ServerContext,
    *,
    host: str | bytes | None = None,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[TLSListener]] = trio.TASK_STATUS_IGNORED,
    **options: Any,
) -> None:
    """Serves until it is cancelled: each connection gets a task that shakes hands, runs ``handler(stream)`` and closes the stream.

    A handshake that fails is logged (level INFO) and ends its own connection alone. What ``handler`` raises goes on, as in
    ``trio.serve_tcp``.
    """

    async def serve(stream: TLSStream) -> None:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            _log.info("no TLS connection with a client: %s", error)
            with suppress(trio.BrokenResourceError):
                await stream.aclose()
            return
        await handler(stream)

    listeners = await open_tls_over_tcp_listeners(port, context, host=host, backlog=backlog, **options)
    await trio.serve_listeners(serve, listeners, handler_nursery=handler_nursery, task_status=task_status)
