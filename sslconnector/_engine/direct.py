"""The fast twin: OpenSSL's functions, called on the caller's own memory.

A call through cffi costs about 50 ns and releases the GIL. ``bytes`` go in as they are; other buffers are pinned with ``from_buffer``
for the length of the call. What OpenSSL returns as a positive number needs no look at the error queue; only a failure does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..buffers import SCRATCH_SIZE, scratch, writable_view
from ..limits import MAX_PLAINTEXT
from .binding import clear_errors, ffi, lib, take_errors
from .engine import SLICE, SLOTS, Engine, EngineFailure, Outcome
from .lane import DirectLane

__all__ = ["DirectEngine", "DirectFlows"]

# Looked up once: each of these names would be a dictionary look-up for every record.
_SSL_read, _SSL_write, _SSL_pending, _SSL_want_read = lib.SSL_read, lib.SSL_write, lib.SSL_pending, lib.SSL_want_read
_BIO_read, _BIO_write, _BIO_get_mem_data = lib.BIO_read, lib.BIO_write, lib.BIO_get_mem_data
_peek_error, _clear_error = lib.ERR_peek_error, lib.ERR_clear_error
_from_buffer, _unpack, _buffer, _NULL = ffi.from_buffer, ffi.unpack, ffi.buffer, ffi.NULL
_CHARS = ffi.typeof("char[]")
_new_chars = ffi.new_allocator(should_clear_after_alloc=False)

_DATA = Outcome.DATA

# Room that encryption adds to a record at most: header, padding, nonce, tag of any cipher suite.
_OVERHEAD = 256


class _Scratch(threading.local):
    def __init__(self) -> None:
        # The memory itself: the collector may clear a view that is pinned, at the interpreter's end.
        self.chars = _from_buffer(_CHARS, scratch().obj, True)


_scratch = _Scratch()


class DirectFlows(Engine):
    """What the direct and the compiled twin share."""

    if not TYPE_CHECKING:
        __slots__ = ()

    @staticmethod
    def check_buffer(buffer: Any) -> int:
        return len(_pin(buffer))

    def _stopped(self) -> Outcome:
        """Why ``SSL_read`` gave nothing."""
        # The queue was empty before. It is asked first: "want read" can be left over from an earlier call.
        self.errors = take_errors()
        if not self.errors:
            if _SSL_want_read(self._ssl):
                return Outcome.USELESS
            if lib.SSL_get_shutdown(self._ssl) & lib.SSL_RECEIVED_SHUTDOWN:
                return Outcome.CLOSED
        return Outcome.FAILED

    def output_pending(self) -> int:
        return int(_BIO_get_mem_data(self._wbio, _NULL))

    def _room_for(self, size: int) -> int:
        """Bytes that the output can grow to when ``size`` bytes are encrypted into it."""
        return self.output_pending() + size + (size // MAX_PLAINTEXT + 2) * _OVERHEAD

    def drain_into(self, buffer: Any, offset: int) -> int:
        chars = _pin(buffer)
        return int(max(_BIO_read(self._wbio, chars + offset, len(chars) - offset), 0))


class DirectEngine(DirectFlows):
    """The data flows on the binding."""

    __slots__ = SLOTS

    name = "direct"
    lane_type = DirectLane

    def feed(self, data: bytes | memoryview, size: int) -> None:
        if type(data) is not bytes:
            data = _from_buffer(data)
        _BIO_write(self._rbio, data, size)

    def decrypt_into(self, buffer: Any, budget: int) -> int:
        try:
            chars = _from_buffer(_CHARS, buffer, True)
        except (TypeError, BufferError, ValueError):
            chars = _pin(buffer)
        size = len(chars) or len(_pin(buffer))
        return self._decrypt(chars, size, budget)

    def decrypt_bytes(self, size: int, budget: int) -> bytes:
        chars = _scratch.chars
        got = self._decrypt(chars, size, budget)
        return _unpack(chars, got) if got else b""  # type: ignore[no-any-return]

    def _decrypt(self, target: Any, size: int, budget: int) -> int:
        ssl = self._ssl
        left = self.records
        if left > budget:
            left = budget
        self.records -= left
        got: int = 0
        if _peek_error():
            _clear_error()
        while True:
            count: int = _SSL_read(ssl, target, size)
            left -= 1
            if count <= 0:
                self.records += left
                self.outcome = self._stopped()
                return got
            got += count
            if count == size:
                # A full buffer: the rest of the record, if there is one, comes with the next call.
                self.records += left + 1 if _SSL_pending(ssl) else left
                break
            if not left:
                break
            size -= count
            target += count
        self.outcome = _DATA
        return got

    def encrypt(self, data: bytes | memoryview, size: int) -> None:
        if type(data) is not bytes:
            data = _from_buffer(data)
        if _peek_error():
            _clear_error()
        if _SSL_write(self._ssl, data, size) != size:
            raise EngineFailure(take_errors())

    def encrypt_large(self, data: bytes | memoryview, size: int) -> memoryview:
        source = _from_buffer(_CHARS, data)
        ssl, wbio = self._ssl, self._wbio
        room = self._room_for(size)
        chunk = _new_chars(_CHARS, room)
        offset = filled = 0
        clear_errors()
        while offset < size:
            part = size - offset
            if part > SLICE:
                part = SLICE
            if _SSL_write(ssl, source + offset, part) != part:
                raise EngineFailure(take_errors())
            offset += part
            filled += _BIO_read(wbio, chunk + filled, room - filled)
        return memoryview(_buffer(chunk, filled))

    def drain(self) -> bytes:
        chars = _scratch.chars
        got = _BIO_read(self._wbio, chars, SCRATCH_SIZE)
        if got < SCRATCH_SIZE:
            return _unpack(chars, got) if got > 0 else b""  # type: ignore[no-any-return]
        pending = self.output_pending()
        rest = _new_chars(_CHARS, pending or 1)
        more = _BIO_read(self._wbio, rest, pending) if pending else 0
        return bytes(_unpack(chars, got) + _unpack(rest, max(more, 0)))


def _pin(buffer: Any) -> Any:
    """The caller's writable buffer as ``char[]``, or an error that says what is wrong with it."""
    return _from_buffer(_CHARS, writable_view(buffer), True)
