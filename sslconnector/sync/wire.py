"""What carries the ciphertext, and how one waits for it.

A real socket is set to non-blocking for as long as it is wrapped, and waiting is a ``poll`` with the next deadline. Otherwise a time-out
could not bound a whole call (each ``recv`` inside would begin anew), the connector's own deadlines would have to wait for the peer, and
two threads would share one time-out. Any other object is simply called, and waits or raises by its own rules.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Any, Protocol

from ..errors import HandshakeInterrupted

__all__ = ["ObjectWire", "SocketLike", "SocketWire", "WantReadError", "WantWriteError", "Wire", "wire_for"]


class WantReadError(ssl.SSLWantReadError, BlockingIOError):
    """A call on a non-blocking socket cannot go on before there is something to read. Nothing was lost: call again then."""


class WantWriteError(ssl.SSLWantWriteError, BlockingIOError):
    """A call on a non-blocking socket cannot go on before it can be written to. Nothing was taken: call again then, with whatever data."""


class SocketLike(Protocol):
    """The least that can be wrapped. ``close``, ``settimeout``, ``gettimeout`` and ``fileno`` are used where they are there."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Some bytes into ``buffer``; 0 at the end."""

    def send(self, data: memoryview, /) -> int:
        """How many bytes of ``data`` were taken."""


_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """What :class:`TLSSocket` asks of either kind."""

    #: Whether several connections of one thread may share a receive buffer: not while one of them waits in ``recv_into``.
    waits_inside = True

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def recv_into(self, buffer: memoryview) -> int | None:
        """The number of bytes received, 0 at the end, None when there is nothing yet."""
        try:
            return int(self.sock.recv_into(buffer))
        except _WOULD_BLOCK:
            return None

    def send(self, data: memoryview) -> int | None:
        """The number of bytes taken, None when none can be taken yet."""
        try:
            return int(self.sock.send(data))
        except _WOULD_BLOCK:
            return None

    def wait(self, read: bool, write: bool, seconds: float | None) -> bool:
        """Waits until it can be read from or written to, for so many seconds (None: without end). False: not yet."""
        raise NotImplementedError

    def get_timeout(self) -> float | None:
        """Seconds a call may take; None: as long as it wants; 0: it does not wait."""
        raise NotImplementedError

    def set_timeout(self, seconds: float | None) -> None:
        """Another time-out."""
        raise NotImplementedError

    def end_writing(self) -> None:
        """Tells the peer that nothing more comes, on the level below TLS."""

    def end_all(self) -> None:
        """The same, and nothing more is read; whoever waits for it in another thread wakes up."""

    def release(self) -> Any:
        """Gives the object back as it was."""
        return self.sock

    def close(self) -> None:
        """Closes it."""
        close = getattr(self.sock, "close", None)
        if close is not None:
            close()


class SocketWire(Wire):
    """A socket of the operating system."""

    waits_inside = False

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        try:
            sock.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            sock.close()
            raise HandshakeInterrupted(
                "the socket is not connected: the peer has reset it, or connect() or accept() did not come first"
            ) from None
        self._timeout = sock.gettimeout()
        sock.setblocking(False)

    def wait(self, read: bool, write: bool, seconds: float | None) -> bool:
        descriptor = self.sock.fileno()
        if descriptor < 0:
            raise OSError("the socket was closed while a call waited for it")
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(descriptor, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
            return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000 + 0.999))))
        ready = select.select([descriptor] if read else [], [descriptor] if write else [], [], seconds)
        return any(ready)

    def get_timeout(self) -> float | None:
        return self._timeout

    def set_timeout(self, seconds: float | None) -> None:
        if seconds is not None:
            seconds = float(seconds)
            if not seconds >= 0:
                raise ValueError(f"a timeout must be None or at least 0 seconds, not {seconds}")
        self._timeout = seconds

    def end_writing(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def end_all(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def release(self) -> socket.socket:
        sock: socket.socket = self.sock
        sock.settimeout(self._timeout)
        return sock


class ObjectWire(Wire):
    """Anything else."""

    def wait(self, read: bool, write: bool, seconds: float | None) -> bool:
        return True

    def get_timeout(self) -> float | None:
        # An object that says "not yet" says so instead of waiting: for us it does not block.
        get = getattr(self.sock, "gettimeout", None)
        return None if get is None else get()  # type: ignore[no-any-return]

    def set_timeout(self, seconds: float | None) -> None:
        set_timeout = getattr(self.sock, "settimeout", None)
        if set_timeout is None:
            raise TypeError(f"a {type(self.sock).__name__} has no settimeout()")
        set_timeout(seconds)


def wire_for(sock: Any) -> Wire:
    """The wire for what somebody wants to wrap.

    :raises TypeError: when it cannot carry bytes.
    """
    if isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket):
        if sock.type != socket.SOCK_STREAM:
            raise TypeError(f"TLS needs a stream socket (SOCK_STREAM), not {sock.type!r}")
        return SocketWire(sock)
    for name in ("recv_into", "send"):
        if not callable(getattr(sock, name, None)):
            raise TypeError(f"sock must be a socket, or have recv_into() and send(); {type(sock).__name__} has no {name}()")
    return ObjectWire(sock)
