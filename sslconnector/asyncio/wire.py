"""A socket as the wire: what the loop's own socket transport does, without the loop between.

Being our own it reads into and sends from the connector directly, and the receive buffer is shared by all connections of the loop. The
protocol that it calls is a :class:`TLSProtocol`, or another of its kind: a buffered one.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import socket
import sys
import warnings
from asyncio import transports, trsock
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .poller import READ, WRITE, poller_of

if TYPE_CHECKING:
    from .protocol import TLSProtocol
    from .transport import TLSTransport

__all__ = ["SocketServer", "SocketWire", "has_sockets", "take_over"]

# Buffers in one vectored send: no system has a smaller IOV_MAX.
_VECTOR = 16
# When there are no descriptors or no memory for another connection, it waits in the backlog for so many seconds.
_EXHAUSTED_SECONDS = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def has_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop watches descriptors. A proactor (Windows) does not; there its own transports are the wires."""
    return not hasattr(loop, "_proactor")


class SocketWire(transports._FlowControlMixin, asyncio.Transport):
    """A transport over a connected non-blocking stream socket, which it owns from now on.

    What is written belongs to the wire: it keeps what the socket does not take at once, without a copy.
    """

    patient = False

    if TYPE_CHECKING:
        # The mixin's; typeshed does not know it.
        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: TLSProtocol,
        peername: Any = None,
        server: SocketServer | None = None,
    ) -> None:
        super().__init__(None, loop)
        self._loop = loop
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._server = server
        self._peername = peername
        self._sockname: Any = None
        # Made when it is needed: an empty one takes 700 bytes.
        self._queue: deque[memoryview] | None = None
        self._queued = 0
        self._closing = False
        self._ended = False
        self._eof_wanted = False
        self._paused = False
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poller = poller_of(loop)
        self._mask = READ
        self._lane = protocol.lane_for(self, sock)
        self._poller.watch(self._fd, self._lane or self, READ)
        protocol.connection_made(self)
        # What a server closes is the TLS connection.
        self._counted = protocol.transport
        if server is not None and self._counted is not None:
            server.attach(self._counted)

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else "closing" if self._closing else "open"
        return f"<SocketWire fd={self._fd}: {state}, {self._queued} bytes queued>"

    def __del__(self) -> None:
        if self._sock is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._sock.close()

    def _note_queued(self, queued: bool) -> None:
        if self._lane is not None:
            self._lane.queued = queued

    def _watch_for(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._poller.change(self._fd, mask)

    # -- in ------------------------------------------------------------------------------------------------------------------------

    def readable(self) -> None:
        sock, protocol = self._sock, self._protocol
        if sock is None or self._closing or self._paused:
            return
        try:
            count = sock.recv_into(protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.lost(error)
            return
        if count:
            protocol.buffer_updated(count)
        else:
            self.ended()

    def ended(self) -> None:
        """The peer's end was read."""
        self._ended = True
        self._watch_for(self._mask & ~READ)
        if not self._protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self._watch_for(self._mask & ~READ)

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            if not self._ended:
                self._watch_for(self._mask | READ)

    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    # -- out -----------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        sock = self._sock
        if sock is None or not data:
            return
        if not self._queued:
            try:
                sent = sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self.lost(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self.enqueue(data)

    def enqueue(self, data: bytes | bytearray | memoryview) -> None:
        """Keeps what the socket does not take now."""
        if self._sock is None:
            return
        if not self._queued:
            self._note_queued(True)
            self._watch_for(self._mask | WRITE)
        if self._queue is None:
            self._queue = deque()
        self._queue.append(memoryview(data))
        self._queued += len(data)
        self._maybe_pause_protocol()

    def writable(self) -> None:
        sock, queue = self._sock, self._queue
        if sock is None or not queue:
            return
        try:
            sent = sock.send(queue[0]) if len(queue) == 1 else sock.sendmsg(itertools.islice(queue, _VECTOR))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.lost(error)
            return
        self._queued -= sent
        if not self._queued:
            self._queue = None
            self._note_queued(False)
        while sent:
            first = queue.popleft()
            if sent < len(first):
                queue.appendleft(first[sent:])
                break
            sent -= len(first)
        self._maybe_resume_protocol()
        if not self._queued and self._sock is not None:
            self._watch_for(self._mask & ~WRITE)
            if self._closing:
                self._loop.call_soon(self._finish, None)
            elif self._eof_wanted:
                self._shut_down(sock)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._closing and not self._eof_wanted and self._sock is not None:
            self._eof_wanted = True
            if not self._queued:
                self._shut_down(self._sock)

    def _shut_down(self, sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.lost(error)

    def get_write_buffer_size(self) -> int:
        return self._queued

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sends what is queued, then closes."""
        if not self._closing:
            self._closing = True
            self._watch_for(self._mask & ~READ)
            if not self._queued:
                self._loop.call_soon(self._finish, None)

    def abort(self) -> None:
        """Closes at once."""
        self.lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def lost(self, error: OSError | None) -> None:
        """Closes at once, because of an error if there is one."""
        if self._sock is None:
            return
        if self._queued:
            self._queue = None
            self._queued = 0
        elif self._closing:
            # The end is scheduled already.
            return
        self._closing = True
        self._watch_for(0)
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: OSError | None) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        try:
            self._protocol.connection_lost(error)
        finally:
            # A name that is asked for only now is still known.
            self._own_name(sock)
            self._poller.forget(self._fd)
            if self._lane is not None:
                self._lane.close()
                self._lane = None
            sock.close()
            server, self._server = self._server, None
            if server is not None and self._counted is not None:
                server.detach(self._counted)
            self._counted = None
            self._protocol = None  # type: ignore[assignment]

    # -- facts ---------------------------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise NotImplementedError("what belongs to a TLS connection stays with it")

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sockname":
            return self._own_name(self._sock) or default
        if name == "peername":
            if self._peername is None and self._sock is not None:
                try:
                    self._peername = self._sock.getpeername()
                except OSError:
                    pass
            return self._peername or default
        if name == "socket" and self._sock is not None:
            return trsock.TransportSocket(self._sock)
        return default

    def _own_name(self, sock: socket.socket | None) -> Any:
        if self._sockname is None and sock is not None:
            self._sockname = sock.getsockname()
        return self._sockname


class _TakeOver(asyncio.Protocol):
    """Gets a connection that the loop has opened, and hands its socket on: the loop's transport never reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: TLSProtocol) -> None:
        self._loop = loop
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket").dup()
        sock.setblocking(False)
        # Closes the loop's descriptor; ours keeps the connection.
        transport.abort()  # type: ignore[attr-defined]
        SocketWire(self._loop, sock, self._protocol)


def take_over(loop: asyncio.AbstractEventLoop, protocol: TLSProtocol) -> asyncio.BaseProtocol:
    """What to give to the loop's ``create_connection``, so that ``protocol`` gets a wire of ours, if the loop can have it."""
    return _TakeOver(loop, protocol) if has_sockets(loop) else protocol


class _Listener:
    """One listening socket of a server."""

    patient = True

    def __init__(self, server: SocketServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._poller = poller_of(server.get_loop())
        sock.setblocking(False)
        sock.listen(server.backlog)
        self._poller.watch(sock.fileno(), self, READ)

    def readable(self) -> None:
        # One: those that are there come first.
        loop = self._server.get_loop()
        try:
            sock, address = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            message = f"no resources to accept a connection; trying again in {_EXHAUSTED_SECONDS:g} s"
            loop.call_exception_handler({"message": message, "exception": error, "socket": trsock.TransportSocket(self._sock)})
            self._poller.change(self._sock.fileno(), 0)
            loop.call_later(_EXHAUSTED_SECONDS, self._go_on)
            return
        try:
            sock.setblocking(False)
            SocketWire(loop, sock, self._server.make_protocol(), address or None, self._server)
        except Exception as error:
            loop.call_exception_handler({"message": "an accepted connection was given up", "exception": error})
            sock.close()

    def writable(self) -> None:
        """Never watched for."""

    def _go_on(self) -> None:
        if self._sock.fileno() >= 0:
            self._poller.change(self._sock.fileno(), READ)

    def close(self) -> None:
        self._poller.forget(self._sock.fileno())
        self._sock.close()


class SocketServer(asyncio.Server):
    """Accepts connections from the sockets that the loop's own server has bound.

    :param below: the loop's server, not serving; closed with this one.
    :param make_protocol: makes the wire's protocol for each connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        below: asyncio.AbstractServer,
        make_protocol: Callable[[], TLSProtocol],
        backlog: int,
    ) -> None:
        bound = [sock.dup() for sock in below.sockets]  # type: ignore[attr-defined]
        super().__init__(loop, bound, make_protocol, None, backlog, None, None)  # type: ignore[call-arg]
        self.backlog = backlog
        self.make_protocol = make_protocol
        self._below: asyncio.AbstractServer = below
        self._bound: list[socket.socket] = bound
        self._listeners: list[_Listener] = []

    def attach(self, transport: TLSTransport) -> None:
        """An open connection: ``wait_closed`` waits for it as the Python at hand does."""
        self._attach(*_if_told(transport))  # type: ignore[attr-defined]

    def detach(self, transport: TLSTransport) -> None:
        """It is closed."""
        self._detach(*_if_told(transport))  # type: ignore[attr-defined]

    def _start_serving(self) -> None:
        # Called by start_serving() and serve_forever().
        if not self._listeners:
            self._serving = True
            self._listeners = [_Listener(self, sock) for sock in self._bound]

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for sock in self._bound:
            sock.close()
        if self._bound:
            # The base class would stop the loop's serving of them, but the loop knows nothing of ours.
            self._sockets: list[socket.socket] | None = []
        self._listeners, self._bound = [], []
        self._below.close()
        super().close()


def _if_told(transport: TLSTransport) -> tuple[TLSTransport, ...]:
    return (transport,) if sys.version_info >= (3, 13) else ()
