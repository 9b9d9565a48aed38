"""The transport that an application's protocol gets."""

from __future__ import annotations

import asyncio
from asyncio import constants, transports
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..buffers import byte_view
from ..errors import TLSError
from ..ssl_object import SSLObject

if TYPE_CHECKING:
    from .protocol import TLSProtocol

__all__ = ["TLSTransport"]


class TLSTransport(transports._FlowControlMixin, asyncio.Transport):
    """An ``asyncio.Transport`` over a connector.

    Other than asyncio's own TLS transport it has a real ``write_eof`` (close_notify; reading goes on), and tells a cut connection from
    a closed one: ``connection_lost`` gets a :class:`~sslconnector.TruncationError`.
    """

    # What the loop's own start_tls() and sendfile() ask of a transport; the mixin is asked for by the latter, too.
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, protocol: TLSProtocol) -> None:
        super().__init__(None, protocol.loop)
        self._protocol = protocol
        self._connector = protocol.connector
        #: The transport below, kept for what it knows of the connection.
        self.wire: asyncio.Transport | None = None
        self._is_closing = False
        self._lost = False

    def __repr__(self) -> str:
        return f"<TLSTransport {self._connector!r}>"

    # -- writing -------------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts all of ``data`` now. After the connection was lost it is dropped, as by any transport.

        :raises ApiMisuse: after ``write_eof()``; it is a ``RuntimeError``.
        :raises TypeError: when it is not bytes-like.
        """
        if self._lost or self._is_closing:
            byte_view(data)
            return
        try:
            self._connector.write(data)
        except TLSError:
            # The connection broke meanwhile: connection_lost() tells. Anything else is the caller's mistake.
            if self._connector.failure is None:
                raise
            return
        self._protocol.wrote(len(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """The concatenation of all, in one go."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Half-close: the peer learns that nothing more comes; reading goes on. Nothing happens the second time."""
        if not self._lost and not self._is_closing:
            self._connector.close_write()
            self._protocol.wrote(0)

    def can_write_eof(self) -> bool:
        """True: TLS has its own way to say it."""
        return True

    def get_write_buffer_size(self) -> int:
        """Bytes that have not reached the operating system: ciphertext here and in the wire's transport."""
        wire = self._protocol.wire
        below = wire.get_write_buffer_size() if wire is not None else 0
        return below + self._connector.bytes_to_send + self._connector.bytes_queued

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and high watermark, in bytes of ciphertext."""
        wire = self._protocol.wire
        return (0, 0) if wire is None else wire.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When ``pause_writing`` and ``resume_writing`` of the protocol are called. What is written goes to the wire's transport at
        once, so its marks are the ones that count."""
        wire = self._protocol.wire
        if wire is not None:
            wire.set_write_buffer_limits(high, low)

    @property
    def _protocol_paused(self) -> bool:
        # Asked for by the loop's sendfile().
        return bool(self._protocol.writing_paused)

    @_protocol_paused.setter
    def _protocol_paused(self, value: bool) -> None:
        # The mixin's constructor sets it.
        pass

    # -- reading -------------------------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """No ``data_received`` and no ``eof_received`` until ``resume_reading``; what has come already waits."""
        if not self.is_closing():
            self._protocol.set_reading(False)

    def resume_reading(self) -> None:
        """Goes on."""
        if not self.is_closing():
            self._protocol.set_reading(True)

    def is_reading(self) -> bool:
        """Whether data is delivered."""
        return not self._lost and not self._is_closing and not self._protocol.reading_paused

    # -- the end -------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sends what was written, close_notify, and closes. No more ``data_received``; ``connection_lost`` follows."""
        if not self._is_closing:
            self._is_closing = True
            self._protocol.close()

    def abort(self) -> None:
        """Closes at once; what was written may be lost. ``connection_lost(None)`` follows."""
        self._is_closing = True
        self._protocol.abort(None)

    def is_closing(self) -> bool:
        """Whether the connection is closing, closed or lost."""
        return self._is_closing or self._lost

    def mark_closed(self) -> None:
        """The connection has ended, whoever ended it."""
        self._lost = True
        # A lane's, if there was one.
        self.__dict__.pop("write", None)

    # -- facts ---------------------------------------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol gets the data from now on. It is not told ``connection_made``."""
        self._protocol.set_application(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that gets the data."""
        return self._protocol.application  # type: ignore[no-any-return]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection.

        The ``ssl`` module's keys: ``peercert`` (its dictionary form), ``cipher`` (name, protocol, bits), ``compression`` (None),
        ``sslcontext`` (ours), ``ssl_object`` (an :class:`~sslconnector.ssl_object.SSLObject`). Ours: ``connector``, ``version``, ``group``,
        ``alpn_protocol``, ``peer_certificate``, ``peer_chain``, ``server_hostname``, ``session``, ``resumed``. Everything else is the
        wire's: ``peername``, ``sockname``, ``socket``.
        """
        connector = self._connector
        if name in _FACTS:
            value = getattr(connector, name)
            return default if value is None else value
        if name == "connector":
            return connector
        if name == "sslcontext":
            return connector.context
        if name in ("ssl_object", "peercert", "cipher", "compression"):
            ssl_object = SSLObject(connector)
            if name == "ssl_object":
                return ssl_object
            return getattr(ssl_object, "getpeercert" if name == "peercert" else name)()
        return default if self.wire is None else self.wire.get_extra_info(name, default)


_FACTS = frozenset(("version", "group", "alpn_protocol", "peer_certificate", "peer_chain", "server_hostname", "session", "resumed"))
