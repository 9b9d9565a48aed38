"""The echo servers that are compared, each as its community would write it. One of them: python benchmarks/servers.py NAME CERTIFICATE KEY

Prints its port and the OpenSSL it uses, and serves on 127.0.0.1 until it is killed. The client pins version, cipher suite and group.
"""

# Peers are written with frameworks whose types are not there, or half.
# mypy: disable-error-code="no-untyped-call,union-attr,call-arg,attr-defined"
from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any, cast


class Echo(asyncio.Protocol):
    """The application on all asyncio rows."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    # What a server has to do that must not fill its memory.
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def context(certificate: str, key: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made


def announce(port: int, openssl: str) -> None:
    print(port, openssl, flush=True)


def run(main: Any, loop: str) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


async def serve_asyncio(certificate: str, key: str) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context(certificate, key), backlog=1024)
    announce(server.sockets[0].getsockname()[1], ssl.OPENSSL_VERSION)
    await server.serve_forever()


async def serve_plain(certificate: str, key: str) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    announce(server.sockets[0].getsockname()[1], "none")
    await server.serve_forever()


async def serve_aiofastnet(certificate: str, key: str) -> None:
    import aiofastnet

    loop = asyncio.get_running_loop()
    server = await aiofastnet.create_server(loop, Echo, "127.0.0.1", 0, ssl=context(certificate, key), backlog=1024)
    announce(server.sockets[0].getsockname()[1], ssl.OPENSSL_VERSION)
    await server.serve_forever()


async def serve_sslconnector(certificate: str, key: str) -> None:
    from sslconnector import Identity, ServerContext, openssl_version
    from sslconnector.asyncio import create_server

    tls = ServerContext(identities=Identity.from_files(certificate, key))
    server = await create_server(Echo, "127.0.0.1", 0, ssl=tls, backlog=1024)
    announce(server.sockets[0].getsockname()[1], openssl_version())
    await server.serve_forever()


def run_twisted(certificate: str, key: str) -> None:
    from cryptography.hazmat.backends.openssl.backend import backend
    from twisted.internet import reactor
    from twisted.internet import ssl as twisted_ssl
    from twisted.internet.protocol import Factory, Protocol

    class TwistedEcho(Protocol):
        def connectionMade(self) -> None:  # noqa: N802
            self.transport.registerProducer(Pauser(self.transport), True)

        def dataReceived(self, data: bytes) -> None:  # noqa: N802
            self.transport.write(data)

    class Pauser:
        def __init__(self, transport: Any) -> None:
            self.pauseProducing = transport.pauseProducing
            self.resumeProducing = transport.resumeProducing
            self.stopProducing = lambda: None

    factory = Factory.forProtocol(TwistedEcho)
    factory.noisy = False
    tls = twisted_ssl.DefaultOpenSSLContextFactory(key, certificate)
    port = cast(Any, reactor).listenSSL(0, factory, tls, interface="127.0.0.1", backlog=1024)
    announce(port.getHost().port, backend.openssl_version_text())
    cast(Any, reactor).run()


async def serve_trio(certificate: str, key: str) -> None:
    import trio

    async def echo(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context(certificate, key), host="127.0.0.1", backlog=1024)
        announce(listeners[0].transport_listener.socket.getsockname()[1], ssl.OPENSSL_VERSION)
        nursery.start_soon(trio.serve_listeners, echo, listeners)


def run_trio(certificate: str, key: str) -> None:
    import trio

    trio.run(serve_trio, certificate, key)


async def serve_anyio(certificate: str, key: str) -> None:
    import anyio
    from anyio.streams.tls import TLSListener

    async def echo(stream: Any) -> None:
        try:
            async for data in stream:
                await stream.send(data)
        except (anyio.BrokenResourceError, anyio.EndOfStream):
            pass

    sockets = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0, backlog=1024)
    listener = TLSListener(sockets, context(certificate, key), standard_compatible=False)
    announce(sockets.extra(anyio.abc.SocketAttribute.local_port), ssl.OPENSSL_VERSION)
    await listener.serve(echo)


def run_gevent(certificate: str, key: str) -> None:
    from gevent import monkey

    monkey.patch_ssl()
    from gevent.server import StreamServer

    def echo(connection: Any, address: Any) -> None:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass

    server = StreamServer(("127.0.0.1", 0), echo, backlog=1024, keyfile=key, certfile=certificate)
    server.start()
    announce(server.server_port, ssl.OPENSSL_VERSION)
    server.serve_forever()


SERVERS: dict[str, Any] = {
    "asyncio": lambda *files: run(serve_asyncio(*files), "asyncio"),
    "uvloop": lambda *files: run(serve_asyncio(*files), "uvloop"),
    "aiofastnet": lambda *files: run(serve_aiofastnet(*files), "uvloop"),
    "aiofastnet-asyncio": lambda *files: run(serve_aiofastnet(*files), "asyncio"),
    "sslconnector": lambda *files: run(serve_sslconnector(*files), "uvloop"),
    "sslconnector-asyncio": lambda *files: run(serve_sslconnector(*files), "asyncio"),
    "twisted": run_twisted,
    "trio": run_trio,
    "anyio": lambda *files: run(serve_anyio(*files), "uvloop"),
    "gevent": run_gevent,
    "tcp-asyncio": lambda *files: run(serve_plain(*files), "asyncio"),
    "tcp-uvloop": lambda *files: run(serve_plain(*files), "uvloop"),
}

if __name__ == "__main__":
    name, *files = sys.argv[1:]
    try:
        SERVERS[name](*files)
    except KeyboardInterrupt:
        pass
