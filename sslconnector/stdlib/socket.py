"""``ssl.SSLSocket`` with the end that it lacks."""

from __future__ import annotations

import socket
import ssl

from .connection import SocketConnection

__all__ = ["SSLSocket"]


class SSLSocket(ssl.SSLSocket):
    """A socket with TLS on it, as ``SSLContext.wrap_socket`` gives it.

    ``close`` sends close_notify if the socket takes it at once, where ``ssl`` sends none; and after ``shutdown(SHUT_WR)`` reading goes on,
    where ``ssl`` hands out ciphertext.
    """

    def shutdown(self, how: int) -> None:
        self._checkClosed()  # type: ignore[attr-defined]
        if how != socket.SHUT_RD:
            self._say_goodbye()
        socket.socket.shutdown(self, how)

    def _real_close(self) -> None:
        self._say_goodbye()
        super()._real_close()  # type: ignore[misc]

    def _say_goodbye(self) -> None:
        connection = self._sslobj  # type: ignore[attr-defined]
        if isinstance(connection, SocketConnection):
            connection.say_goodbye()
