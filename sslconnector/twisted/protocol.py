"""Twisted's words for what ``sslconnector.asyncio`` does.

asyncio's protocols and transports were modelled on Twisted's, so there is one adapter loop for both: ``asyncio/protocol.py``. To it, a
Twisted transport looks like one of asyncio's (:class:`_Wire`), a reactor like an event loop (:class:`_Loop`), and :class:`TLSProtocol` is
the application. What is Twisted's alone is here: producers, what an application may do before the handshake is complete, and the reasons
that ``connectionLost`` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from ..asyncio.poller import kept_by_loop
from ..asyncio.protocol import TLSProtocol as Core
from ..asyncio.transport import TLSTransport as CoreTransport
from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import TLSError
from ..events import IdentityNeeded
from ..identity import Identity
from ..limits import Limits
from ..session import Session
from ..states import ReadSide, WriteSide
from .transport import Puller, TLSTransport

__all__ = ["IdentityProvider", "TLSProtocol", "start_tls"]

#: Answers the question which identity a server shows; may return a Deferred.
IdentityProvider = Callable[[IdentityNeeded], "Identity | ServerContext | Deferred[Identity | ServerContext]"]

_log = Logger()


@implementer(interfaces.IHalfCloseableProtocol, interfaces.IPushProducer, interfaces.ILoggingContext)
class TLSProtocol(Protocol):
    """One connection; made by :class:`~sslconnector.twisted.TLSFactory`, the endpoints, or :func:`start_tls`.

    :ivar wrappedProtocol: the application's protocol; its ``transport`` is a :class:`TLSTransport`.
    """

    def __init__(
        self,
        reactor: Any,
        connector: Connector,
        application: Any,
        *,
        identity_provider: IdentityProvider | None = None,
        left_over: bytes = b"",
        upgraded: bool = False,
    ) -> None:
        self.reactor = reactor
        self.connector = connector
        self.wrappedProtocol: Any = application
        self.tls_transport = TLSTransport(self)
        loop: Any = kept_by_loop(reactor, "_sslconnector_loop", lambda: _Loop(reactor))
        waiter: Any = self
        provider: Any = identity_provider
        self._core = Core(loop, connector, lambda: cast(Any, self), waiter, left_over=left_over, identity_provider=provider)
        self.inner = self._core.transport = CoreTransport(self._core)
        # Whether the application has its transport already.
        self._upgraded = upgraded
        self._wire: _Wire | None = None
        self._established = False
        # What was written before the handshake was complete.
        self._early: list[bytes] = []
        self._close_later = self._paused = False
        self._waiters: list[Deferred[Any]] = []
        #: the application's, a Puller for one that pulls
        self.producer: Any = None
        self._error: BaseException | None = None

    def logPrefix(self) -> str:  # noqa: N802
        """As Twisted's wrappers say it: the application's own, and that it is wrapped."""
        return log_prefix(self, self.wrappedProtocol)

    # -- the transport below calls -------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:  # noqa: N802
        self.transport = transport
        self.connected = 1
        self._wire = _Wire(transport, self._core)
        # The application sees what the transport below can do, too (ITCPTransport, IUNIXTransport); but TLS on TLS goes by start_tls().
        offers = [offer for offer in providedBy(transport) if offer is not interfaces.ITLSTransport]
        directlyProvides(self.tls_transport, *offers, interfaces.ISSLTransport, interfaces.INegotiated)
        if hasattr(transport, "registerProducer"):
            transport.registerProducer(self, True)
        if not self._upgraded:
            self.wrappedProtocol.makeConnection(self.tls_transport)
        wire: Any = self._wire
        self._core.connection_made(wire)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._wire is not None:
            self._wire.feed(data)

    def readConnectionLost(self) -> None:  # noqa: N802
        if self._wire is not None:
            self._wire.end()

    def writeConnectionLost(self) -> None:  # noqa: N802
        """The half-close of the wire that was asked for."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008, N802
        wire, self._wire = self._wire, None
        self.connected = 0
        if wire is None:
            return
        wire.lost(None if reason.check(ConnectionDone) else reason.value)
        self.stopProducing()
        application, self.wrappedProtocol = self.wrappedProtocol, None
        error = self._error
        if isinstance(error, TLSError):
            lost = ConnectionLost(str(error))
            lost.__cause__ = error
            reason = Failure(lost)
        elif error is not None:
            reason = Failure(error)
        application.connectionLost(reason)

    # IPushProducer: it says whether it takes more.

    def pauseProducing(self) -> None:  # noqa: N802
        self._core.pause_writing()

    def resumeProducing(self) -> None:  # noqa: N802
        self._core.resume_writing()

    def stopProducing(self) -> None:  # noqa: N802
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()

    # -- our transport calls -------------------------------------------------------------------------------------------------------

    @property
    def disconnecting(self) -> bool:
        return self._close_later or self.inner.is_closing()

    @property
    def disconnected(self) -> bool:
        return self._wire is None

    def write(self, data: bytes) -> None:
        if self._wire is None or self.connector.write_side is not WriteSide.OPEN:
            return
        if not self._established:
            self._early.append(bytes(data))
        else:
            self.inner.write(data)

    def close_write(self) -> None:
        if self.disconnecting or self.connector.write_side is not WriteSide.OPEN:
            return
        self._write_early()
        self.inner.write_eof()
        self._drop_producer()
        self.reactor.callLater(0, self._tell, interfaces.IHalfCloseableProtocol, "writeConnectionLost")

    def close(self) -> None:
        """Twisted's rule: what was written goes out first, what a producer still produces, too."""
        if self._established:
            self._close_later = self.producer is not None and self.connector.write_side is WriteSide.OPEN
        else:
            self._close_later = bool(self._early)
        if not self._close_later:
            self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def set_reading(self, on: bool) -> None:
        """The handshake goes on while the application is paused."""
        self._paused = not on
        if self._established:
            (self.inner.resume_reading if on else self.inner.pause_reading)()

    def register(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"cannot register producer {producer!r}: {self.producer!r} was never unregistered")
        if self.disconnecting or self._wire is None or self.connector.write_side is not WriteSide.OPEN:
            producer.stopProducing()
            return
        self.producer = producer if streaming else Puller(producer, self)
        full = self._core.writing_paused or not self._established
        if full and streaming:
            producer.pauseProducing()
        elif not full and not streaming:
            self.producer.resumeProducing()

    def unregister(self) -> None:
        self._drop_producer()
        if self._close_later and self._established:
            self._close_later = False
            self.inner.close()

    def _drop_producer(self) -> None:
        producer, self.producer = self.producer, None
        if isinstance(producer, Puller):
            producer.stop()

    # -- asyncio's protocol calls --------------------------------------------------------------------------------------------------

    def connection_made(self, _transport: object) -> None:
        self._established = True
        if self._paused:
            self.inner.pause_reading()
        self._write_early()
        self._tell(interfaces.IHandshakeListener, "handshakeCompleted")
        if self.producer is not None:
            self.resume_writing()
        if self._close_later:
            self.close()

    def data_received(self, data: bytes) -> None:
        self.wrappedProtocol.dataReceived(data)

    def eof_received(self) -> bool:
        return self._tell(interfaces.IHalfCloseableProtocol, "readConnectionLost")

    def pause_writing(self) -> None:
        if self.producer is not None:
            self.producer.pauseProducing()

    def resume_writing(self) -> None:
        if self.producer is not None:
            self.producer.resumeProducing()

    def connection_lost(self, error: BaseException | None) -> None:
        self._error = error

    def _write_early(self) -> None:
        early, self._early = self._early, []
        if early:
            self.inner.write(b"".join(early))

    def _tell(self, interface: Any, method: str) -> bool:
        """Calls a method of the application's protocol, if it has that interface."""
        if self.wrappedProtocol is None or not interface.providedBy(self.wrappedProtocol):
            return False
        getattr(self.wrappedProtocol, method)()
        return True

    # -- asyncio's future, which waits for the handshake ---------------------------------------------------------------------------

    def when_established(self) -> Deferred[Any]:
        """Fires with the application's protocol when the handshake is complete, or with the reason why it is not."""
        waiter: Deferred[Any] = Deferred(lambda _: self.abort())
        self._waiters.append(waiter)
        return waiter

    def done(self) -> bool:
        return False

    def set_result(self, _: object) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(self.wrappedProtocol)

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.errback(Failure(error))


