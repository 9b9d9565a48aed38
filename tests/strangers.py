"""Peers that are not ours: Python's ``ssl`` over a plain socket, with a hand on every segment that leaves."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from .helpers import PKI

__all__ = ["Stranger", "serving", "stranger_context"]

_TIMEOUT = 30


def stranger_context(pki: PKI, *, server: bool, version: str | None = None, client_certificate: Any = None) -> ssl.SSLContext:
    """A context of the ``ssl`` module that trusts our CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if server:
        pki.server_cert.configure_cert(context)
    else:
        pki.ca.configure_trust(context)
        if client_certificate is not None:
            client_certificate.configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[version]
    return context


class Stranger:
    """A TLS peer. What it says is kept until ``flush``, and leaves in one segment then."""

    def __init__(self, sock: Any, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        self.sock = sock
        if isinstance(sock, socket.socket):
            sock.settimeout(_TIMEOUT)
            if sock.family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, None if server_side else "localhost")

    #: those that a test made with ``connect`` and has not closed
    open: ClassVar[list[Stranger]] = []

    @classmethod
    def connect(cls, port: int, context: ssl.SSLContext) -> Stranger:
        made = cls(socket.create_connection(("127.0.0.1", port), _TIMEOUT), context)
        cls.open.append(made)
        return made

    @classmethod
    def close_all(cls) -> None:
        while cls.open:
            cls.open.pop().close()

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()

    def fill(self) -> bool:
        """More from the socket; False at its end."""
        data = self.sock.recv(65536)
        self.incoming.write(data) if data else self.incoming.write_eof()
        return bool(data)

    def shake(self, *, flush: bool = True) -> Stranger:
        """The handshake; without ``flush`` its last flight stays here, to leave together with what comes next."""
        self._do(self.tls.do_handshake)
        if flush:
            self.flush()
        return self

    def say(self, data: bytes | memoryview) -> Stranger:
        view = memoryview(data)
        while view:
            view = view[self._do(self.tls.write, view) :]
        return self

    def close_notify(self) -> Stranger:
        try:
            self.tls.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            pass
        return self

    def hear(self, size: int = 65536) -> bytes:
        """Some bytes; empty after close_notify."""
        try:
            return self._do(self.tls.read, size)  # type: ignore[no-any-return]
        except ssl.SSLZeroReturnError:
            return b""

    def hear_all(self) -> bytes:
        parts = []
        while data := self.hear():
            parts.append(data)
        return b"".join(parts)

    def hear_exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            parts += self.hear() or b""
        return bytes(parts)

    def end_wire(self) -> None:
        """FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listening socket whose connections are handled in threads. Gives the port; what a handler raises fails the test."""
    problems: list[BaseException] = []
    threads: list[threading.Thread] = []
    server = socket.create_server(("127.0.0.1", 0), backlog=1000)

    def run(sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(_TIMEOUT)
                handle(sock)
        except BaseException as error:
            problems.append(error)

    def accept() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=run, args=(sock,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join(_TIMEOUT)
        for thread in threads:
            thread.join(_TIMEOUT)
    assert problems == []
