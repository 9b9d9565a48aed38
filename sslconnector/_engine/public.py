"""The plain twin: the data flows through pyOpenSSL's public methods alone.

Slower, since every method checks, copies and raises an exception for "nothing yet"; there for the day when the binding moves, and as the
measure that the fast twin is tested against.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from ..buffers import scratch, writable_view
from .binding import OpenSSLError, clear_errors
from .engine import SLICE, SLOTS, Engine, EngineFailure, Outcome

__all__ = ["PublicEngine"]

_PART = 65536


class PublicEngine(Engine):
    """The data flows on ``SSL.Connection``."""

    __slots__ = (*SLOTS, "_output")

    name = "public"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # There is no public way to ask a BIO for its size, so whoever asks drains it into here.
        self._output = b""

    def feed(self, data: bytes | memoryview, size: int) -> None:
        if size:
            self._connection.bio_write(data)

    @staticmethod
    def check_buffer(buffer: Any) -> int:
        return len(writable_view(buffer))

    def decrypt_into(self, buffer: Any, budget: int) -> int:
        return self._decrypt(writable_view(buffer), budget)

    def decrypt_bytes(self, size: int, budget: int) -> bytes:
        view = scratch()[:size]
        return bytes(view[: self._decrypt(view, budget)])

    def _decrypt(self, view: memoryview, budget: int) -> int:
        got, size = 0, len(view)
        self.outcome = Outcome.DATA
        while self.records and budget and got < size and self.outcome is Outcome.DATA:
            budget -= 1
            clear_errors()
            try:
                got += self._connection.recv_into(view[got:])
            except SSL.WantReadError:
                self.outcome = Outcome.USELESS
            except SSL.ZeroReturnError:
                self.outcome = Outcome.CLOSED
            except SSL.Error as error:
                self.outcome, self.errors = Outcome.FAILED, _take_errors(error)
            if not self._connection.pending():
                self.records -= 1
        clear_errors()
        return got

    def encrypt(self, data: bytes | memoryview, size: int) -> None:
        clear_errors()
        try:
            self._connection.send(data)
        except SSL.Error as error:
            raise EngineFailure(_take_errors(error)) from None

    def encrypt_large(self, data: bytes | memoryview, size: int) -> memoryview:
        view = memoryview(data)
        parts = [self.drain()]
        for offset in range(0, size, SLICE):
            self.encrypt(view[offset : offset + SLICE], SLICE)
            parts.append(self.drain())
        return memoryview(b"".join(parts))

    def output_pending(self) -> int:
        self._output = self.drain()
        return len(self._output)

    def drain(self) -> bytes:
        parts, self._output = [self._output], b""
        clear_errors()
        try:
            while True:
                parts.append(self._connection.bio_read(_PART))
        except SSL.WantReadError:
            return b"".join(parts)

    def drain_into(self, buffer: Any, offset: int) -> int:
        view = writable_view(buffer)[offset:]
        data = self.drain()
        size = min(len(view), len(data))
        view[:size] = data[:size]
        self._output = data[size:]
        return size


def _take_errors(error: SSL.Error) -> list[OpenSSLError]:
    """What pyOpenSSL took from the error queue to raise ``error``; the queue is left empty."""
    clear_errors()
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return [OpenSSLError(library, reason) for library, _function, reason in entries]
