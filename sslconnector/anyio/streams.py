"""Streams, listeners and connectables after anyio's rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import AnyByteStream, ByteReceiveStream, ByteStream, ByteStreamConnectable, Listener, SocketAttribute, TaskGroup
from anyio.streams.tls import TLSAttribute

from ..awaiting import AwaitingTLS, IdentityProvider, WireLost, World
from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import TLSError
from ..limits import Limits
from ..session import Session
from ..ssl_object import SSLObject

__all__ = ["ConnectorAttribute", "IdentityProvider", "TLSConnectable", "TLSListener", "TLSStream"]

_log = logging.getLogger(__name__)


class ConnectorAttribute(anyio.TypedAttributeSet):
    """What a TLS stream offers beyond ``anyio.streams.tls.TLSAttribute``."""

    #: the connection; everything that is known about it can be asked here
    connector: Connector = anyio.typed_attribute()


class _World(World):
    Lock = anyio.Lock
    CancelScope = anyio.CancelScope
    current_time = staticmethod(anyio.current_time)
    checkpoint = staticmethod(anyio.lowlevel.checkpoint)
    checkpoint_if_cancelled = staticmethod(anyio.lowlevel.checkpoint_if_cancelled)
    cancel_shielded_checkpoint = staticmethod(anyio.lowlevel.cancel_shielded_checkpoint)
    BrokenResourceError, ClosedResourceError = anyio.BrokenResourceError, anyio.ClosedResourceError


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except (anyio.BrokenResourceError, OSError) as error:
        raise WireLost(str(error.__cause__ or error) or "the transport is broken") from error


class _StreamWire:
    """Any stream of anyio's."""

    keeps = resets = busy = False

    def __init__(self, stream: Any, sock: Any) -> None:
        self.stream, self.sock = stream, sock
        self.resets = sock is not None
        # A stream of objects gives what it likes.
        self._limits = isinstance(stream, ByteReceiveStream)
        self._rest = b""

    async def receive(self, most: int) -> bytes:
        if not self._rest:
            try:
                with _lost():
                    self._rest = await (self.stream.receive(most) if self._limits else self.stream.receive())
            except anyio.EndOfStream:
                return b""
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    async def send(self, data: memoryview) -> int:
        with _lost():
            await self.stream.send(bytes(data))
        return len(data)

    async def end_writing(self) -> None:
        with _lost():
            await self.stream.send_eof()

    async def close(self) -> None:
        await self.stream.aclose()


class _SocketWire(_StreamWire):
    """A socket on the trio backend: it tells how much a send has taken, also when it was cancelled."""

    keeps = True

    async def send(self, data: memoryview) -> int:
        sock = self.sock
        while True:
            if sock.fileno() < 0:
                raise anyio.ClosedResourceError
            with _lost():
                try:
                    return sock.send(data)  # type: ignore[no-any-return]
                except BlockingIOError:
                    pass
            await anyio.wait_writable(sock)


class _TaskWire(_StreamWire):
    """Any stream on the asyncio backend. The transport's ``send`` runs in a task of its own: who waits for it can be cancelled, and the
    next to send waits for the rest of it."""

    keeps = True
    _task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:  # type: ignore[override]
        return self._task is not None and not self._task.done()

    async def send(self, data: memoryview) -> int:
        if self._task is None:
            self._task = asyncio.create_task(self.stream.send(bytes(data)))
            # If nobody sends again, nobody asks what came of it.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        if not self._task.done():
            await asyncio.wait((self._task,))
        task, self._task = self._task, None
        if task.cancelled():
            raise anyio.ClosedResourceError
        with _lost():
            task.result()
        return len(data)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            if self._task is not None:
                self._task.cancel()