class _Wire:
    """A Twisted transport as one of asyncio's."""

    def __init__(self, transport: Any, core: Core) -> None:
        self._transport, self._core = transport, core
        # What came while reading is paused: Twisted's transports hand out what they have read already.
        self._backlog = b""
        self._paused = self._ended = self._end_told = self._closing = False

    # What comes.

    def feed(self, data: bytes) -> None:
        self._backlog += data
        connector = self._core.connector
        while self._backlog and not self._paused:
            if connector.read_side is ReadSide.OPEN and not connector.receive_window:
                break
            buffer = self._core.get_buffer(-1)
            count = min(len(buffer), len(self._backlog))
            buffer[:count] = self._backlog[:count]
            self._backlog = self._backlog[count:]
            self._core.buffer_updated(count)
        if self._ended and not self._end_told and not self._backlog:
            self._end_told = True
            if not self._core.eof_received():
                self.close()

    def end(self) -> None:
        self._ended = True
        self.feed(b"")

    def lost(self, error: BaseException | None) -> None:
        if not self._closing:
            # A transport that cannot half-close tells the peer's end like this.
            self._ended = self._ended or error is None
            # What was read from the wire counts, even if the application had paused (F26).
            self._core.reading_paused = self._paused = False
            left = -1
            while self._backlog and len(self._backlog) != left:
                left = len(self._backlog)
                self._core.wrote(0)
                self._paused = False
                self.feed(b"")
            self.feed(b"")
        self._closing = True
        self._core.connection_lost(cast(Exception, error))

    # What asyncio calls.

    def write(self, data: Any) -> None:
        self._transport.write(bytes(data))

    def pause_reading(self) -> None:
        self._paused = True
        self._ask("pauseProducing")

    def resume_reading(self) -> None:
        self._paused = False
        if self._backlog or self._ended:
            self._core.loop.call_soon(self._go_on)
        else:
            self._ask("resumeProducing")

    def _go_on(self) -> None:
        self.feed(b"")
        if not self._paused and not self._ended:
            self._ask("resumeProducing")

    def can_write_eof(self) -> bool:
        return hasattr(self._transport, "loseWriteConnection")

    def write_eof(self) -> None:
        self._ask("unregisterProducer")
        self._transport.loseWriteConnection()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            # A transport that waits for a producer would not close.
            self._ask("unregisterProducer")
            self._transport.loseConnection()

    def abort(self) -> None:
        self._closing = True
        abort = getattr(self._transport, "abortConnection", None) or self._transport.loseConnection
        abort()

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Twisted has no interface for it; this is what its transports over descriptors have. 0 where nothing is known."""
        transport = self._transport
        if isinstance(transport, TLSTransport):
            return transport.get_write_buffer_size()
        buffered = len(getattr(transport, "dataBuffer", b"")) - int(getattr(transport, "offset", 0))
        return buffered + int(getattr(transport, "_tempDataLen", 0))

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def _ask(self, name: str) -> None:
        """Calls a method that not every ITransport has."""
        method = getattr(self._transport, name, None)
        if method is not None:
            method()


class _Loop:
    """A reactor as an event loop."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def time(self) -> float:
        return float(self._reactor.seconds())

    def call_soon(self, function: Callable[..., Any], *arguments: Any) -> _Handle:
        return self.call_later(0, function, *arguments)

    def call_later(self, delay: float, function: Callable[..., Any], *arguments: Any) -> _Handle:
        return _Handle(self._reactor.callLater(delay, function, *arguments))

    def call_at(self, when: float, function: Callable[..., Any], *arguments: Any) -> _Handle:
        return self.call_later(max(0.0, when - self.time()), function, *arguments)

    @staticmethod
    def create_task(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine)

    @staticmethod
    def call_exception_handler(context: dict[str, Any]) -> None:
        _log.failure("{what}", Failure(context["exception"]), what=context["message"])


