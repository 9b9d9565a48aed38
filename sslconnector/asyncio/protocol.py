"""Between an event loop's transport (the wire) and an application's protocol: the adapter loop of ``connector.py``, as asyncio calls it.

asyncio calls into a protocol and never waits for it, so a *turn* is one such call: take what came, hand it to the application, flush
once. What the application writes during its turn only goes into the connector; the end of the turn sends it with the rest.

The wire can be any transport of the loop's: a socket's, a pipe's, or another :class:`TLSTransport` (TLS in TLS).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from ..connector import Connector
from ..context import ServerContext
from ..errors import ApiMisuse, CallbackError, CloseTimeout, ConnectionAborted, HandshakeInterrupted, HandshakeTimeout, TLSError
from ..events import HandshakeCompleted, IdentityNeeded, PeerClosed
from ..identity import Identity
from ..limits import LINGER_BYTES, LINGER_SECONDS, MAX_RECORD, MOST_UNSENT, READS_PER_TURN
from ..states import HandshakeState, ReadSide, ReadStatus
from .sweeper import sweeper_of
from .transport import TLSTransport

if TYPE_CHECKING:
    from .._engine import Lane

__all__ = ["IdentityProvider", "TLSProtocol", "Waiter"]

_log = logging.getLogger(__name__)

#: Answers the question which identity a server shows, or which context holds, now or later.
IdentityProvider = Callable[[IdentityNeeded], Identity | ServerContext | Awaitable[Identity | ServerContext]]
Waiter = asyncio.Future[tuple[TLSTransport, Any]]


# After an upgrade, turns of the loop before the first data is delivered. The application learns of its new transport when its
# "await start_tls()" returns, one turn later, or some more with a wait_for() or a gather() around it; until then it would answer in clear.
_TURNS_BEFORE_DATA = 4

# One receive buffer for all connections of a loop: it is empty again before the next connection's turn.
_receive_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


def _receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    buffer = _receive_buffers.get(loop)
    if buffer is None or hasattr(loop, "_proactor"):
        # A proactor keeps the buffer while it waits, so there each connection needs its own. (Untested: Windows only.)
        buffer = memoryview(bytearray(4 * MAX_RECORD))
        _receive_buffers[loop] = buffer
    return buffer


def _is_buffered(application: Any) -> bool:
    """Whether it has the calls of a buffered protocol; like uvloop, we do not insist on the class."""
    if isinstance(application, asyncio.BufferedProtocol):
        return True
    return not isinstance(application, asyncio.Protocol) and hasattr(application, "get_buffer")


class TLSProtocol(asyncio.BufferedProtocol):
    """The wire's protocol.

    :param connector: a fresh one.
    :param protocol_factory: makes the application's protocol when the handshake is complete.
    :param waiter: gets the transport and the application's protocol when the handshake is complete, or the reason why it never will be.
    :param application: instead of a factory: a protocol that is connected already, in clear, and goes on with TLS.
    :param left_over: the first ciphertext, when it came together with what was in clear.
    :param identity_provider: asked for each connection, when the context has ``identity_on_demand``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connector: Connector,
        protocol_factory: Callable[[], asyncio.BaseProtocol] | None,
        waiter: Waiter | None = None,
        *,
        application: asyncio.BaseProtocol | None = None,
        left_over: bytes = b"",
        identity_provider: IdentityProvider | None = None,
    ) -> None:
        self.loop = loop
        self.connector = connector
        self.wire: asyncio.Transport | None = None
        self.transport: TLSTransport | None = None
        self.application: Any = application
        self.reading_paused = False
        self._protocol_factory = protocol_factory
        self._waiter = waiter
        self._left_over = left_over
        self._identity_provider = identity_provider
        self._identity_task: asyncio.Task[None] | None = None
        self._buffer = _receive_buffer(loop)
        self._timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._discarded = 0
        self._wire_ended = False
        self._peer_closed = False
        self._holding = False
        self._flushed = False
        self._in_turn = False
        self._unsent = 0
        self._turn_scheduled = False
        # Who upgrades a connection has paused it.
        self._wire_paused = application is not None
        #: Whether the application was told pause_writing(). None: before an upgrade the wire told it itself, or not.
        self.writing_paused: bool | None = None if application is not None else False
        self._error: BaseException | None = None
        # What does plain turns in C, if the wire is a socket and the twin is compiled; and whether it has the connection now.
        self._lane: Lane | None = None
        self._lent = False
        # Its buffers have grown, and the sweeper of the loop knows it.
        connector.memory_timer = False
        self._swept = False

    # -- the wire calls ------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport; they are ones all the same.
        self.wire = cast(asyncio.Transport, transport)
        self.transport = self.transport or TLSTransport(self)
        self.transport.wire = self.wire
        self.connector.start()
        left_over, self._left_over = memoryview(self._left_over), b""
        while left_over and (window := self.connector.receive_window):
            self.connector.receive(left_over[:window])
            left_over = left_over[window:]
            self._turn()
        self._turn()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[: self.connector.receive_window or LINGER_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if not self._ending and nbytes <= self.connector.receive_window:
            self.connector.receive(self._buffer[:nbytes])
            self._turn()
            return
        # It follows close_notify, a failure or the end: for an open connection the wire is paused while the window is 0.
        self._discarded += nbytes
        if self._ending and self._discarded >= LINGER_BYTES:
            self._close_wire()
        else:
            self._adjust_wire()

    def eof_received(self) -> bool:
        self._leave_lane()
        self._wire_ended = True
        if self._ending:
            # Both directions of the wire are done, once what is in its buffer has left.
            return False
        self.connector.receive_eof()
        self._turn()
        # True keeps the wire open for writing: after the peer's close_notify it may still read (half-close).
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_lane()
        self.wire = self._lane = None
        self._cancel_waits()
        connector = self.connector
        in_handshake = connector.handshake_state is not HandshakeState.COMPLETED
        if self._error is None:
            self._error = self._why_lost(exc, in_handshake)
        if not connector.finished:
            # What came before the end is delivered before the end is told, also to who had paused (F26).
            self.reading_paused = self._holding = False
            connector.receive_eof()
            self._turn()
        application, transport = self.application, self.transport
        self.application = self.transport = None
        if transport is not None:
            transport.mark_closed()
        error = self._error
        if in_handshake:
            error = error or HandshakeInterrupted("the connection was closed before the handshake was complete")
            _log.debug("no TLS connection with %s: %s", transport and transport.get_extra_info("peername"), error)
        self._report(error)
        if application is not None:
            application.connection_lost(error if isinstance(error, Exception) else None)

    def _why_lost(self, exc: Exception | None, in_handshake: bool) -> BaseException | None:
        """What the wire's end means; None: nothing, or what the connector will say of it."""
        connector = self.connector
        if exc is not None and not self._flushed:
            if not in_handshake or connector.failure is not None:
                return exc
            error = HandshakeInterrupted(f"the connection was lost before the handshake was complete: {exc}")
            error.__cause__ = exc
            return error
        if exc is None and not self._wire_ended and not in_handshake and not connector.finished and connector.failure is None:
            # The peer's end would have been told by eof_received(): it was not the peer.
            return ConnectionAborted("this side closed the transport below, not this one")
        return None

    def pause_writing(self) -> None:
        if self.writing_paused is True:
            return
        self.writing_paused = True
        if self.application is not None:
            self._call(self.application.pause_writing)

    def resume_writing(self) -> None:
        if self.writing_paused is False:
            return
        self.writing_paused = False
        if self.application is not None:
            self._call(self.application.resume_writing)

    # -- the transport calls -------------------------------------------------------------------------------------------------------

    def wrote(self, size: int) -> None:
        """Sends what the connector has, now or at the end of the running turn.

        :param size: how much the application has just written.
        """
        self._leave_lane()
        if not self._in_turn:
            self._turn()
            return
        self._unsent += size
        if self._unsent > MOST_UNSENT:
            self._send()

    def set_reading(self, on: bool) -> None:
        """Pauses or resumes delivery to the application."""
        self._leave_lane()
        if self.reading_paused is on:
            self.reading_paused = not on
            if on:
                self._schedule_turn()
            else:
                self._adjust_wire()

    def close(self) -> None:
        """Closes in the orderly way; what was written goes out first. In the handshake there is no orderly way."""
        self._leave_lane()
        if self.connector.handshake_state is HandshakeState.COMPLETED:
            self.reading_paused = False
            self.connector.close()
            self.wrote(0)
        else:
            self.abort(None)

    def abort(self, error: BaseException | None) -> None:
        """Gives up at once."""
        self._leave_lane()
        self._error = self._error or error
        self.connector.abort()
        # uvloop tells nobody that a transport is lost whose create_connection() was cancelled: then nothing else would end these.
        self._cancel_waits()
        if self.wire is not None:
            self.wire.abort()

    # -- a turn --------------------------------------------------------------------------------------------------------------------

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self.loop.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._turn_scheduled = False
        self._turn()

    def _turn(self) -> None:
        if self._lent:
            self._leave_lane()
        if self._in_turn:
            return
        self._in_turn = True
        connector = self.connector
        try:
            if connector.events_pending:
                self._take_events()
            if connector.read_status is not ReadStatus.NEED_INPUT and not self._holding:
                self._read()
            if self._peer_closed and not self.reading_paused:
                self._peer_closed = False
                self._tell_peer_closed()
        except TLSError as error:
            self._note(error)
        finally:
            self._in_turn = False
            self._send()
        if connector.timer_changed:
            self._arm_timer()
        if connector.grown and not self._swept:
            self._await_sweep()
        if connector.failure is not None or connector.finished:
            self._end()
        else:
            self._adjust_wire()
            if self._lane is not None:
                self._lend()

    def _send(self) -> None:
        self._unsent = 0
        data = self.connector.data_to_send()
        # After the end there is nobody to send it to: the wire is shut for writing.
        if data and self.wire is not None and not self._ending:
            self.wire.write(data)

    def _read(self) -> None:
        connector = self.connector
        reads = 0
        while connector.read_status is ReadStatus.MORE and not self.reading_paused:
            if reads == READS_PER_TURN and self.wire is not None:
                self._schedule_turn()
                break
            reads += 1
            # Looked up each time: what is called may set another protocol.
            application = self.application
            if _is_buffered(application) and connector.failure is None:
                self._read_buffered(application)
            elif (data := connector.read()) and application is not None and not self._closing:
                self._call(application.data_received, data)
        if connector.events_pending:
            self._take_events()

    def _read_buffered(self, application: Any) -> None:
        buffer: Any = self._call(application.get_buffer, -1)
        if buffer is None:
            return
        try:
            count = self.connector.read_into(buffer)
        except TLSError:
            # Some of these are ValueErrors, too.
            raise
        except (TypeError, ValueError) as error:
            # The application's buffer is no buffer, or empty.
            self._blame("get_buffer", error)
            return
        if count and not self._closing:
            self._call(application.buffer_updated, count)

    def _take_events(self) -> None:
        while (event := self.connector.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._connect_application()
            elif isinstance(event, PeerClosed):
                self._peer_closed = True
            elif isinstance(event, IdentityNeeded):
                self._ask_for_identity(event)

    def _connect_application(self) -> None:
        factory, self._protocol_factory = self._protocol_factory, None
        if factory is not None:
            protocol: Any = self._call(factory)
            if protocol is None:
                return
            self.application = protocol
            self._call(protocol.connection_made, self.transport)
            if self.writing_paused:
                self._call(protocol.pause_writing)
        else:
            self._holding = True
            self.loop.call_soon(self._release, _TURNS_BEFORE_DATA)
        self._report(None)

    def _release(self, turns: int) -> None:
        if turns:
            self.loop.call_soon(self._release, turns - 1)
        else:
            self._holding = False
            self._turn()

    def _tell_peer_closed(self) -> None:
        if self.application is None or self._closing:
            return
        if not self._call(self.application.eof_received) and self.transport is not None:
            self.transport.close()

    @property
    def _closing(self) -> bool:
        return self.transport is not None and self.transport.is_closing()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls the application. What it raises is its own fault and ends its connection, as with any transport."""
        try:
            return function(*arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._blame(getattr(function, "__name__", "factory"), error)
            return None

    def _blame(self, name: str, error: BaseException) -> None:
        context = {
            "message": f"Fatal error: protocol.{name}() call failed.",
            "exception": error,
            "transport": self.transport,
            "protocol": self.application,
        }
        self.loop.call_exception_handler(context)
        self._error = self._error or error
        self.connector.abort()
        self._schedule_turn()

    def _note(self, error: TLSError) -> None:
        """Keeps the first error for ``connection_lost``; what this side ended itself is none."""
        if self._error is None and not isinstance(error, ConnectionAborted):
            self._error = error.with_traceback(None)

    # -- the lane ------------------------------------------------------------------------------------------------------------------

    def lane_for(self, wire: asyncio.Transport, sock: socket.socket) -> Lane | None:
        """What does plain turns of ``wire``, a socket, in C; None where the twin has no such thing."""
        lane_type = self.connector.lane_type
        if lane_type is None:
            return None
        self.transport = transport = self.transport or TLSTransport(self)
        self._lane = lane = lane_type(sock, wire, self, transport.write)
        transport.write = lane.write  # type: ignore[method-assign, assignment]
        return lane

    def _lend(self) -> None:
        """Plain turns are the lane's from now on, until something else comes."""
        application, lane = self.application, self._lane
        if lane is None or application is None or self._wire_paused or self._holding or self._peer_closed or self._closing:
            return
        if _is_buffered(application):
            self._lent = self.connector.lend(lane, application.buffer_updated, application.get_buffer)
        else:
            self._lent = self.connector.lend(lane, application.data_received, None)

    def _leave_lane(self) -> None:
        """What happens next happens here. If it is within a turn of the lane's, the lane calls ``lane_left`` at its end."""
        if self._lent:
            self._lent = False
            assert self._lane is not None
            self._in_turn = self._lane.in_turn
            self.connector.take_back()

    def set_application(self, application: asyncio.BaseProtocol) -> None:
        """Another protocol gets what comes from now on."""
        self._leave_lane()
        self.application = application
        if not self._in_turn:
            self._lend()

    def lane_left(self) -> None:
        """A turn that the lane began goes on here."""
        self._leave_lane()
        self._in_turn = False
        self._turn()

    def lane_stopped(self, stopped: tuple[Any, int, int, bool]) -> None:
        """A read of the lane's met something that is not data; ``lane_left`` follows."""
        data, got, before, buffered = stopped
        self._leave_lane()
        self.connector.lane_stopped(before, got)
        if got and self.application is not None and not self._closing:
            self._call(self.application.buffer_updated if buffered else self.application.data_received, data)

    def lane_raised(self, error: BaseException) -> None:
        """The application raised; ``lane_left`` follows."""
        self._leave_lane()
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self._in_turn = False
            raise error
        self._blame("buffer_updated" if _is_buffered(self.application) else "data_received", error)

    def lane_grown(self) -> None:
        """OpenSSL's buffers have grown: they shrink later."""
        self.connector.lane_grown()
        if not self._swept:
            self._await_sweep()

    def _await_sweep(self) -> None:
        seconds = self.connector.limits.release_memory_after
        if self.wire is not None and seconds:
            self._swept = True
            sweeper_of(self.loop, seconds).add(self)

    def shrink(self) -> bool:
        """Gives OpenSSL's buffers back. False: there is something in them."""
        self._leave_lane()
        done = self.connector.release_memory()
        self._swept = not done
        if not self._in_turn:
            self._lend()
        return done

    def lane_write_failed(self) -> None:
        """OpenSSL could not encrypt."""
        self._leave_lane()
        self.connector.lane_write_failed()
        self._turn()

    # -- identities ----------------------------------------------------------------------------------------------------------------

    def _ask_for_identity(self, event: IdentityNeeded) -> None:
        # As a task, whatever the provider is: it may not run within the turn, and its errors need a place.
        self._identity_task = self.loop.create_task(self._provide_identity(event))

    async def _provide_identity(self, event: IdentityNeeded) -> None:
        try:
            if self._identity_provider is None:
                raise ApiMisuse("the context has identity_on_demand, but no identity_provider= was given")
            identity = self._identity_provider(event)
            if inspect.isawaitable(identity):
                identity = await identity
            if self.connector.handshake_state is HandshakeState.WAITING_FOR_IDENTITY:
                self.connector.provide_identity(identity)
        except Exception as error:
            refused = CallbackError(f"the identity provider raised {error!r}; the connection was given up")
            refused.__cause__ = error
            message = "identity_provider failed"
            self.loop.call_exception_handler({"message": message, "exception": error, "transport": self.transport, "protocol": self})
            self._error = self._error or refused
            self.connector.abort()
        self._identity_task = None
        self._turn()

    # -- time and the end ----------------------------------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        due = self.connector.get_timer(self.loop.time())
        timer = self._timer
        if timer is not None:
            if due is not None and timer.when() <= due:
                # It comes earlier, and then looks again: cheaper than another one.
                return
            timer.cancel()
            self._timer = None
        if due is not None and self.wire is not None:
            self._timer = self.loop.call_at(due, self._timer_due)

    def _cancel_waits(self) -> None:
        for handle in (self._timer, self._end_timer, self._identity_task):
            if handle is not None:
                handle.cancel()
        self._timer = self._end_timer = self._identity_task = None
        if self._swept:
            self._swept = False
            sweeper_of(self.loop, self.connector.limits.release_memory_after).discard(self)

    def _timer_due(self) -> None:
        self._timer = None
        self._leave_lane()
        # The loop's clock may be a little coarse; what it called is due.
        self.connector.handle_timer(self.loop.time() + 0.01)
        self._turn()
        if self._timer is None:
            self._arm_timer()

    def _adjust_wire(self) -> None:
        """Reads from the wire exactly while the connector takes something and the application wants it."""
        wire = self.wire
        if wire is None or wire.is_closing():
            return
        # After the peer's close_notify its end is still waited for, but not for what it sends instead.
        open_ = self.connector.read_side is ReadSide.OPEN
        full = self.connector.receive_window == 0 if open_ else self._discarded >= LINGER_BYTES
        pause = self.reading_paused or full
        if pause != self._wire_paused:
            self._wire_paused = pause
            if pause:
                wire.pause_reading()
            else:
                wire.resume_reading()

    def _end(self) -> None:
        """The connector is through: now the wire."""
        failure = self.connector.failure
        if failure is not None:
            self._note(failure.again())
        wire = self.wire
        if wire is None or wire.is_closing() or self._ending:
            return
        self._ending = True
        if self.transport is not None:
            self.transport.mark_closed()
        silent = isinstance(failure, HandshakeTimeout)
        if silent or self._wire_ended or self.connector.read_side is ReadSide.CLOSED or not wire.can_write_eof():
            # Nothing more comes that could cause a reset.
            wire.close()
        else:
            try:
                wire.write_eof()
            except OSError:
                # The peer has reset it meanwhile; nothing more arrives anywhere.
                wire.close()
            if self._wire_paused and not wire.is_closing():
                self._wire_paused = False
                wire.resume_reading()
        self._wait_for_flush(wire.get_write_buffer_size(), 0.0)

    def _wait_for_flush(self, before: int, seconds: float) -> None:
        """The loop's transport flushes as long as it takes; ours gives up when nothing moves (F33), and lingers when all is out."""
        if before:
            delay = min(LINGER_SECONDS, self.connector.limits.close_flush_timeout / 3)
            self._end_timer = self.loop.call_later(delay, self._flush_due, before, seconds + delay)
        else:
            # All is out: what happens to the wire from now on is nobody's loss.
            self._flushed = True
            self._end_timer = self.loop.call_later(LINGER_SECONDS, self._close_wire)

    def _flush_due(self, before: int, stuck: float) -> None:
        wire = self.wire
        if wire is None:
            return
        size = wire.get_write_buffer_size()
        limit = self.connector.limits.close_flush_timeout
        if size < before or stuck < limit:
            self._wait_for_flush(size, stuck if size == before else 0.0)
            return
        error = CloseTimeout(f"after close() the peer took nothing for {limit:g} s; {size} bytes for it are lost")
        self._error = self._error or error
        wire.abort()

    def _close_wire(self) -> None:
        if self.wire is not None:
            self.wire.close()

    def _report(self, error: BaseException | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error is not None:
            waiter.set_exception(error)
        elif self.transport is not None:
            waiter.set_result((self.transport, self.application))
