"""Protocols on Twisted."""

from __future__ import annotations

from typing import Any

from twisted.internet import interfaces
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from sslconnector import Connector
from sslconnector import twisted as tls

from .base import AsyncListener, handshake_limit
from .loops import DeferredEvent, ReactorWorld
from .pushed import Pushed

__all__ = ["TwistedWorld"]


@implementer(interfaces.IHalfCloseableProtocol, interfaces.IHandshakeListener, interfaces.IPushProducer)
class _Application(Pushed, Protocol):
    """It pauses reading while its data waits, and is the producer of what the suite sends."""

    def __init__(self, listener: AsyncListener | None = None) -> None:
        super().__init__(DeferredEvent)
        self.listener = listener
        self.pauseProducing, self.resumeProducing, self.stopProducing = self.writable.clear, self.writable.set, self.writable.set
        self.writeConnectionLost = lambda: None
        self.readConnectionLost = self.came_to_an_end

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        if not isinstance(self.transport, tls.TLSTransport):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        if self.listener is not None:
            self.listener.put(self)
            self.listener = None

    def dataReceived(self, data: bytes) -> None:
        self.transport.pauseProducing()
        self.came(data)

    def connectionLost(self, reason: Any = None) -> None:
        error = reason.value.__cause__ or reason.value
        error = error if isinstance(error, OSError) else ConnectionResetError(str(error))
        self.was_lost(None if reason.check(ConnectionDone) else error)

    # What AsyncStream and Pushed call.

    def connector(self) -> Connector | None:
        return getattr(self.transport, "connector", None)

    def resume(self) -> None:
        self.transport.resumeProducing()

    def lose(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    async def close_write(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()

    async def abort(self) -> None:
        self.transport.abortConnection()
        await self.until_lost()

    async def start_tls(self, context: Any, **options: Any) -> None:
        await tls.start_tls(self, context, left_over=self.taken(), **handshake_limit(context, **options))


class TwistedWorld(ReactorWorld):
    close_tells_of_a_cut = True

    async def a_connect(self, port: int, ssl: Any = None, **options: Any) -> Any:
        endpoint: Any = TCP4ClientEndpoint(self.reactor(), "127.0.0.1", port)
        if ssl is not None:
            endpoint = tls.TLSClientEndpoint(endpoint, ssl, **handshake_limit(ssl, **options))
        try:
            return await endpoint.connect(Factory.forProtocol(_Application))
        except ConnectError as error:
            raise ConnectionResetError(str(error)) from None

    async def a_listen(self, listener: AsyncListener, ssl: Any = None, **options: Any) -> None:
        endpoint: Any = TCP4ServerEndpoint(self.reactor(), 0, 1000, "127.0.0.1")
        if ssl is not None:
            endpoint = tls.TLSServerEndpoint(endpoint, ssl, **handshake_limit(ssl, **options))
        listening = await endpoint.listen(Factory.forProtocol(lambda: _Application(listener)))  # type: ignore[arg-type]

        async def end() -> None:
            await listening.stopListening()

        listener.port, listener.end = listening.getHost().port, end
