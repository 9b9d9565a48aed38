"""Plain sockets, blocking and non-blocking."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from sslconnector.sync import TLSSocket, WantReadError, WantWriteError, wrap_socket

from .base import TIMEOUT, Listener, Stream, World

__all__ = ["BlockingWorld", "NonBlockingWorld"]


class _SocketStream(Stream):
    def __init__(self, world: BlockingWorld, sock: Any) -> None:
        self.world, self.sock = world, sock
        world.streams.append(self)

    @property
    def connector(self) -> Any:  # type: ignore[override]
        return self.sock.connector

    def send(self, data: bytes) -> None:
        position = 0

        def send() -> int:
            return self.sock.send(memoryview(data)[position:])  # type: ignore[no-any-return]

        while position < len(data):
            position += self.world.wait(self.sock, send)

    def recv(self) -> bytes:
        return self.world.wait(self.sock, lambda: self.sock.recv(65536))  # type: ignore[no-any-return]

    def close_write(self) -> None:
        self.world.wait(self.sock, lambda: self.sock.shutdown(socket.SHUT_WR))

    def close(self) -> None:
        if isinstance(self.sock, TLSSocket) and self.sock.connector.failure is None:
            self.world.wait(self.sock, self.sock.flush)
        self.sock.close()

    def abort(self) -> None:
        if isinstance(self.sock, TLSSocket):
            self.sock.abort()
        else:
            self.sock.close()

    def start_tls(self, context: Any, **options: Any) -> None:
        self.sock = self.world.wrap(self.sock, context, **options)
        assert isinstance(self.sock, TLSSocket)


class _SocketListener(Listener):
    def __init__(self, world: BlockingWorld, context: Any, timeout: float | None) -> None:
        super().__init__()
        self.world, self.context, self.timeout = world, context, timeout
        self.server = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port = self.server.getsockname()[1]
        self.acceptor = threading.Thread(target=self._serve, daemon=True)
        self.acceptor.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._shake, args=(sock,), daemon=True).start()

    def _shake(self, sock: Any) -> None:
        if self.context is not None:
            try:
                sock = self.world.wrap(sock, self.context, timeout=self.timeout)
            except OSError:
                return
        self.accepted.put(_SocketStream(self.world, sock))

    def close(self) -> None:
        # Closing alone does not wake up accept().
        self.server.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(TIMEOUT)
        self.server.close()


class BlockingWorld(World):
    def wrap(self, sock: Any, context: Any, *, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """With TLS; ``timeout`` is the handshake's."""
        sock.settimeout(timeout or TIMEOUT)
        sock = wrap_socket(sock, context, server_hostname=server_hostname)
        sock.settimeout(TIMEOUT)
        return sock

    def wait(self, sock: Any, call: Callable[[], Any]) -> Any:
        return call()

    def connect(self, port: int, context: Any, *, server_hostname: str | None = "localhost", timeout: float | None = None) -> Stream:
        sock: Any = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        if context is not None:
            sock = self.wrap(sock, context, server_hostname=server_hostname, timeout=timeout)
        return _SocketStream(self, sock)

    def listen(self, context: Any, *, timeout: float | None = None) -> Listener:
        return _SocketListener(self, context, timeout)


class NonBlockingWorld(BlockingWorld):
    def wrap(self, sock: Any, context: Any, *, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        sock.settimeout(0)
        sock = wrap_socket(sock, context, server_hostname=server_hostname)
        try:
            self.wait(sock, sock.do_handshake, timeout or TIMEOUT)
        except BaseException:
            sock.close()
            raise
        return sock

    def wait(self, sock: Any, call: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
        while True:
            try:
                return call()
            except (WantReadError, BlockingIOError) as error:
                read = [] if isinstance(error, WantWriteError) else [sock]
                ready = select.select(read, [] if read and not sock.waits_for & 2 else [sock], [], timeout)
                if not any(ready):
                    raise TimeoutError("nothing happened") from None