def _wire(stream: Any) -> _StreamWire:
    sock = stream.extra(SocketAttribute.raw_socket, None) if type(stream).__module__.startswith("anyio._backends") else None
    if _on_asyncio():
        return _TaskWire(stream, sock)
    return (_StreamWire if sock is None else _SocketWire)(stream, sock)


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class TLSStream(ByteStream):
    """A stream with TLS on it, made by :meth:`wrap`.

    After the handshake, what goes wrong is ``anyio.BrokenResourceError``; its ``__cause__`` is ours, for instance
    :class:`~sslconnector.TruncationError` for a connection that was cut.

    On asyncio, and on trio over a socket, a call that is cancelled loses nothing: what of it was encrypted goes out first with the next
    one. On trio over another stream, whose cancelled ``send`` tells nobody how much it took, sending is over then, and says so.

    Typed attributes: :class:`ConnectorAttribute`, and those of ``anyio.streams.tls.TLSAttribute`` but for
    ``channel_binding_tls_unique`` and ``shared_ciphers``.
    """

    def __init__(self, transport_stream: AnyByteStream, tls: AwaitingTLS) -> None:
        #: What is wrapped.
        self.transport_stream: AnyByteStream = transport_stream
        #: The connection; everything that is known about it can be asked here.
        self.connector: Connector = tls.connector
        self._tls = tls
        self._sends, self._receives = anyio.ResourceGuard("sending to"), anyio.ResourceGuard("receiving from")

    @classmethod
    async def wrap(
        cls,
        transport_stream: AnyByteStream,
        context: ClientContext | ServerContext,
        *,
        server_hostname: str | None = None,
        session: Session | None = None,
        limits: Limits | None = None,
        identity_provider: IdentityProvider | None = None,
        left_over: bytes = b"",
    ) -> TLSStream:
        """Shakes hands over ``transport_stream``, which belongs to the new stream while it is wrapped. When that fails, it is closed.

        :param context: a client's or a server's; it says which side this is.
        :param server_hostname: for clients: the name that the certificate must carry.
        :param session: for clients: a session to resume.
        :param limits: instead of the context's, with the deadlines for handshake and close among others.
        :param identity_provider: for a context with ``identity_on_demand``; may be a coroutine function.
        :param left_over: the first ciphertext, when it was read together with what came in clear (after STARTTLS).
        :raises TLSError: when the handshake fails.
        """
        for name in ("receive", "send"):
            if not callable(getattr(transport_stream, name, None)):
                raise TypeError(f"transport_stream must be an anyio byte stream; {type(transport_stream).__name__} has no {name}()")
        connector = Connector(context, server_hostname=server_hostname, session=session, limits=limits)
        tls = AwaitingTLS(_World, _wire(transport_stream), connector, identity_provider, left_over)
        try:
            await tls.shake()
        except TLSError:
            with suppress(TLSError):
                await tls.close()
            raise
        except BaseException:
            await anyio.aclose_forcefully(transport_stream)
            raise
        return cls(transport_stream, tls)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes, at most ``max_bytes`` (and at most 64 KiB).

        :raises anyio.EndOfStream: after the peer's close_notify.
        :raises anyio.BrokenResourceError: from :class:`~sslconnector.TruncationError` when the connection was cut, after all that came
            before.
        """
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes!r}")
        with self._receives, self._tls.errors():
            data = await self._tls.receive(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Encrypts and sends all of ``item``."""
        with self._sends, self._tls.errors():
            await self._tls.send(item)

    async def send_eof(self) -> None:
        """Half-close: close_notify. Receiving goes on; sending is over."""
        with self._sends, self._tls.errors():
            await self._tls.close_write()

    async def unwrap(self) -> tuple[AnyByteStream, bytes]:
        """Ends TLS and gives the transport back: sends close_notify and waits for the peer's.

        :returns: the transport, and what was read from it behind the peer's close_notify. That is not protected.
        :raises ApiMisuse: when there is data that nobody has received; receive it, then ``unwrap`` again.
        """
        with self._sends, self._receives, self._tls.errors():
            return self.transport_stream, await self._tls.unwrap()

    async def aclose(self) -> None:
        """Closes: what was sent goes out, then close_notify.

        Waits for at most ``Limits.close_flush_timeout`` without any byte taken, then for at most a second for the peer's end, so that what
        was sent is not destroyed by a reset. Cancelled, it closes at once, which looks like a cut to the peer.

        :raises anyio.BrokenResourceError: from :class:`~sslconnector.CloseTimeout` when what another task was sending could not be sent.
        """
        await self._tls.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        about = SSLObject(self.connector)
        return {
            **self.transport_stream.extra_attributes,
            ConnectorAttribute.connector: lambda: self.connector,
            TLSAttribute.alpn_protocol: about.selected_alpn_protocol,
            TLSAttribute.cipher: about.cipher,
            TLSAttribute.peer_certificate: about.getpeercert,
            TLSAttribute.peer_certificate_binary: lambda: about.getpeercert(True),
            TLSAttribute.server_side: lambda: about.server_side,
            TLSAttribute.ssl_object: lambda: about,
            TLSAttribute.standard_compatible: lambda: True,
            TLSAttribute.tls_version: about.version,
        }


class TLSListener(Listener[TLSStream]):
    """Wraps another listener and shakes hands on each connection, in the connection's own task.

    A handshake that fails is logged (level INFO) and ends its own connection alone.

    :param listener: the listener to wrap.
    :param limits: as for :meth:`TLSStream.wrap`.
    :param identity_provider: as for :meth:`TLSStream.wrap`.
    """

    def __init__(
        self,
        listener: Listener[Any],
        context: ServerContext,
        *,
        limits: Limits | None = None,
        identity_provider: IdentityProvider | None = None,
    ) -> None:
        if not isinstance(context, ServerContext):
            raise TypeError(f"context must be a ServerContext, not {type(context).__name__}")
        context.check_identity_provider(identity_provider)
        self.listener = listener
        self._context = context
        self._options: dict[str, Any] = {"limits": limits, "identity_provider": identity_provider}

    async def serve(self, handler: Callable[[TLSStream], Awaitable[Any]], task_group: TaskGroup | None = None) -> None:
        """Serves until it is cancelled: each connection gets a task that runs ``handler(stream)``, which closes the stream."""

        async def handle(stream: Any) -> None:
            try:
                wrapped = await TLSStream.wrap(stream, self._context, **self._options)
            except TLSError as error:
                _log.info("no TLS connection with a client: %s", error)
                return
            await handler(wrapped)

        await self.listener.serve(handle, task_group)

    async def aclose(self) -> None:
        await self.listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {**self.listener.extra_attributes, TLSAttribute.standard_compatible: lambda: True}


class TLSConnectable(ByteStreamConnectable):
    """Wraps another connectable and shakes hands once it has connected.

    :param options: as for :meth:`TLSStream.wrap`.
    """

    def __init__(self, connectable: Any, context: ClientContext, *, server_hostname: str | None = None, **options: Any) -> None:
        if not isinstance(context, ClientContext):
            raise TypeError(f"context must be a ClientContext, not {type(context).__name__}")
        self.connectable = connectable
        self._context = context
        self._options: dict[str, Any] = {"server_hostname": server_hostname, **options}

    async def connect(self) -> TLSStream:
        return await TLSStream.wrap(await self.connectable.connect(), self._context, **self._options)