class _Handle:
    """A delayed call as a timer handle."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def when(self) -> float:
        return float(self._call.getTime())

    def cancel(self) -> None:
        if self._call.active():
            self._call.cancel()


def start_tls(
    protocol: Any,
    context: ClientContext | ServerContext,
    *,
    server_hostname: str | None = None,
    session: Session | None = None,
    limits: Limits | None = None,
    identity_provider: IdentityProvider | None = None,
    left_over: bytes = b"",
    reactor: Any = None,
) -> Deferred[Any]:
    """Puts TLS on the connection of ``protocol`` in mid-stream (STARTTLS): its ``transport`` is replaced.

    :param protocol: a connected protocol; its transport must have the attribute ``protocol``, as Twisted's and ours have. A producer that
        is registered with the transport goes on as one of the new transport's.
    :param left_over: bytes that were received behind the command in clear. They count as ciphertext, and fail the handshake if they are
        none (FAULTS F01).
    :returns: fires with ``protocol`` when the handshake is complete, or with the :class:`~sslconnector.TLSError` why not.
    """
    wire = getattr(protocol, "transport", None)
    if wire is None or not hasattr(wire, "protocol"):
        raise TypeError(f"start_tls() needs a connected protocol whose transport lets its protocol be replaced, not {wire!r}")
    if not isinstance(left_over, bytes | bytearray):
        raise TypeError(f"left_over must be bytes, not {type(left_over).__name__}")
    connector = Connector(context, server_hostname=server_hostname, session=session, limits=limits)
    if isinstance(context, ServerContext):
        context.check_identity_provider(identity_provider)
    tls = TLSProtocol(
        reactor or global_reactor(), connector, protocol, identity_provider=identity_provider, left_over=bytes(left_over), upgraded=True
    )
    producer, streaming = getattr(wire, "producer", None), getattr(wire, "streamingProducer", True)
    if producer is not None:
        wire.unregisterProducer()
    protocol.transport = tls.tls_transport
    wire.protocol = tls
    established = tls.when_established()
    tls.makeConnection(wire)
    if producer is not None:
        tls.register(producer, streaming)
    if hasattr(wire, "resumeProducing"):
        wire.resumeProducing()
    return established


def log_prefix(wrapper: object, wrapped: Any) -> str:
    """What Twisted's log says who speaks."""
    inner = wrapped.logPrefix() if interfaces.ILoggingContext.providedBy(wrapped) else type(wrapped).__name__
    return f"{inner} ({type(wrapper).__name__})"


def global_reactor() -> Any:
    """Twisted's; importing it installs it, so it is done late."""
    from twisted.internet import reactor

    return cast(Any, reactor)
