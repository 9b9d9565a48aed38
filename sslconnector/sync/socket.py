"""A socket that speaks TLS.

The adapter loop of ``connector.py`` for code that waits. Each call moves plaintext in or out of the connector and, when that needs it,
ciphertext between the connector and the wire.

Locks let one thread read while another writes: one for the connector, held for the length of a call into it and never while anything
waits; one for whoever takes ciphertext and sends it, so that it leaves in order (FAULTS F22); one for each direction of the application's
data; and one for the handshake, which needs both. The reading side never waits for the sender's: what it has to send (an alert, an answer
to a KeyUpdate) goes out with what the writing side sends, or as soon as the wire takes it.
"""

from __future__ import annotations

import errno
import selectors
import socket as _socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from ..buffers import byte_view, scratch, writable_view
from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import (
    ApiMisuse,
    CallbackError,
    CloseTimeout,
    ConnectionAborted,
    HandshakeInterrupted,
    HandshakeTimeout,
    TLSError,
)
from ..events import IdentityNeeded
from ..identity import Identity
from ..limits import LINGER_BYTES, LINGER_SECONDS
from ..session import Session
from ..ssl_object import SSLObject
from ..states import HandshakeState, ReadSide, ReadStatus
from .wire import SocketLike, WantReadError, WantWriteError, Wire, wire_for

__all__ = ["IdentityProvider", "TLSSocket", "wrap_socket"]

#: Answers the question which identity a server shows.
IdentityProvider = Callable[[IdentityNeeded], Identity | ServerContext]

_Taken = TypeVar("_Taken", bytes, int)

# Plaintext that one step of send() takes: large enough for the cost of a call not to count, small enough to wait in memory.
_PIECE = 262144
_COMPLETED, _OPEN, _MORE = HandshakeState.COMPLETED, ReadSide.OPEN, ReadStatus.MORE


def wrap_socket(
    sock: _socket.socket | SocketLike,
    context: ClientContext | ServerContext,
    *,
    server_hostname: str | None = None,
    session: Session | None = None,
    do_handshake_on_connect: bool = True,
    identity_provider: IdentityProvider | None = None,
    left_over: bytes = b"",
) -> TLSSocket:
    """Puts TLS on a connected socket, or on any object with ``recv_into`` and ``send``.

    While it is wrapped, ``sock`` belongs to the :class:`TLSSocket`; :meth:`TLSSocket.unwrap` gives it back. When the handshake fails,
    ``sock`` is closed.

    :param context: a client's or a server's; it says which side this is.
    :param server_hostname: for clients: the name that the certificate must carry.
    :param session: for clients: a session to resume.
    :param do_handshake_on_connect: whether the handshake happens at once. On a non-blocking socket it never does: there it is part of the
        first call that needs it, or ``do_handshake()``.
    :param identity_provider: for a context with ``identity_on_demand``: called with :class:`~sslconnector.IdentityNeeded`, gives an
        :class:`~sslconnector.Identity`.
    :param left_over: the first ciphertext, when it was read together with what came in clear (after STARTTLS). What is in clear must not
        be passed on as data of the TLS connection (FAULTS F01); here it makes the handshake fail.
    :raises TLSError: when the handshake fails.
    :raises TimeoutError: when it takes longer than the socket's time-out or ``Limits.handshake_timeout``.
    """
    if not isinstance(left_over, bytes):
        raise TypeError(f"left_over must be bytes, not {type(left_over).__name__}")
    connector = Connector(context, server_hostname=server_hostname, session=session)
    if isinstance(context, ServerContext):
        context.check_identity_provider(identity_provider)
    tls = TLSSocket(wire_for(sock), connector, identity_provider, left_over)
    if do_handshake_on_connect and tls.gettimeout() != 0:
        try:
            tls.do_handshake()
        except BaseException:
            try:
                tls.close()
            except OSError:
                pass  # the first error is the one that counts
            raise
    return tls


