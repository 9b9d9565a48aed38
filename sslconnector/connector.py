"""One TLS connection with no socket, no clock, no thread and no lock in it.

::

                      receive()  ->  +-----------+  ->  read_into(), read()
        the transport                | Connector |                            the application
                 data_to_send()  <-  +-----------+  <-  write()

Ciphertext goes in and comes out on the left, plaintext on the right; every call returns at once. Whoever carries the bytes follows one
loop, the same for every transport (docs/adapters):

1. ``receive`` what came, at most ``receive_window`` bytes; at the end of the wire ``receive_eof``
2. take the events, while ``events_pending``
3. ``read_into`` (or ``read``) until ``read_status`` is no longer ``MORE``; this is also where errors are raised
4. hand ``data_to_send`` to the transport, once, whatever happened before: it may hold the alert that explains a failure
5. if ``timer_changed``, set the timer to ``get_timer(now)``; when it is due, ``handle_timer(now)`` and begin at 2
6. stop reading from the transport while ``receive_window`` is 0

How OpenSSL behaves underneath is told in ``_engine/engine.py``. Time comes in as a number of seconds, from any clock that does not go
backwards: ``get_timer`` arms what became pending since the last call, so the calls that move data need no clock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from . import _engine
from ._engine import Engine, EngineFailure, Outcome, explain
from .buffers import SCRATCH_SIZE, byte_view, writable_view
from .client_hello import ClientHello
from .context import ClientContext, Policy, ServerContext
from .errors import (
    Alert,
    ApiMisuse,
    CallbackError,
    CloseTimeout,
    ConnectionAborted,
    FloodError,
    HandshakeInterrupted,
    HandshakeTimeout,
    NotTLSError,
    PeerMisbehaved,
    SessionError,
    TLSError,
    TruncationError,
)
from .events import Event, HandshakeCompleted, IdentityNeeded, KeyLimitReached, PeerClosed, SessionTicketReceived
from .facts import Facts
from .hostname import ServerName, parse_server_name
from .identity import Identity
from .limits import MAX_PLAINTEXT, RECORD_HEADER, Limits
from .opening import Opening
from .records import RecordWalker
from .session import Session
from .states import HandshakeState, ReadSide, ReadStatus, Statistics, WriteSide
from .timers import Timer, Timers

if TYPE_CHECKING:
    from ._engine import Lane

__all__ = ["Connector"]

_log = logging.getLogger(__name__)

# Traffic that leaves OpenSSL's buffers larger than this is worth giving memory back afterwards (FAULTS F34).
_SMALL = 1024
# Events that the peer can cause again and again are dropped while so many wait to be taken.
_MOST_EVENTS = 16
_DATA = Outcome.DATA
_MORE, _NEED_INPUT = ReadStatus.MORE, ReadStatus.NEED_INPUT


class Connector(Facts):
    """One TLS connection, client or server according to its context.

    Calls must not overlap: a second thread, or a callback that calls back in, gets :class:`ApiMisuse`; only ``write``, ``close_write``,
    ``close`` and ``abort`` may be called from within a callback, and take effect when the outer call is done.

    Buffers are the caller's. What goes in is copied before the call returns, so it may be changed at once; what comes out is the
    caller's to keep.

    :param context: a :class:`ClientContext` or :class:`ServerContext`.
    :param server_hostname: for clients: the name (or IP address) that the server's certificate must carry; sent as SNI unless it is an
        address. Needed unless the context does not verify names.
    :param session: for clients: a session to resume.
    :param limits: instead of the context's ``Limits``, for this connection.
    :raises SessionError: when the session was made for another name or under other beliefs.
    :raises ValueError: when ``server_hostname`` is missing or malformed.
    """

    __slots__ = (
        "__weakref__",
        "_booked_output",
        "_busy",
        "_callback_thread",
        "_chunk_bytes",
        "_chunks",
        "_ciphertext_received",
        "_ciphertext_sent",
        "_closing",
        "_deferred",
        "_engine",
        "_engine_type",
        "_eof",
        "_events",
        "_failure",
        "_flowing",
        "_grown",
        "_handshake_state",
        "_key_limits_reported",
        "_lane",
        "_name",
        "_opening",
        "_plaintext_read",
        "_plaintext_written",
        "_policy",
        "_queue",
        "_queued",
        "_raised",
        "_read_side",
        "_records_per_key",
        "_records_per_read",
        "_records_read",
        "_records_written",
        "_replies",
        "_resumable",
        "_session_serial",
        "_stalled",
        "_suspended",
        "_tickets_held",
        "_timers",
        "_traffic_mark",
        "_trailing",
        "_useless",
        "_waited",
        "_walker",
        "_writable",
        "_write_side",
        "context",
        "events_pending",
        "limits",
        "memory_timer",
        "read_status",
        "receive_window",
    )

    def __init__(
        self,
        context: ClientContext | ServerContext,
        *,
        server_hostname: str | None = None,
        session: Session | None = None,
        limits: Limits | None = None,
    ) -> None:
        if not isinstance(context, ClientContext | ServerContext):
            raise TypeError(f"context must be a ClientContext or a ServerContext, not {type(context).__name__}")
        if limits is None:
            limits = context.config.limits
        elif not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits object, not {type(limits).__name__}")
        self.context = context
        #: The limits that hold for this connection; read only.
        self.limits: Limits = limits
        self._is_client = isinstance(context, ClientContext)
        self._engine_type = _engine.default_engine
        self._engine: Engine | None = None
        self._facts = None
        self._policy: Policy | None = None
        self._name: ServerName | None = None
        self._session_serial = 0
        self._resumable = False

        self._handshake_state = HandshakeState.NOT_STARTED
        self._read_side = ReadSide.OPEN
        self._write_side = WriteSide.OPEN
        self._failure: TLSError | None = None
        self._raised = False
        self._eof = False
        self._closing = False
        self._waited = False

        # Flags for the data path, each the sum of several states: the handshake is complete and neither failure, close nor EOF stands in
        # the way of taking ciphertext / plaintext.
        self._flowing = False
        self._writable = False
        self._busy = False
        self._callback_thread = 0
        self._deferred: list[Callable[[], None]] = []

        self._walker = RecordWalker()
        #: Most bytes that ``receive`` takes now. 0: stop reading from the transport. A plain attribute (read it, do not set it), since it
        #: is asked in every turn, like ``read_status`` and ``events_pending``.
        #:
        #: It is 0 when the connection takes no more (failed, closed by the peer, at the end of the wire), while a server waits for an
        #: identity, while undecrypted ciphertext is held, or while OpenSSL's own answers pile up unsent (FAULTS F08). It does not depend
        #: on what the application has written: two peers that both write before they read would wait for each other for ever.
        self.receive_window = self.limits.receive_buffer
        #: What a further read would bring.
        self.read_status = ReadStatus.NEED_INPUT
        self._records_per_read = self.limits.records_per_read
        self._records_per_key = self.limits.records_per_key
        self._useless = 0
        self._stalled = False
        self._replies = 0
        self._opening: Opening | None = Opening(self.limits, self._walker, client=self._is_client)
        self._suspended = b""
        self._trailing = b""

        # Out: plaintext before the handshake, ciphertext that was taken from the engine in one piece.
        self._queue: list[bytes] = []
        self._queued = 0
        self._chunks: list[bytes | memoryview] = []
        self._chunk_bytes = 0
        self._tickets_held = False
        # Whether taking output needs more than a look into the engine: chunks, held tickets, answers to book, a close to time.
        self._booked_output = True

        self._events: list[Event] = []
        #: Whether ``next_event()`` has something.
        self.events_pending = False
        self._timers = Timers(self.limits)
        self._timers.start(Timer.HANDSHAKE)
        self._grown = False
        #: Whether memory is given back by way of ``get_timer``. An adapter with many connections sets it to False and makes one sweep over
        #: all that are ``grown``.
        self.memory_timer = True
        self._traffic_mark = 0
        self._key_limits_reported: frozenset[str] = frozenset()
        self._lane: Lane | None = None

        self._plaintext_read = self._plaintext_written = 0
        self._ciphertext_received = self._ciphertext_sent = 0
        self._records_read = self._records_written = 0

        if isinstance(context, ClientContext):
            self._become_client(context, server_hostname, session)
        elif server_hostname is not None or session is not None:
            raise ApiMisuse("server_hostname and session are for clients; a server learns the name from the client")

    def _become_client(self, context: ClientContext, server_hostname: str | None, session: Session | None) -> None:
        config = context.config
        if server_hostname is not None:
            self._name = parse_server_name(server_hostname)
        elif config.verify_peer and config.verify_hostname:
            raise ValueError("a verifying client needs server_hostname=: the name or IP address that the server's certificate must carry")
        if session is not None:
            if not isinstance(session, Session):
                raise TypeError(f"session must be a Session, not {type(session).__name__}; see Session.from_bytes()")
            if session.binding != context.session_binding or session.server_hostname != str(self._name or ""):
                raise SessionError(
                    f"the session was made for {session.server_hostname!r} or under another trust store, verification or client "
                    "certificate; leave it out, a full handshake works without"
                )
        engine = self._engine_type(context.engine_context, config.verify_hook)
        verify_name = config.verify_peer and config.verify_hostname
        try:
            engine.become_client(self._name, verify_name, None if session is None else session.data)
        except EngineFailure as failure:
            if session is None:
                raise ValueError(f"OpenSSL does not take server_hostname {server_hostname!r} as a name to verify") from None
            reasons = ", ".join(error.reason for error in failure.errors) or "damaged"
            raise SessionError(f"OpenSSL does not take the session ({reasons}); leave it out, a full handshake works without") from None
        self._engine = engine

    def __repr__(self) -> str:
        role = "client" if self._is_client else "server"
        state = self._failure.__class__.__name__ if self._failure else self._handshake_state.value
        name = "" if self._name is None else f" {self._name}"
        return f"<Connector {role}{name}: {state}, read {self._read_side.value}, write {self._write_side.value}>"

    # -- lifecycle -----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A client's ClientHello goes into the output. A server has nothing to say first; the call does no harm.

        :raises ApiMisuse: when a client was started before.
        """
        self._enter("start")
        try:
            if not self._is_client:
                return
            if self._failure is not None:
                return
            if self._handshake_state is not HandshakeState.NOT_STARTED:
                raise ApiMisuse("this connection was started before; start() is called once")
            self._handshake_state = HandshakeState.IN_PROGRESS
            self._advance_handshake()
        finally:
            self._leave()

    @property
    def handshake_state(self) -> HandshakeState:
        """How far the handshake is."""
        return self._handshake_state

    @property
    def read_side(self) -> ReadSide:
        """What can still come from the peer. Changes when the read that finds out is made, not when the bytes arrive."""
        return self._read_side

    @property
    def write_side(self) -> WriteSide:
        """What can still be written to the peer."""
        return self._write_side

    @property
    def failure(self) -> TLSError | None:
        """The first error, or None. Known as soon as it happened; raised by the read that has no more good bytes to give."""
        return self._failure

    @property
    def finished(self) -> bool:
        """Whether the transport can be closed: both sides are closed, or this side was closed with ``close()`` and has waited for the
        peer's close_notify, or failed; and everything for the peer has been taken."""
        if self._failure is None:
            if self._write_side is not WriteSide.CLOSED:
                return False
            waits = self._read_side is ReadSide.OPEN
            if waits and not (self._closing and (self._waited or self._eof or not self.limits.close_wait_timeout)):
                return False
        return self.bytes_to_send == 0

    # -- ciphertext in -------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Takes ciphertext, all of it. Runs the handshake; decrypts no application data. Never raises what the peer did: reads do.

        :param data: anything bytes-like, at most ``receive_window`` bytes; copied.
        :raises ApiMisuse: when it is more than the window, or a client was not started.
        :raises TypeError: when it is not bytes-like.
        """
        if type(data) is not bytes:
            data = byte_view(data)
        size = len(data)
        if size > self.receive_window or self._busy:
            self._refuse_input(size)
        if not self._flowing:
            self._receive_opening(data, size)
            return
        self._busy = True
        engine: Engine = self._engine  # type: ignore[assignment]
        # A whole record, as it mostly comes, needs no walk.
        if self._walker.inside or size < RECORD_HEADER or (data[3] << 8 | data[4]) + RECORD_HEADER != size:
            engine.records += self._walker.walk(data)
            self._update_read_status()
        else:
            engine.records += 1
            self.read_status = _MORE
        engine.feed(data, size)
        self._busy = False
        self.receive_window -= size
        self._ciphertext_received += size
        if size > _SMALL and not self._grown:
            self._note_growth()

    def receive_eof(self) -> None:
        """The wire has ended. Whether that cuts something off is told by the next read; never raises because of it."""
        self._enter("receive_eof")
        try:
            if self._eof:
                return
            self._eof = True
            self._flowing = False
            self.receive_window = 0
            self._update_read_status()
            if self._failure is not None or self._read_side is not ReadSide.OPEN:
                return
            if self._handshake_state is not HandshakeState.COMPLETED:
                self._fail(
                    HandshakeInterrupted(
                        "the wire ended before the handshake was complete: the peer, or something between, closed the connection"
                    )
                )
        finally:
            self._leave()

    def _refuse_input(self, size: int) -> None:
        if self._busy:
            self._overlap("receive")
        if self._failure is not None or self._read_side is not ReadSide.OPEN or self._eof:
            why = "the connection takes no more input"
        elif self._handshake_state is HandshakeState.WAITING_FOR_IDENTITY:
            why = "the handshake waits for provide_identity()"
        else:
            why = "read first, and send what data_to_send() gives"
        raise ApiMisuse(f"receive() got {size} bytes but receive_window is {self.receive_window}: {why}")

    def _receive_opening(self, data: bytes | memoryview, size: int) -> None:
        """``receive`` until the handshake is complete."""
        if not size:
            return
        if self._is_client and self._handshake_state is HandshakeState.NOT_STARTED:
            raise ApiMisuse("a client speaks first: call start() and send data_to_send() before receive()")
        self._enter("receive")
        try:
            self._ciphertext_received += size
            opening = self._opening
            assert opening is not None
            try:
                data, records = opening.take(data)
            except NotTLSError as error:
                self._trailing = error.data
                self._fail(error)
                return
            except FloodError as error:
                self._send_plain_alert(error)
                return
            if not records and not data:
                return
            if self._engine is None:
                self._choose_policy(opening, bytes(data))
            else:
                self._feed_handshake(data, records)
        finally:
            self._leave()

    def _choose_policy(self, opening: Opening, received: bytes) -> None:
        """The ClientHello is whole: which policy, which identity? Decided before there is a TLS object (FAULTS F17)."""
        assert isinstance(self.context, ServerContext)
        assert opening.hello is not None
        hello = opening.hello
        self._policy = policy = self.context.policy_for(hello)
        if policy.config.identity_on_demand:
            self._suspended = received
            self._handshake_state = HandshakeState.WAITING_FOR_IDENTITY
            self.receive_window = 0
            self._emit(IdentityNeeded(hello.server_name, hello.alpn_protocols, hello.signature_algorithms, hello.cipher_suites))
            return
        identity = policy.choose(hello)
        if identity is None:
            self._refuse_name(hello)
            return
        self._begin_server_handshake(policy, hello, identity, received)

    def _refuse_name(self, hello: ClientHello) -> None:
        message = f"the client asks for {hello.server_name!r}, which no certificate here is for"
        self._send_plain_alert(PeerMisbehaved(message, alert_sent=Alert.UNRECOGNIZED_NAME))

    def _begin_server_handshake(self, policy: Policy, hello: ClientHello, identity: _engine.EngineContext, received: bytes) -> None:
        self._engine = engine = self._engine_type(policy.front, policy.config.verify_hook)
        engine.become_server(identity)
        self._name = None if hello.server_name is None else ServerName(dns=hello.server_name)
        self._handshake_state = HandshakeState.IN_PROGRESS
        self._feed_handshake(received, 1)

    def _feed_handshake(self, data: bytes | memoryview, records: int) -> None:
        engine = self._engine
        assert engine is not None
        engine.feed(data, len(data))
        if records:
            # Without a whole record there is nothing to ask OpenSSL for (FAULTS F09).
            self._advance_handshake(records)

    def provide_identity(self, identity: Identity | ServerContext) -> None:
        """Answers :class:`IdentityNeeded`; the handshake goes on.

        :param identity: the identity to show; or another context, whose whole policy and identity hold for this connection then, as if
            it had been made with it (``limits`` stay).
        :raises IdentityError: when OpenSSL does not take it; another may be provided, or the connection aborted.
        :raises ApiMisuse: when nobody asked.
        """
        if not isinstance(identity, Identity | ServerContext):
            raise TypeError(f"identity must be an Identity or a ServerContext, not {type(identity).__name__}; see Identity.from_files()")
        hello = self._enter_suspended("provide_identity")
        try:
            received, policy = self._suspended, self._policy
            assert policy is not None
            if isinstance(identity, Identity):
                context = policy.engine_context(identity)
            else:
                policy = identity.policy_for(hello)
                if policy.config.identity_on_demand:
                    raise ApiMisuse("the other context has identity_on_demand, too; provide one that has its identities")
                self.context, self._policy = identity, policy
                chosen = policy.choose(hello)
                if chosen is None:
                    self._refuse_name(hello)
                    return
                context = chosen
            self._suspended = b""
            self.receive_window = 0 if self._eof else self.limits.receive_buffer
            self._begin_server_handshake(policy, hello, context, received)
        finally:
            self._leave()

    def refuse_client(self, alert: Alert | int, message: str = "the application refused the client") -> None:
        """Answers :class:`IdentityNeeded` with a fatal alert; reads raise ``PeerMisbehaved`` with the message from now on.

        :raises ApiMisuse: when nobody asked.
        """
        if isinstance(alert, bool) or not isinstance(alert, int) or not 0 <= alert <= 255:
            raise ValueError(f"alert must be an Alert or its number, 0 to 255, not {alert!r}")
        self._enter_suspended("refuse_client")
        try:
            self._suspended = b""
            self._send_plain_alert(PeerMisbehaved(message, alert_sent=Alert.from_number(alert)))
        finally:
            self._leave()

    def _enter_suspended(self, call: str) -> ClientHello:
        self._enter(call)
        if self._handshake_state is not HandshakeState.WAITING_FOR_IDENTITY or self._opening is None or self._opening.hello is None:
            self._leave()
            raise ApiMisuse(f"no identity is needed now; call {call}() once after each IdentityNeeded event")
        return self._opening.hello

    def request_client_certificate(self) -> None:
        """Asks the client for its certificate after the handshake (TLS 1.3, RFC 8446 section 4.6.2). The request goes into the output; a
        refusal is raised by a later read, and ``peer_certificate`` is there once a read has met the answer.

        Needs ``post_handshake_auth`` on both sides. Call it on the connector only where no adapter's data is under way.

        :raises ApiMisuse: when it cannot be asked for; the message has OpenSSL's reason.
        """
        self._enter("request_client_certificate")
        try:
            engine = self._engine
            if engine is None or not self._writable or self._lane is not None:
                raise ApiMisuse("request_client_certificate() needs a complete handshake and an open connection that no adapter is at")
            try:
                engine.request_client_certificate()
            except EngineFailure as failure:
                reason = failure.errors[-1].reason
                raise ApiMisuse(f"the client cannot be asked for a certificate: {reason}", reason=reason) from None
        finally:
            self._leave()

    # -- handshake -----------------------------------------------------------------------------------------------------------------

    def _advance_handshake(self, records: int = 0) -> None:
        """Goes on with the handshake; ``records`` were just fed, and some of them may belong to what follows it."""
        engine, opening = self._engine, self._opening
        assert engine is not None
        assert opening is not None
        tickets_alone = not self._is_client and not engine.output_pending()
        self._callback_thread = threading.get_ident()
        try:
            done = engine.handshake()
        except EngineFailure as failure:
            self._fail(self._explain(failure))
            return
        finally:
            self._callback_thread = 0
        if engine.callback_error is not None:
            # A callback that cannot refuse by itself (the key log) raised.
            self._give_up(self._callback_failed())
        elif done:
            self._complete_handshake(tickets_alone, records)
        elif (flood := opening.overdone()) is not None:
            self._give_up(flood)

    def _complete_handshake(self, tickets_alone: bool, records: int) -> None:
        engine = self._engine
        assert engine is not None
        version = engine.version()
        server_name = None if self._name is None else self._name.dns
        if not self._is_client and version == "TLSv1.3" and engine.server_name() != server_name:
            # After a HelloRetryRequest the second ClientHello must repeat the first (RFC 8446 section 4.1.2); the policy was chosen by
            # the first (F17).
            self._give_up(PeerMisbehaved("the client changed the server name between its two ClientHellos"))
            return
        self._handshake_state = HandshakeState.COMPLETED
        self._facts = engine
        self._opening = None
        self._timers.stop(Timer.HANDSHAKE)
        self._flowing = not self._eof
        self._writable = self._write_side is WriteSide.OPEN
        self._session_serial = engine.session_serial()
        if tickets_alone and version == "TLSv1.3" and engine.output_pending():
            # Tickets that nobody asked for can block an unbuffered peer, or meet a closed socket (FAULTS F30).
            self._tickets_held = self._booked_output = True
            self._timers.start(Timer.TICKETS)
        engine.records = records if engine.input_pending() > self._walker.tail else 0
        self._update_read_status()
        self._note_growth()
        cipher, _bits = engine.cipher()
        self._emit(HandshakeCompleted(version, cipher, engine.group(), engine.alpn_protocol(), server_name, engine.resumed()))
        if self._is_client and version == "TLSv1.2" and engine.session() is not None:
            self._resumable = True
            self._emit(SessionTicketReceived())
        queue, self._queue, self._queued = self._queue, [], 0
        if queue:
            try:
                self._encrypt(b"".join(queue))
            except EngineFailure as failure:
                self._fail(self._explain(failure))
                return
        if self._write_side is WriteSide.CLOSING:
            self._send_close_notify()

    def _explain(self, failure: EngineFailure) -> TLSError:
        assert self._engine is not None
        peer = "server" if self._is_client else "client"
        return explain(self._engine, failure.errors, peer, None if self._name is None else str(self._name))

    def _callback_failed(self) -> CallbackError:
        assert self._engine is not None
        original, self._engine.callback_error = self._engine.callback_error, None
        error = CallbackError(f"the application's callback raised {original!r}; the connection was given up")
        error.__cause__ = original
        return error

    # -- plaintext out of it -------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes of plaintext that OpenSSL has decrypted and ``read`` has not fetched: the rest of a record that was read in part."""
        return 0 if self._engine is None else self._engine.plaintext_pending()

    @property
    def record_remaining(self) -> int:
        """Bytes of ciphertext up to the next border: the end of the record under way, or of a record's header. Whoever takes no more than
        that from the wire leaves to it what belongs to the next record."""
        return self._walker.remaining

    def _update_read_status(self) -> None:
        engine = self._engine
        if (engine is not None and engine.records) or (self._failure is not None and not self._raised):
            self.read_status = ReadStatus.MORE
        elif self._failure is not None or self._read_side is not ReadSide.OPEN:
            self.read_status = ReadStatus.CLOSED
        else:
            # At the end of the wire there is one more read to make: the one that finds out.
            self.read_status = ReadStatus.MORE if self._eof else ReadStatus.NEED_INPUT

    def read_into(self, buffer: bytearray | memoryview) -> int:
        """Decrypts into the caller's buffer as many records as fit, within ``Limits.records_per_read``.

        :returns: how many bytes were written to its beginning; 0 when there is nothing: see ``read_status``.
        :raises TLSError: the connection's failure, after every byte that was good has been delivered: :class:`TruncationError` for an
            end without close_notify.
        :raises TypeError: when the buffer is not writable.
        :raises ValueError: when it has no room.
        """
        if self._busy:
            self._overlap("read_into")
        engine = self._engine
        if engine is None or not engine.records:
            self._engine_type.check_buffer(buffer)
            return self._end_of_input()
        self._busy = True
        try:
            more = True
            while more:
                before = engine.records
                got = engine.decrypt_into(buffer, self._records_per_read)
                more = self._after_decryption(engine, before, got)
        finally:
            self._busy = False
        return got or self._end_of_input()

    def read(self, size: int = SCRATCH_SIZE) -> bytes:
        """Decrypts like ``read_into``, into a new bytes object of at most ``size`` bytes (and at most 64 KiB).

        :returns: the bytes; empty when there is nothing: see ``read_status``.
        :raises TLSError: as ``read_into``.
        """
        if type(size) is not int or size < 1:
            raise ValueError(f"read() takes a number of bytes, at least 1, not {size!r}")
        if self._busy:
            self._overlap("read")
        engine = self._engine
        if engine is None or not engine.records:
            self._end_of_input()
            return b""
        self._busy = True
        if size > SCRATCH_SIZE:
            size = SCRATCH_SIZE
        try:
            more = True
            while more:
                before = engine.records
                data = engine.decrypt_bytes(size, self._records_per_read)
                more = self._after_decryption(engine, before, len(data))
        finally:
            self._busy = False
        if not data:
            self._end_of_input()
        return data

    def _after_decryption(self, engine: Engine, before: int, got: int) -> bool:
        """Books what a decryption brought. True: nothing but records without application data, and there are more."""
        if got:
            self._useless = 0
            self._plaintext_read += got
            self._tickets_held = False
        outcome = engine.outcome
        if outcome is Outcome.USELESS:
            engine.settle(self._walker.tail)
        taken = before - engine.records
        self._records_read = records = self._records_read + taken
        go_on = False
        if outcome is not _DATA:
            if outcome is Outcome.FAILED:
                self._fail(self._explain(EngineFailure(engine.errors)))
            elif outcome is Outcome.CLOSED:
                self._peer_closed(engine)
            else:
                go_on = self._count_useless(engine, taken > 0) and not got
        if not engine.records:
            if self._flowing:
                self.read_status = _NEED_INPUT
                if self._replies < self.limits.unsent_replies:
                    self.receive_window = self.limits.receive_buffer
            else:
                self._update_read_status()
            if records >= self._records_per_key:
                self._report_key_limit("read", records)
            return False
        return go_on

    def _count_useless(self, engine: Engine, consumed: bool) -> bool:
        """Books a call that brought no application data. False: the peer overdid it."""
        # A call may fail without having taken a record, but not twice in a row (FAULTS F12).
        if consumed or self._stalled:
            self._useless += 1
            self._replies += 1
            self._booked_output = True
        self._stalled = not consumed
        if self._is_client and (serial := engine.session_serial()) != self._session_serial:
            self._session_serial = serial
            self._resumable = True
            # A server could send tickets without end, and the application may never take events.
            if len(self._events) < _MOST_EVENTS:
                self._emit(SessionTicketReceived())
        if engine.callback_error is not None:
            self._give_up(self._callback_failed())
            return False
        if self._useless > self.limits.useless_records:
            self._give_up(
                FloodError(
                    f"the peer sent more than {self.limits.useless_records} records in a row without application data "
                    "(KeyUpdate or ticket flood)",
                    limit="useless_records",
                )
            )
            return False
        if self._replies >= self.limits.unsent_replies:
            self.receive_window = 0
        return True

    def _peer_closed(self, engine: Engine) -> None:
        self._read_side = ReadSide.CLOSED
        self._flowing = False
        engine.records = 0
        self.receive_window = 0
        self._trailing = engine.take_input()
        self._update_read_status()
        self._tickets_held = False
        self._emit(PeerClosed())
        self._timers.stop(Timer.WAIT)

    def _end_of_input(self) -> int:
        """What a read does that has no byte to give: nothing, or raise."""
        if self._engine is not None and self._engine.records:
            return 0
        if self._failure is None and self._eof and self._read_side is ReadSide.OPEN:
            self._fail(TruncationError("the connection was cut: the wire ended without close_notify, so what was read may be incomplete"))
        if self._failure is not None:
            self._raised = True
            self._update_read_status()
            raise self._failure.again()
        return 0

    def trailing_data(self) -> bytes:
        """Bytes that came after the peer's close_notify, or the first ones when they were not TLS: whose they are is for the caller.

        Ciphertext that was not given to ``receive`` yet follows them.
        """
        return self._trailing

    # -- plaintext into it ---------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Takes plaintext, all of it or none, now. Before the handshake is complete it is queued and goes out with its end.

        No bytes are a no-op, not an end.

        :raises ApiMisuse: after ``close_write``, or when more than ``Limits.queued_plaintext`` waits for the handshake; nothing is taken.
        :raises TLSError: the connection's failure, when there was one.
        :raises TypeError: when it is not bytes-like.
        """
        if type(data) is not bytes:
            data = byte_view(data)
        size = len(data)
        if self._busy or not self._writable or not size:
            self._write_early(data)
            return
        self._busy = True
        try:
            if size > MAX_PLAINTEXT:
                self._encrypt(data)
                return
            self._engine.encrypt(data, size)  # type: ignore[union-attr]
        except EngineFailure as failure:
            self._fail(self._explain(failure))
            raise self._failure.again() from None  # type: ignore[union-attr]
        finally:
            self._busy = False
        self._useless = 0
        self._tickets_held = False
        self._plaintext_written += size
        self._records_written = records = self._records_written + 1
        if size > _SMALL and not self._grown:
            self._note_growth()
        if records >= self._records_per_key:
            self._report_key_limit("write", records)

    def _write_early(self, data: bytes | memoryview) -> None:
        """``write`` when there is nothing to encrypt at once."""
        if self._busy:
            self._from_callback("write")
        if self._failure is not None:
            raise self._failure.again()
        if self._write_side is not WriteSide.OPEN:
            message = "write() after close_write(): the peer was told that nothing more comes; open a new connection"
            raise ApiMisuse(message, reason="protocol is shutdown")
        if not data:
            return
        if self._queued + len(data) > self.limits.queued_plaintext:
            raise ApiMisuse(
                f"write() would queue {self._queued + len(data)} bytes before the handshake is complete, more than "
                f"Limits.queued_plaintext ({self.limits.queued_plaintext}); wait for HandshakeCompleted"
            )
        self._queue.append(bytes(data))
        self._queued += len(data)

    def _encrypt(self, data: bytes | memoryview) -> None:
        """Encrypts any amount into one chunk."""
        engine, size = self._engine, len(data)
        assert engine is not None
        chunk = engine.encrypt_large(data, size)
        self._chunks.append(chunk)
        self._booked_output = True
        self._chunk_bytes += len(chunk)
        self._useless = 0
        self._tickets_held = False
        self._plaintext_written += size
        self._records_written += (size + MAX_PLAINTEXT - 1) // MAX_PLAINTEXT
        self._note_growth()
        if self._records_written >= self._records_per_key:
            self._report_key_limit("write", self._records_written)

    def close_write(self) -> None:
        """Half-close: close_notify follows what was written. Reading goes on. Calling it again changes nothing."""
        if self._enter_or_defer("close_write", self.close_write):
            try:
                self._close_write()
            finally:
                self._leave()

    def _close_write(self) -> None:
        if self._write_side is not WriteSide.OPEN:
            return
        self._writable = False
        self._write_side = WriteSide.CLOSING
        if self._handshake_state is HandshakeState.COMPLETED:
            self._send_close_notify()

    def close(self) -> None:
        """Closes: half-closes, and gives deadlines to the rest of the connection.

        What was written goes out first; when none of it is taken for ``Limits.close_flush_timeout``, the failure is
        :class:`CloseTimeout`. Then the peer's close_notify is awaited for ``Limits.close_wait_timeout``. ``finished`` says when the
        transport can be closed. Calling it again changes nothing.
        """
        if self._enter_or_defer("close", self.close):
            try:
                if self._closing:
                    return
                self._closing = self._booked_output = True
                self._close_write()
                if self._failure is None:
                    if self._pending_output():
                        self._timers.start(Timer.FLUSH)
                    else:
                        self._wait_for_peer()
            finally:
                self._leave()

    def _wait_for_peer(self) -> None:
        """After ``close()`` and the flush: the peer's close_notify, if it is to be waited for."""
        if self._read_side is ReadSide.OPEN and self.limits.close_wait_timeout:
            self._timers.start(Timer.WAIT)

    def abort(self) -> None:
        """Gives the connection up. What was not encrypted yet is dropped; a fatal alert goes into the output, so that the peer does not
        take the end for a normal one. Reads raise :class:`ConnectionAborted` from now on. Calling it again changes nothing."""
        if self._enter_or_defer("abort", self.abort):
            try:
                self._give_up(ConnectionAborted("this side gave the connection up with abort()"))
            finally:
                self._leave()

    def _send_close_notify(self) -> None:
        assert self._engine is not None
        self._engine.send_close_notify()
        self._write_side = WriteSide.CLOSED
        self._tickets_held = False

    # -- ciphertext out ------------------------------------------------------------------------------------------------------------

    @property
    def bytes_to_send(self) -> int:
        """Bytes of ciphertext that ``data_to_send`` would give. Reads change it too. Tickets that are held back do not count."""
        self._enter("bytes_to_send")
        try:
            return self._pending_output()
        finally:
            self._busy = False

    def _pending_output(self) -> int:
        if self._engine is None or self._tickets_held:
            return self._chunk_bytes
        return self._chunk_bytes + self._engine.output_pending()

    @property
    def bytes_queued(self) -> int:
        """Bytes of plaintext that wait for the handshake. Watermarks count ``bytes_to_send + bytes_queued``."""
        return self._queued

    def data_to_send(self) -> bytes | memoryview:
        """Takes all ciphertext for the peer; empty when there is none. What was taken is gone: deliver it, in order.

        Large writes come as a memoryview of memory that nobody else uses.
        """
        if self._busy:
            self._overlap("data_to_send")
        self._busy = True
        try:
            if self._booked_output or self._engine is None:
                return self._take_chunks()
            data = self._engine.drain()
        finally:
            self._busy = False
        self._ciphertext_sent += len(data)
        return data

    def _take_chunks(self) -> bytes | memoryview:
        parts: list[bytes | memoryview] = list(self._chunks)
        self._chunks.clear()
        self._chunk_bytes = 0
        if self._engine is not None and not self._tickets_held and (rest := self._engine.drain()):
            parts.append(rest)
        data = b"".join(parts) if len(parts) > 1 else parts[0] if parts else b""
        self._taken(len(data))
        return data

    def send_into(self, buffer: bytearray | memoryview) -> int:
        """Takes ciphertext for the peer into the caller's buffer, as much as fits.

        :returns: how many bytes were written to its beginning; 0 when there is nothing.
        :raises TypeError: when the buffer is not writable.
        :raises ValueError: when it has no room.
        """
        size = self._engine_type.check_buffer(buffer)
        self._enter("send_into")
        try:
            filled = 0
            if self._chunks:
                view = writable_view(buffer)
                while self._chunks and filled < size:
                    chunk = self._chunks.pop(0)
                    part = min(len(chunk), size - filled)
                    view[filled : filled + part] = chunk[:part]
                    filled += part
                    if part < len(chunk):
                        self._chunks.insert(0, memoryview(chunk)[part:])
                self._chunk_bytes -= filled
            if self._engine is not None and not self._tickets_held and not self._chunks and filled < size:
                filled += self._engine.drain_into(buffer, filled)
            self._taken(filled)
            return filled
        finally:
            self._busy = False

    def _taken(self, size: int) -> None:
        """Books ciphertext that left."""
        self._ciphertext_sent += size
        empty = not self._pending_output()
        if empty and self._replies:
            self._replies = 0
            if self._flowing and self._engine is not None and not self._engine.records:
                self.receive_window = self.limits.receive_buffer
        if Timer.FLUSH in self._timers:
            if empty:
                self._timers.stop(Timer.FLUSH)
                self._wait_for_peer()
            elif size:
                self._timers.start(Timer.FLUSH)
        self._booked_output = bool(self._chunks or self._tickets_held or self._closing)

    # -- events --------------------------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """The oldest event that was not taken yet, or None."""
        event = self._events.pop(0) if self._events else None
        self.events_pending = bool(self._events)
        return event

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        self.events_pending = True

    def _report_key_limit(self, direction: Literal["read", "write"], records: int) -> None:
        if direction not in self._key_limits_reported and self._engine is not None:
            self._key_limits_reported |= {direction}
            if "CHACHA20" not in self._engine.cipher()[0]:
                _log.warning("%d records under one AES key (%s side): reconnect soon (RFC 8446 section 5.5)", records, direction)
                self._emit(KeyLimitReached(direction, records))

    # -- time ----------------------------------------------------------------------------------------------------------------------

    @property
    def timer_changed(self) -> bool:
        """Whether ``get_timer`` has something new to say."""
        return self._timers.changed

    def get_timer(self, now: float) -> float | None:
        """When ``handle_timer`` must be called at the latest, on the caller's clock; None: never. Arms what has become pending.

        :param now: seconds on a clock that never goes back.
        """
        return self._timers.arm(now)

    def handle_timer(self, now: float) -> None:
        """Does what is due: ends a handshake or a close that takes too long, lets held tickets go, gives memory back.

        Harmless when nothing is due.
        """
        self._enter("handle_timer")
        try:
            for timer in self._timers.take_due(now):
                _WHEN_DUE[timer](self)
        finally:
            self._leave()

    def _handshake_due(self) -> None:
        seconds = self.limits.handshake_timeout
        self._give_up(
            HandshakeTimeout(f"the SSL handshake is taking longer than {seconds:g} s (Limits.handshake_timeout); it was given up")
        )

    def _tickets_due(self) -> None:
        self._tickets_held = False

    def _flush_due(self) -> None:
        waiting = self._pending_output() + self._queued
        seconds = self.limits.close_flush_timeout
        self._fail(CloseTimeout(f"after close() the transport took nothing for {seconds:g} s; {waiting} bytes for the peer are lost"))

    def _wait_due(self) -> None:
        self._waited = True

    def _memory_due(self) -> None:
        traffic = self.bytes_moved
        if traffic != self._traffic_mark or not self._release_memory():
            self._traffic_mark = traffic
            self._timers.start(Timer.MEMORY)

    def _note_growth(self) -> None:
        if not self._grown:
            self._grown = True
            if self.memory_timer:
                self._traffic_mark = self.bytes_moved
                self._timers.start(Timer.MEMORY)

    @property
    def grown(self) -> bool:
        """Whether OpenSSL's buffers have grown: ``release_memory`` is worth it when the connection has fallen quiet."""
        return self._grown

    @property
    def bytes_moved(self) -> int:
        """Ciphertext received and plaintext written so far, to find out whether the connection has fallen quiet."""
        moved = self._ciphertext_received + self._plaintext_written
        if self._lane is not None:
            counts = self._lane.counts()
            moved += counts[0] + counts[3]
        return moved

    def release_memory(self) -> bool:
        """Gives back the memory that OpenSSL's buffers grew to, now instead of after ``Limits.release_memory_after``.

        :returns: whether it was done; False while there is ciphertext in the buffers.
        """
        self._enter("release_memory")
        try:
            return self._release_memory()
        finally:
            self._busy = False

    def _release_memory(self) -> bool:
        if self._engine is None or self._engine.records or not self._engine.release_memory():
            return False
        self._grown = False
        self._timers.stop(Timer.MEMORY)
        return True

    # -- more about it -------------------------------------------------------------------------------------------------------------

    @property
    def server_hostname(self) -> str | None:
        """The server's name: what this client connects to, or what the client asked this server for (SNI)."""
        return None if self._name is None else str(self._name)

    @property
    def session(self) -> Session | None:
        """A client's session to resume with later, or None while there is none. On TLS 1.3 wait for :class:`SessionTicketReceived`."""
        if not isinstance(self.context, ClientContext) or self._failure is not None:
            return None
        engine = self._engine
        if engine is None or not self._resumable or (data := engine.session()) is None:
            return None
        return Session(str(self._name or ""), engine.version() == "TLSv1.3", self.context.session_binding, data)

    @property
    def statistics(self) -> Statistics:
        """Counts since the connection was made."""
        received, sent, read, written, records_read, records_written = self._lane.counts() if self._lane is not None else (0,) * 6
        return Statistics(
            self._plaintext_read + read,
            self._plaintext_written + written,
            self._ciphertext_received + received,
            self._ciphertext_sent + sent,
            self._records_read + records_read,
            self._records_written + records_written,
        )

    # -- the compiled lane ---------------------------------------------------------------------------------------------------------

    @property
    def lane_type(self) -> Callable[..., Lane] | None:
        """What does whole turns over a socket in C, where the twin has it. For the adapters."""
        return self._engine_type.lane_type

    def lend(self, lane: Lane, deliver: Callable[[Any], Any], get_buffer: Callable[[int], Any] | None) -> bool:
        """Lends the data flows to a lane, if nothing but plain data is going on. Call nothing that moves data until ``take_back``.

        :param deliver: gets the bytes; with ``get_buffer``, the number of bytes that were written to its buffer.
        :returns: whether it was lent.
        """
        if (
            not self._flowing
            or not self._writable
            or self._booked_output
            or self._useless
            or self.events_pending
            or self._timers.changed
            or self._busy
        ):
            return False
        engine: Any = self._engine
        left = self._records_per_key - max(self._records_read, self._records_written)
        if engine.records or left <= 0:
            return False
        lane.lend(
            engine, deliver, get_buffer, self._walker.border, self._records_per_read, self.limits.receive_buffer, left, not self._grown
        )
        self._lane = lane
        return True

    def take_back(self) -> None:
        """Takes the data flows back; books what the lane did."""
        lane, self._lane = self._lane, None
        if lane is None:
            return
        counts, self._walker.border = lane.take_back()
        self._ciphertext_received += counts[0]
        self._ciphertext_sent += counts[1]
        self._plaintext_read += counts[2]
        self._plaintext_written += counts[3]
        self._records_read += counts[4]
        self._records_written += counts[5]
        if self._flowing:
            engine: Engine = self._engine  # type: ignore[assignment]
            held = engine.input_pending() if engine.records else 0
            self.receive_window = max(0, self.limits.receive_buffer - held)
        self._update_read_status()
        for direction, records in (("read", self._records_read), ("write", self._records_written)):
            if records >= self._records_per_key:
                self._report_key_limit(direction, records)  # type: ignore[arg-type]

    def lane_stopped(self, before: int, got: int) -> None:
        """A lane's decryption met something else than data; it had ``before`` records and got so many bytes. After ``take_back``."""
        engine = self._engine
        assert engine is not None
        self._enter("lane_stopped")
        try:
            self._after_decryption(engine, before, got)
            self._update_read_status()
        finally:
            self._leave()

    def lane_grown(self) -> None:
        """A lane moved so much that OpenSSL's buffers are worth shrinking later."""
        self._note_growth()

    def lane_write_failed(self) -> None:
        """A lane could not encrypt. After ``take_back``."""
        assert self._engine is not None
        self._fail(self._explain(self._engine.write_failed()))

    # -- order ---------------------------------------------------------------------------------------------------------------------

    def _fail(self, error: TLSError) -> None:
        """The connection is over; the first error counts."""
        if self._failure is not None:
            return
        # It is kept for long: not with the frames of whoever found out (FAULTS F28).
        self._failure = error.with_traceback(None)
        if self._handshake_state is not HandshakeState.COMPLETED:
            self._handshake_state = HandshakeState.FAILED
        if self._read_side is ReadSide.OPEN:
            self._read_side = ReadSide.FAILED
        if self._write_side is not WriteSide.CLOSED:
            self._write_side = WriteSide.FAILED
        self._flowing = self._writable = False
        if self._engine is not None:
            self._engine.records = 0
        self.receive_window = 0
        self._queue, self._queued = [], 0
        self._tickets_held = False
        self._update_read_status()
        self._timers.clear()

    def _give_up(self, error: TLSError) -> None:
        """Fails for a reason of ours, and lets OpenSSL tell the peer."""
        if self._failure is not None:
            return
        engine = self._engine
        if engine is not None and self._handshake_state is not HandshakeState.NOT_STARTED and self._write_side is not WriteSide.CLOSED:
            engine.send_fatal_alert()
            error.alert_sent = engine.alert_sent
        elif engine is None and self._ciphertext_received:
            # user_canceled would say it better, but OpenSSL passes over it and goes on.
            error.alert_sent = Alert.HANDSHAKE_FAILURE
            self._send_plain_alert(error)
        self._fail(error)

    def _send_plain_alert(self, error: TLSError) -> None:
        """Fails while there is no TLS object yet: the alert goes out in clear, as it should then (RFC 8446 section 6)."""
        assert error.alert_sent is not None
        record = bytes((21, 3, 3, 0, 2, 2, error.alert_sent))
        self._chunks.append(record)
        self._chunk_bytes += len(record)
        self._booked_output = True
        self._fail(error)

    def _enter(self, call: str) -> None:
        if self._busy:
            self._overlap(call)
        self._busy = True

    def _leave(self) -> None:
        self._busy = False
        while self._deferred:
            self._deferred.pop(0)()

    def _overlap(self, call: str) -> None:
        raise ApiMisuse(
            f"{call}() while another call on this connection is running: calls must not overlap, and a callback may only write, close "
            "or abort"
        )

    def _enter_or_defer(self, call: str, again: Callable[[], None]) -> bool:
        """Like ``_enter``; False from within a callback, where the call is put off until the outer one is done."""
        if not self._busy:
            self._busy = True
            return True
        self._from_callback(call)
        self._deferred.append(again)
        return False

    def _from_callback(self, call: str) -> None:
        """Lets the thread of a running handshake through, and nobody else."""
        if self._callback_thread != threading.get_ident():
            self._overlap(call)


_WHEN_DUE: dict[Timer, Callable[[Connector], None]] = {
    Timer.HANDSHAKE: Connector._handshake_due,
    Timer.TICKETS: Connector._tickets_due,
    Timer.FLUSH: Connector._flush_due,
    Timer.WAIT: Connector._wait_due,
    Timer.MEMORY: Connector._memory_due,
}
