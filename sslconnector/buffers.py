"""Memory that calls borrow for a moment.

One scratch buffer a thread, made when the thread first needs it: whoever decrypts "into bytes" decrypts into it and copies what came.
It is borrowed for the length of one call; what it holds between calls means nothing. Per thread and not global, because OpenSSL's calls run
without the GIL.
"""

from __future__ import annotations

import threading

__all__ = ["SCRATCH_SIZE", "byte_view", "scratch", "writable_view"]

#: bytes of a thread's scratch buffer: the plaintext of four whole records
SCRATCH_SIZE = 65536


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(SCRATCH_SIZE))


_scratch = _Scratch()


def scratch() -> memoryview:
    """This thread's scratch buffer, writable, ``SCRATCH_SIZE`` bytes, valid until the caller's call returns."""
    return _scratch.view


def byte_view(data: object, name: str = "data") -> bytes | memoryview:
    """``data`` as something flat whose items are single bytes; nothing is copied.

    :raises TypeError: when it is text or has no contiguous buffer; the message names the argument.
    """
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        raise TypeError(f"{name} must be bytes-like, not str: encode the text first, for instance {name}.encode()")
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be bytes-like (bytes, bytearray, memoryview), not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise TypeError(f"{name} must be a contiguous buffer; copy it with bytes() first")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def writable_view(buffer: object) -> memoryview:
    """``buffer`` as a flat writable view of bytes; nothing is copied.

    :raises TypeError: when it cannot be written to.
    :raises ValueError: when it has no room.
    """
    view = byte_view(buffer, "buffer")
    if isinstance(view, bytes) or view.readonly:
        raise TypeError("buffer must be writable (bytearray, writable memoryview): bytes cannot be changed")
    if not view:
        raise ValueError("buffer must have room for at least one byte")
    return view
