"""The turn of a connection over a socket: recv, decrypt, hand to the application, encrypt what it writes, send.

A lane does the turns that have nothing special: the handshake is done, nothing is closing, paused or held back, and the application takes
bytes. The adapter lends it the connection, and takes it back before it does anything itself; the lane gives it back of its own accord at
the first thing that is not plain data. So no rule of TLS is in here, only the shortest way.

``_lane.c`` does the same in C; what is said here holds there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..buffers import scratch
from ..limits import MAX_PLAINTEXT, MAX_RECORD, MOST_UNSENT, READS_PER_TURN
from ..records import RecordWalker
from .binding import ffi, lib
from .engine import SLICE, Engine, Outcome

__all__ = ["DirectLane"]

_SSL_read, _SSL_write, _SSL_pending, _BIO_read, _BIO_write = lib.SSL_read, lib.SSL_write, lib.SSL_pending, lib.BIO_read, lib.BIO_write
_peek_error, _clear_error = lib.ERR_peek_error, lib.ERR_clear_error
_unpack = ffi.unpack

_DATA = Outcome.DATA

# What makes OpenSSL's buffers worth shrinking later (F34).
_SMALL = 1024
_WIRE_SIZE = 4 * MAX_RECORD

Border = tuple[bytes, int, int]
Counts = tuple[int, int, int, int, int, int]


class _Buffers(threading.local):
    """The memory of all lanes of a thread: empty again before another turn."""

    def __init__(self) -> None:
        memory = bytearray(_WIRE_SIZE)
        self.wire = memoryview(memory)
        # The memory is pinned, not a view of it: the collector may clear a view that is pinned, at the interpreter's end.
        self.wire_chars = ffi.from_buffer("char[]", memory, True)
        self.plain_chars = ffi.from_buffer("char[]", scratch().obj, True)


_buffers = _Buffers()


class DirectLane:
    """A lane on the binding.

    :param sock: the socket; it stays the wire's.
    :param wire: has ``readable()``, ``writable()``, ``ended()``, ``lost(error)`` and ``enqueue(data)``.
    :param protocol: has the ``lane_...`` methods of ``TLSProtocol``.
    :param slow_write: the transport's ``write`` for all other times.
    """

    __slots__ = (
        "_chars",
        "_counts",
        "_deliver",
        "_engine",
        "_get_buffer",
        "_plain",
        "_protocol",
        "_read",
        "_received",
        "_records_left",
        "_records_per_read",
        "_records_read",
        "_records_written",
        "_recv_into",
        "_send",
        "_sent",
        "_slow_write",
        "_small",
        "_unsent",
        "_view",
        "_walker",
        "_window",
        "_wire",
        "_written",
        "in_turn",
        "lent",
        "patient",
        "queued",
    )

    def __init__(self, sock: Any, wire: Any, protocol: Any, slow_write: Callable[[Any], None]) -> None:
        self._recv_into, self._send = sock.recv_into, sock.send
        self._wire, self._protocol, self._slow_write = wire, protocol, slow_write
        self._view, self._chars, self._plain = _buffers.wire, _buffers.wire_chars, _buffers.plain_chars
        self._walker = RecordWalker()
        self._engine: Any = None
        self._deliver: Callable[[Any], Any] | None = None
        self._get_buffer: Callable[[int], Any] | None = None
        self._received = self._sent = self._read = self._written = self._records_read = self._records_written = 0
        self._unsent = 0
        #: whether the connection is lent; whether a turn of the lane's is running
        self.lent = False
        self.in_turn = False
        #: whether it was not lent yet: its handshake lets the data of others pass
        self.patient = True
        #: whether the wire has something queued: then nothing may be sent past it
        self.queued = False

    def lend(
        self,
        engine: Engine,
        deliver: Callable[[Any], Any],
        get_buffer: Callable[[int], Any] | None,
        border: Border,
        records_per_read: int,
        window: int,
        records_left: int,
        small: bool,
    ) -> None:
        """The plain turns are the lane's.

        :param deliver, get_buffer: the application's calls: ``data_received``, or ``buffer_updated`` and ``get_buffer``.
        :param border: where in a record the stream stands.
        :param window: bytes of ciphertext that may be held.
        :param records_left: after so many records the connection is given back.
        :param small: whether ``lane_grown`` is to be called when more than a little is moved.
        """
        self._engine, self._deliver, self._get_buffer = engine, deliver, get_buffer
        self._walker.border = border
        self._records_per_read, self._window, self._records_left = records_per_read, min(window, _WIRE_SIZE), records_left
        self._small = small
        self._unsent = 0
        self.patient = False
        self.lent = True

    def counts(self) -> Counts:
        """Since ``lend``: ciphertext received and sent, plaintext read and written, in bytes; records read and written."""
        return self._received, self._sent, self._read, self._written, self._records_read, self._records_written

    def take_back(self) -> tuple[Counts, Border]:
        """The lane does nothing of its own any more: what it did, and where in a record the stream stands."""
        counts = self.counts()
        self.lent = False
        self._received = self._sent = self._read = self._written = self._records_read = self._records_written = 0
        return counts, self._walker.border

    def close(self) -> None:
        """The socket is gone; refers to nothing any more."""
        self.lent = False
        self._engine = self._deliver = self._get_buffer = self._wire = self._protocol = None
        self._recv_into = self._send = self._slow_write = _nothing

    # -- in ------------------------------------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """What the loop calls."""
        if not self.lent:
            if self._wire is not None:
                self._wire.readable()
            return
        walker, view = self._walker, self._view
        window = self._window
        if walker.inside:
            window -= walker.tail
        try:
            size = self._recv_into(view, window)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._wire.lost(error)
            return
        if not size:
            self._wire.ended()
            return
        engine = self._engine
        self._received += size
        # A whole record, as it mostly comes, needs no walk.
        if walker.inside or size < 5 or (view[3] << 8 | view[4]) + 5 != size:
            engine.records += walker.walk(view[:size])
        else:
            engine.records += 1
        _BIO_write(engine._rbio, self._chars, size)
        going = True
        reads = 0
        self.in_turn = True
        try:
            while engine.records and self.lent and going:
                going = reads < READS_PER_TURN and self._read_once(engine)
                reads += 1
        finally:
            self.in_turn = False
        if going and self.lent:
            if self._unsent:
                self._flush()
            if size > _SMALL or self._records_read >= self._records_left or self._records_written >= self._records_left:
                self._settle(size)
        elif self._protocol is not None:
            self._protocol.lane_left()

    def _read_once(self, engine: Any) -> bool:
        """One read and its delivery. False: the rest of the turn is not for the lane."""
        data: Any
        before = engine.records
        get_buffer, deliver = self._get_buffer, self._deliver
        if get_buffer is not None:
            try:
                buffer = get_buffer(-1)
            except BaseException as error:
                self._protocol.lane_raised(error)
                return False
            if not self.lent:
                # The call closed or paused it.
                return False
            try:
                data = got = engine.decrypt_into(buffer, self._records_per_read)
            except (TypeError, ValueError):
                # The slow way asks again, and says what is wrong with it.
                return False
        elif before == 1:
            chars = self._plain
            if _peek_error():
                _clear_error()
            got = _SSL_read(engine._ssl, chars, SLICE)
            engine.records = 0
            if got > 0:
                engine.outcome = _DATA
                data = _unpack(chars, got)
            else:
                got, data, engine.outcome = 0, b"", engine._stopped()
        else:
            data = engine.decrypt_bytes(SLICE, self._records_per_read)
            got = len(data)
        if engine.outcome is not _DATA:
            self._protocol.lane_stopped((data, got, before, get_buffer is not None))
            return False
        self._read += got
        self._records_read += before - engine.records
        try:
            deliver(data)  # type: ignore[misc]
        except BaseException as error:
            self._protocol.lane_raised(error)
            return False
        return True

    # -- out -----------------------------------------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """The transport's ``write``."""
        if not self.lent or type(data) is not bytes:
            self._slow_write(data)
            return
        size = len(data)
        if not 0 < size <= SLICE:
            self._slow_write(data)
            return
        if _peek_error():
            _clear_error()
        if _SSL_write(self._engine._ssl, data, size) != size:
            self._protocol.lane_write_failed()
            return
        self._written += size
        self._records_written += (size + MAX_PLAINTEXT - 1) // MAX_PLAINTEXT
        self._unsent += size
        if not self.in_turn:
            self._flush()
            self._settle(size)
        elif self._unsent > MOST_UNSENT:
            self._flush()

    def _flush(self) -> None:
        self._unsent = 0
        wbio, chars, view = self._engine._wbio, self._chars, self._view
        while (got := _BIO_read(wbio, chars, _WIRE_SIZE)) > 0:
            self._sent += got
            sent = 0
            if not self.queued:
                try:
                    sent = self._send(view[:got])
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as error:
                    self._wire.lost(error)
                    return
            if sent < got:
                self._wire.enqueue(bytes(view[sent:got]))
                if not self.lent:
                    return
            if got < _WIRE_SIZE:
                return

    def _settle(self, largest: int) -> None:
        if largest > _SMALL and self._small and self.lent:
            self._small = False
            self._protocol.lane_grown()
        if self.lent and (self._records_read >= self._records_left or self._records_written >= self._records_left):
            self._protocol.lane_left()

    def writable(self) -> None:
        """What the loop calls; the queue is the wire's."""
        if self._wire is not None:
            self._wire.writable()


def _nothing(*_: Any) -> None:
    """What a closed lane's calls do."""