class TLSSocket(SSLObject):
    """A connected socket with TLS on it; made by :func:`wrap_socket`.

    It has the calls of ``ssl.SSLSocket``. Different from there:

    * The end of a connection that was cut raises :class:`~sslconnector.TruncationError`; ``recv`` returns ``b""`` only after close_notify.
    * ``shutdown(SHUT_WR)`` is a half-close: reading goes on.
    * ``close`` sends close_notify.
    * A non-blocking ``send`` that raised has taken nothing; one that returned need not be repeated with the same data.
    * One thread may read while another writes.

    Time-outs are those of ``settimeout``, for each call as a whole. ``Limits.handshake_timeout`` holds besides.
    """

    def __init__(self, wire: Wire, connector: Connector, identity_provider: IdentityProvider | None = None, left_over: bytes = b"") -> None:
        super().__init__(connector)
        self._wire = wire
        self._identity_provider = identity_provider
        self._left_over = left_over
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._handshaking = threading.Lock()
        self._started = self._established = False
        # Ciphertext that left the connector and has not been taken by the wire.
        self._chunk = memoryview(b"")
        # Plaintext that unwrap() found.
        self._unread = b""
        self._buffer: memoryview | None = None
        self._wire_ended = False
        self._broken: OSError | None = None
        self._closed = False
        # For makefile(): files that keep the socket open.
        self._io_refs = 0

    def __repr__(self) -> str:
        return f"<TLSSocket {'closed ' if self._closed else ''}{self.connector!r}>"

    # -- handshake -----------------------------------------------------------------------------------------------------------------

    def do_handshake(self) -> None:
        """Shakes hands, or goes on with it; nothing happens when it is complete.

        :raises TLSError: when it fails.
        :raises WantReadError, WantWriteError: on a non-blocking socket.
        """
        self._ensure_open()
        deadline = self._deadline()
        self._shake(deadline)
        self._flush(deadline)

    def _shake(self, deadline: float | None) -> None:
        if self._established:
            return
        with self._turn(self._handshaking, deadline):
            connector = self.connector
            with self._lock:
                if not self._started:
                    self._started = True
                    connector.start()
            while connector.handshake_state is not _COMPLETED:
                if connector.failure is not None:
                    self._part()
                    raise connector.failure.again()
                if connector.handshake_state is HandshakeState.WAITING_FOR_IDENTITY:
                    self._provide_identity()
                    continue
                try:
                    self._flush(deadline)
                except (TimeoutError, WantReadError, WantWriteError):
                    raise
                except OSError:
                    # The peer takes no more. Perhaps it has said why: that is read next.
                    pass
                try:
                    self._fill(deadline)
                except (TLSError, WantReadError, WantWriteError):
                    raise
                except ConnectionError as error:
                    raise HandshakeInterrupted(f"the connection was lost before the handshake was complete: {error}") from error
            self._established = True

    def _provide_identity(self) -> None:
        connector = self.connector
        event = connector.next_event()
        assert isinstance(event, IdentityNeeded)
        assert self._identity_provider is not None
        try:
            identity = self._identity_provider(event)
            with self._lock:
                connector.provide_identity(identity)
        except Exception as error:
            with self._lock:
                connector.abort()
            self._part()
            raise CallbackError(f"the identity provider raised {error!r}; the connection was given up") from error

    # -- reading -------------------------------------------------------------------------------------------------------------------

    def recv(self, bufsize: int = 65536, flags: int = 0) -> bytes:
        """At most ``bufsize`` bytes (and at most 64 KiB), as soon as there are any; ``b""`` after the peer's close_notify.

        :raises TruncationError: when the connection was cut, after all that came before.
        :raises TLSError, OSError: when it is broken otherwise.
        :raises TimeoutError: when nothing came in time.
        :raises WantReadError: on a non-blocking socket.
        """
        if isinstance(bufsize, bool) or not isinstance(bufsize, int) or bufsize < 0:
            raise ValueError(f"bufsize must be a number of bytes, at least 0, not {bufsize!r}")
        self._check_flags(flags)
        if not bufsize:
            self._ensure_open()
            return b""
        return self._receive(lambda: self._take_unread(bufsize) or self.connector.read(bufsize), b"")

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Like :meth:`recv`, decrypted straight into the caller's buffer; 0 after the peer's close_notify.

        :param nbytes: at most so many; 0 for as many as fit.
        :raises TypeError: when the buffer is not writable.
        """
        self._check_flags(flags)
        if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 0:
            raise ValueError(f"nbytes must be a number of bytes, at least 0, not {nbytes!r}")
        if not len(memoryview(buffer)):
            self._ensure_open()
            return 0
        view = writable_view(buffer)
        if nbytes:
            view = view[:nbytes]

        def take() -> int:
            if self._unread:
                data = self._take_unread(len(view))
                view[: len(data)] = data
                return len(data)
            return self.connector.read_into(view)

        return self._receive(take, 0)

    def _take_unread(self, size: int) -> bytes:
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _receive(self, take: Callable[[], _Taken], nothing: _Taken) -> _Taken:
        self._ensure_open()
        deadline = self._deadline()
        connector = self.connector
        self._shake(deadline)
        with self._turn(self._reading, deadline, WantReadError):
            while True:
                try:
                    with self._lock:
                        got = take()
                        more = connector.read_status is _MORE
                except TLSError:
                    self._part()
                    raise
                if got:
                    self._flush_some()
                    return got
                if connector.read_side is not _OPEN:
                    return nothing
                if not more:
                    self._fill(deadline)

    def _fill(self, deadline: float | None) -> None:
        """Some ciphertext from the wire into the connector; waits for it."""
        connector = self.connector
        self._flush_some()
        left_over, self._left_over = self._left_over, b""
        window = connector.receive_window
        if left_over:
            with self._lock:
                connector.receive(left_over[:window])
            self._left_over = left_over[window:]
            return
        if not window:
            # OpenSSL's own answers pile up: they have to leave first (FAULTS F08).
            self._flush(deadline)
            return
        buffer = self._receive_buffer()[:window]
        try:
            got = self._wire.recv_into(buffer)
        except TimeoutError:
            raise
        except OSError:
            with self._lock:
                connector.receive_eof()
            raise
        if got is None:
            write = self._has_output() and not self._sending.locked()
            self._wait(deadline, read=True, write=write)
            return
        with self._lock:
            if got:
                connector.receive(buffer[:got])
            else:
                self._wire_ended = True
                connector.receive_eof()

    def _receive_buffer(self) -> memoryview:
        if not self._wire.waits_inside:
            return scratch()
        # Others could use the thread's buffer while this connection waits in recv_into (green threads).
        if self._buffer is None:
            self._buffer = memoryview(bytearray(len(scratch())))
        return self._buffer

    # -- writing -------------------------------------------------------------------------------------------------------------------

    def send(self, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Takes some of ``data``: at most 256 KiB.

        :returns: how many bytes were taken. They are encrypted; what the wire does not take now goes out first with any later call.
        :raises TimeoutError: when the wire took nothing in time; nothing of ``data`` was taken.
        :raises WantWriteError: on a non-blocking socket that still holds earlier data; nothing of ``data`` was taken.
        :raises TLSError, OSError: when the connection is broken.
        """
        self._check_flags(flags)
        view = byte_view(data)
        self._ensure_open()
        deadline = self._deadline()
        self._shake(deadline)
        with self._turn(self._writing, deadline, WantWriteError):
            self._flush(deadline)
            return self._write(view[:_PIECE], deadline)

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0) -> None:
        """Takes all of ``data``. When it raises ``TimeoutError``, how much was taken is not known; on a non-blocking socket it takes all
        or, raising :class:`WantWriteError`, nothing."""
        self._check_flags(flags)
        view = memoryview(byte_view(data))
        self._ensure_open()
        deadline = self._deadline()
        self._shake(deadline)
        with self._turn(self._writing, deadline, WantWriteError):
            self._flush(deadline)
            if self._wire.get_timeout() == 0:
                self._write(view, deadline)
                return
            for position in range(0, len(view), _PIECE):
                self._write(view[position : position + _PIECE], deadline)
                self._flush(deadline)

    def _write(self, data: bytes | memoryview, deadline: float | None) -> int:
        if self._broken is not None:
            raise type(self._broken)(*self._broken.args)
        try:
            with self._lock:
                self.connector.write(data)
        except TLSError:
            self._part()
            raise
        try:
            self._flush(deadline)
        except (TimeoutError, WantWriteError):
            # It is taken; the rest of it goes out first with the next call.
            pass
        return len(data)

    def flush(self) -> None:
        """Sends what was taken and not sent yet.

        :raises WantWriteError: on a non-blocking socket, while the wire does not take all.
        """
        self._ensure_open()
        self._flush(self._deadline())

    def _has_output(self) -> bool:
        if self._broken is not None:
            return False
        if self._chunk:
            return True
        with self._lock:
            return self.connector.bytes_to_send > 0

    def _flush(self, deadline: float | None) -> None:
        """Sends all there is; waits."""
        while self._has_output():
            with self._turn(self._sending, deadline, WantWriteError):
                while not self._push():
                    self._wait(deadline, write=True)

    def _flush_some(self) -> None:
        """Sends what the wire takes now, unless somebody else is sending: then that one does."""
        while self._has_output() and self._sending.acquire(blocking=False):
            try:
                if not self._push():
                    return
            except OSError:
                # Whoever writes is told. Who reads may still find something.
                return
            finally:
                self._sending.release()

    def _push(self) -> bool:
        """Sends without waiting; the caller holds ``_sending``. False: there is more, but the wire does not take it."""
        while True:
            if not self._chunk:
                with self._lock:
                    self._chunk = memoryview(self.connector.data_to_send())
                if not self._chunk:
                    return True
            try:
                sent = self._wire.send(self._chunk)
            except OSError as error:
                if not isinstance(error, TimeoutError):
                    # A copy: what is kept must not know the frames of whoever was told (FAULTS F28).
                    self._broken = type(error)(*error.args)
                raise
            if sent is None:
                return False
            self._chunk = self._chunk[sent:]

    # -- waiting -------------------------------------------------------------------------------------------------------------------

    @property
    def waits_for(self) -> int:
        """For selectors: ``EVENT_READ`` while the connection can take something from the wire, ``EVENT_WRITE`` while it has something for
        it. Ask after each turn in which ``recv`` was called until it raised :class:`WantReadError`."""
        if self._closed:
            return 0
        events = selectors.EVENT_WRITE if self._has_output() else 0
        if self.connector.receive_window and not self._wire_ended:
            events |= selectors.EVENT_READ
        return events

    def _deadline(self) -> float | None:
        with self._lock:
            now = time.monotonic()
            due = self.connector.get_timer(now)
            if due is not None and due <= now:
                self.connector.handle_timer(now)
        timeout = self._wire.get_timeout()
        return None if timeout is None else now + timeout

    def _wait(self, deadline: float | None, *, read: bool = False, write: bool = False) -> None:
        """Returns when the wire may be ready, or when one of the connector's deadlines has passed."""
        if self._wire.get_timeout() == 0 or self._wire.waits_inside:
            # (An object that should have waited and did not is a non-blocking one.)
            if read:
                raise WantReadError("nothing to read yet; wait until the socket is readable")
            raise WantWriteError("the socket takes nothing now; wait until it is writable")
        with self._lock:
            now = time.monotonic()
            due = self.connector.get_timer(now)
        until = deadline if due is None else due if deadline is None else min(deadline, due)
        if self._wire.wait(read, write, None if until is None else max(0.0, until - now)):
            return
        now = time.monotonic()
        if due is not None and now >= due:
            with self._lock:
                self.connector.handle_timer(now)
        elif deadline is not None and now >= deadline:
            raise TimeoutError("timed out")

    @contextmanager
    def _turn(self, lock: threading.Lock, deadline: float | None, busy: type[OSError] = WantReadError) -> Iterator[None]:
        """The lock of a direction; waiting for it counts as waiting for the wire."""
        if not lock.acquire(blocking=False):
            if self._wire.get_timeout() == 0:
                raise busy("another thread is at it")
            if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
                raise TimeoutError("timed out while another thread was using the socket")
        try:
            yield
        finally:
            lock.release()

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        """``SHUT_WR``: half-close; what was written goes out, then close_notify, and reading goes on. ``SHUT_RDWR``: the same, and then the
        socket below is shut both ways. ``SHUT_RD`` does nothing: TLS has no way to say it."""
        self._ensure_open()
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            raise ValueError(f"how must be SHUT_RD, SHUT_WR or SHUT_RDWR, not {how!r}")
        if how == _socket.SHUT_RD:
            return
        deadline = self._deadline()
        self._shake(deadline)
        with self._lock:
            self.connector.close_write()
        self._flush(deadline)
        if how == _socket.SHUT_RDWR:
            self._wire.end_all()

    def unwrap(self) -> tuple[Any, bytes]:
        """Ends TLS and gives the socket back, for going on in clear: sends close_notify and waits for the peer's.

        :returns: the socket (or object) as it was, and bytes that came after the peer's close_notify: they were read from the socket
            already, and are not protected.
        :raises ApiMisuse: when there is data that nobody has read: call ``recv`` until ``b""`` comes, then ``unwrap`` again.
        :raises TruncationError: when the connection ends without the peer's close_notify.
        """
        self.shutdown(_socket.SHUT_WR)
        if not self._unread:
            self._unread = self.recv()
        if self._unread:
            raise ApiMisuse("the peer's data was not read to its end: call recv() until it returns b'', then unwrap() again")
        self._closed = True
        return self._wire.release(), self.connector.trailing_data() + self._left_over

    def close(self) -> None:
        """Sends what was written and close_notify, and closes the socket.

        Waits for at most ``Limits.close_flush_timeout`` without any byte taken, then for at most a second for the peer's end, so that what
        was sent is not destroyed by a reset. On a non-blocking socket it waits for nothing: ``flush()`` before. A handshake is given up.

        :raises CloseTimeout: when data that ``send`` took could not be sent; the socket is closed all the same.
        """
        if not self._closed:
            self._closed = True
            self._close_if_unused()

    def say_goodbye(self) -> None:
        """Half-closes without waiting for anything: close_notify leaves if the wire takes it now."""
        if self._established and not self._closed:
            with self._lock:
                if self.connector.failure is None:
                    self.connector.close_write()
            self._flush_some()

    def abort(self) -> None:
        """Gives the connection up: a fatal alert, if it can be sent at once, and the socket is closed."""
        if not self._closed:
            self._closed = True
            with self._lock:
                self.connector.abort()
            self._flush_some()
            self._wire.end_all()
            self._wire.close()

    def _decref_socketios(self) -> None:
        # Called by the files of makefile().
        self._io_refs -= 1
        if self._closed:
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._io_refs > 0:
            return
        try:
            unsent = self._has_output()
            with self._lock:
                if self._established:
                    self.connector.close()
                else:
                    self.connector.abort()
            try:
                self._flush_for_close()
            except WantWriteError as error:
                if unsent:
                    message = "close() does not wait on a non-blocking socket, and data that was written before is lost: flush() first"
                    raise CloseTimeout(message) from error
            except TimeoutError as error:
                if unsent:
                    limit = self.connector.limits.close_flush_timeout
                    message = f"after close() the peer took nothing for {limit:g} s; data that was written before is lost"
                    raise CloseTimeout(message) from error
            except OSError:
                if unsent:
                    raise
            else:
                self._linger()
        finally:
            if self._reading.locked():
                # Closing alone would not wake up who waits in another thread.
                self._wire.end_all()
            self._wire.close()

    def _flush_for_close(self) -> None:
        """Sends all there is, as long as something moves."""
        patience = self.connector.limits.close_flush_timeout
        while True:
            before = len(self._chunk)
            try:
                self._flush(time.monotonic() + patience)
            except TimeoutError:
                if len(self._chunk) == before:
                    raise
            else:
                return

    def _part(self) -> None:
        """The connection has failed: the alert that says why leaves, if it can (FAULTS F29)."""
        try:
            self._flush_for_close()
        except OSError:
            pass

    def _linger(self) -> None:
        """Shuts the wire for writing and discards what still comes until the peer ends, too."""
        wire, connector = self._wire, self.connector
        if self._wire_ended or wire.waits_inside or connector.read_side is ReadSide.CLOSED:
            return
        if isinstance(connector.failure, ConnectionAborted | HandshakeTimeout):
            return
        end = time.monotonic() + (0 if wire.get_timeout() == 0 else LINGER_SECONDS)
        left = LINGER_BYTES
        try:
            wire.end_writing()
            while left > 0:
                got = wire.recv_into(self._receive_buffer())
                if got is None:
                    now = time.monotonic()
                    if now >= end or not wire.wait(True, False, end - now):
                        return
                elif not got:
                    return
                else:
                    left -= got
        except OSError:
            return

    def __enter__(self) -> TLSSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- facts that OpenSSL may be changing in another thread --------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """A client's session to resume with later, or None while there is none."""
        with self._lock:
            return super().session

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        with self._lock:
            return super().getpeercert(binary_form)

    def get_verified_chain(self) -> list[bytes]:
        with self._lock:
            return super().get_verified_chain()

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes:
        with self._lock:
            return super().get_channel_binding(cb_type)

    # -- what sockets have ---------------------------------------------------------------------------------------------------------

    #: A file on the connection, as ``socket.socket.makefile``. It keeps the connection open until it is closed, too.
    makefile: Callable[..., Any] = _socket.socket.makefile

    def pending(self) -> int:
        """More than 0 when ``recv`` has something without asking the wire: bytes of undecrypted ciphertext, so about as many."""
        if self._unread:
            return len(self._unread)
        connector = self.connector
        return connector.limits.receive_buffer - connector.receive_window if connector.read_status is _MORE else 0

    def gettimeout(self) -> float | None:
        """Seconds that a call may take; None: without end; 0: the socket is non-blocking."""
        return self._wire.get_timeout()

    def settimeout(self, value: float | None) -> None:
        """As for any socket."""
        self._wire.set_timeout(value)

    timeout = property(gettimeout)

    def getblocking(self) -> bool:
        """Whether calls wait."""
        return self._wire.get_timeout() != 0

    def setblocking(self, flag: bool) -> None:
        """As for any socket."""
        self._wire.set_timeout(None if flag else 0.0)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when it is closed."""
        return int(self._wire.sock.fileno())

    def getpeername(self) -> Any:
        """The peer's address."""
        return self._wire.sock.getpeername()

    def getsockname(self) -> Any:
        """This side's address."""
        return self._wire.sock.getsockname()

    def getsockopt(self, *arguments: int) -> Any:
        """An option of the socket."""
        return self._wire.sock.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """Sets an option of the socket."""
        self._wire.sock.setsockopt(*arguments)

    @property
    def family(self) -> int:
        """The socket's address family."""
        return self._wire.sock.family  # type: ignore[no-any-return]

    @property
    def type(self) -> int:
        """The socket's type."""
        return self._wire.sock.type  # type: ignore[no-any-return]

    @property
    def proto(self) -> int:
        """The socket's protocol."""
        return self._wire.sock.proto  # type: ignore[no-any-return]

    def _ensure_open(self) -> None:
        if self._closed and self._io_refs <= 0:
            raise OSError(errno.EBADF, "the socket is closed")

    @staticmethod
    def _check_flags(flags: int) -> None:
        if flags:
            raise ValueError(f"flags must be 0: TLS knows none (not {flags!r})")
