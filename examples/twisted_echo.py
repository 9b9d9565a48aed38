"""An echo over TLS with Twisted: python twisted_echo.py CERT KEY CA"""

import sys
from typing import Any

from twisted.internet import interfaces
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react
from zope.interface import implementer

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.twisted import TLSClientEndpoint, TLSServerEndpoint


class Echo(Protocol):
    transport: Any

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.transport.write(data)


@implementer(interfaces.IHalfCloseableProtocol)
class Hello(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.write(b"hello, twisted")
        self.transport.loseWriteConnection()  # half-close: the echo still comes

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.heard += data

    def readConnectionLost(self) -> None:  # noqa: N802
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:  # noqa: N802
        pass

    def connectionLost(self, reason: Any = connectionDone) -> None:  # noqa: N802
        self.done.callback(self.heard)


async def main(reactor: Any, certificate: str, key: str, ca: str) -> None:
    server = ServerContext(identities=Identity.from_files(certificate, key))
    client = ClientContext(trust=TrustStore.from_file(ca))
    port = await TLSServerEndpoint(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), server).listen(Factory.forProtocol(Echo))
    plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    hello = await TLSClientEndpoint(plain, client, "localhost").connect(Factory.forProtocol(Hello))
    print((await hello.done).decode(), "over", hello.transport.connector.version)
    await port.stopListening()


react(lambda reactor: ensureDeferred(main(reactor, *sys.argv[1:])))
