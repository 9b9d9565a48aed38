"""The transport that an application's protocol gets."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from OpenSSL import crypto
from twisted.internet import interfaces
from twisted.internet.task import Cooperator, TaskFinished
from twisted.logger import Logger
from zope.interface import implementer

from ..buffers import byte_view
from ..connector import Connector

if TYPE_CHECKING:
    from .protocol import TLSProtocol

__all__ = ["Puller", "TLSTransport"]

_log = Logger()


@implementer(interfaces.ITransport, interfaces.IConsumer, interfaces.IPushProducer)
class TLSTransport:
    """What the application's protocol has as its ``transport``: an ``ISSLTransport`` and ``INegotiated``, and what the transport below is.
    What is not here is asked of that (``setTcpNoDelay``).

    ``disconnecting`` is True from ``loseConnection`` on, ``disconnected`` when it is over.
    """

    def __init__(self, protocol: TLSProtocol) -> None:
        self._tls = protocol

    @property
    def connector(self) -> Connector:
        """The connection; everything that is known about it can be asked here."""
        return self._tls.connector

    @property
    def protocol(self) -> Any:
        """The application's protocol; may be replaced."""
        return self._tls.wrappedProtocol

    @protocol.setter
    def protocol(self, protocol: Any) -> None:
        self._tls.wrappedProtocol = protocol

    @property
    def disconnecting(self) -> bool:
        return self._tls.disconnecting

    @property
    def disconnected(self) -> bool:
        return self._tls.disconnected

    def write(self, data: bytes) -> None:
        """Never waits and never raises because of the connection, as for any transport.

        :raises TypeError: for text.
        """
        byte_view(data)
        self._tls.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:  # noqa: N802
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:  # noqa: N802
        """Closes in the orderly way: what was written goes out, then close_notify."""
        self._tls.close()

    def loseWriteConnection(self) -> None:  # noqa: N802
        """Half-close: close_notify follows what was written, and reading goes on."""
        self._tls.close_write()

    def abortConnection(self) -> None:  # noqa: N802
        """Gives up at once."""
        self._tls.abort()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        """``streaming``: a push producer, paused while the transport below is full and until the handshake is complete; else a pull
        producer."""
        self._tls.register(producer, streaming)

    def unregisterProducer(self) -> None:  # noqa: N802
        self._tls.unregister()

    @property
    def producer(self) -> Any:
        """Who is registered; not who is with the transport below, which is this one itself."""
        producer = self._tls.producer
        return producer.producer if isinstance(producer, Puller) else producer

    @property
    def streamingProducer(self) -> bool:  # noqa: N802
        return not isinstance(self._tls.producer, Puller)

    def pauseProducing(self) -> None:  # noqa: N802
        """No ``dataReceived`` and no ``readConnectionLost`` until ``resumeProducing``."""
        self._tls.set_reading(False)

    def resumeProducing(self) -> None:  # noqa: N802
        self._tls.set_reading(True)

    def stopProducing(self) -> None:  # noqa: N802
        self.loseConnection()

    def get_write_buffer_size(self) -> int:
        """Bytes that have not reached the operating system."""
        return self._tls.inner.get_write_buffer_size()

    def getPeer(self) -> Any:  # noqa: N802
        return self._tls.transport.getPeer()

    def getHost(self) -> Any:  # noqa: N802
        return self._tls.transport.getHost()

    def getPeerCertificate(self) -> crypto.X509 | None:  # noqa: N802
        """The peer's certificate as pyOpenSSL's object (``ISSLTransport``)."""
        certificate = self.connector.peer_certificate
        return None if certificate is None else crypto.X509.from_cryptography(certificate)

    @property
    def negotiatedProtocol(self) -> bytes | None:  # noqa: N802
        """The agreed application protocol (``INegotiated``)."""
        name = self.connector.alpn_protocol
        return None if name is None else name.encode()

    def startTLS(self, *_arguments: object, **_options: object) -> None:  # noqa: N802
        raise NotImplementedError("for TLS within this TLS use sslconnector.twisted.start_tls(protocol, context)")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tls.transport, name)


class Puller:
    """A pull producer as a push producer."""

    def __init__(self, producer: Any, protocol: TLSProtocol) -> None:
        self.producer = producer
        self._protocol = protocol
        self._task: Any = None
        self._running = False

    def _pull(self) -> Iterable[None]:
        while True:
            try:
                self.producer.resumeProducing()
            except Exception:
                _log.failure("{producer!r} failed; its connection is given up", producer=self.producer)
                self._protocol.abort()
                return
            yield

    def pauseProducing(self) -> None:  # noqa: N802
        if self._running:
            self._running = False
            self._task.pause()

    def resumeProducing(self) -> None:  # noqa: N802
        if self._running:
            return
        self._running = True
        if self._task is None:
            later = self._protocol.reactor.callLater
            self._task = Cooperator(scheduler=lambda turn: later(0, turn)).cooperate(self._pull())
        else:
            self._task.resume()

    def stop(self) -> None:
        task, self._task = self._task, None
        self._running = False
        if task is not None:
            with suppress(TaskFinished):
                task.stop()

    def stopProducing(self) -> None:  # noqa: N802
        self.stop()
        self.producer.stopProducing()
