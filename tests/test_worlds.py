"""trio's, anyio's and Twisted's own rules, as far as the behavioural suite does not ask for them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.streams.tls
import pytest
import trio
import trio.testing
from anyio.streams.stapled import StapledObjectStream
from twisted.internet import interfaces
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import classImplements

from sslconnector import ApiMisuse, CallbackError, Limits, TruncationError
from sslconnector import anyio as anyio_tls
from sslconnector import trio as trio_tls
from sslconnector import twisted as twisted_tls

from .helpers import PKI


async def trio_pair(pki: PKI, **server: Any) -> tuple[trio_tls.TLSStream, trio_tls.TLSStream]:
    first, second = trio.testing.memory_stream_pair()
    client = trio_tls.TLSStream(first, pki.client_context(), server_hostname="localhost")
    other = trio_tls.TLSStream(second, pki.server_context(**server))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(other.do_handshake)
    return client, other


def test_trios_rules(pki: PKI) -> None:
    async def main() -> None:
        client, server = await trio_pair(pki)
        with trio.testing.assert_checkpoints():
            await client.do_handshake()
        with trio.testing.assert_checkpoints():
            await client.send_all(b"")
        with trio.testing.assert_checkpoints():
            await client.wait_send_all_might_not_block()
        with trio.testing.assert_checkpoints():
            await client.send_all(b"hello")
        with trio.testing.assert_checkpoints():
            assert await server.receive_some(2) == b"he"
        with trio.testing.assert_checkpoints():
            assert await server.receive_some() == b"llo"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await server.receive_some()
            nursery.cancel_scope.cancel()
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                await server.receive_some(wrong)
        with pytest.raises(TypeError):
            await server.receive_some("1")  # type: ignore[arg-type]
        await client.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        assert await server.receive_some() == b""
        await server.send_all(b"answer")
        assert await client.receive_some() == b"answer"
        for stream in (server, client, client):
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()

    trio.run(main)


def test_trio_unwrap_and_a_cut(pki: PKI) -> None:
    async def main() -> None:
        client, server = await trio_pair(pki)
        await server.send_all(b"unread")
        with pytest.raises(ApiMisuse, match="unwrap again"):
            await client.unwrap()
        assert await client.receive_some() == b"unread"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.unwrap)
            transport, trailing = await client.unwrap()
        assert trailing == b""
        assert isinstance(transport, trio.StapledStream)
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        client, server = await trio_pair(pki)
        assert client.transport_stream is not None
        await trio.aclose_forcefully(client.transport_stream)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert isinstance(caught.value.__cause__, TruncationError)
        await server.aclose()

    trio.run(main)


def test_F21_where_a_cancelled_send_cannot_be_repaired_it_says_so(pki: PKI) -> None:
    async def main() -> None:
        first, second = trio.testing.lockstep_stream_pair()
        client = trio_tls.TLSStream(first, pki.client_context(), server_hostname="localhost")
        server = trio_tls.TLSStream(second, pki.server_context())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
        with trio.move_on_after(0.05):
            await client.send_all(b"x" * 100_000)
        with pytest.raises(trio.BrokenResourceError, match="cancelled"):
            await client.send_all(b"y")
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)

    trio.run(main)


def test_trio_deadlines_and_identities(pki: PKI) -> None:
    async def give(_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return pki.server

    async def refuse(_: Any) -> Any:
        raise KeyError("none")

    async def main() -> None:
        for provider in (give, refuse):
            first, second = trio.testing.memory_stream_pair()
            client = trio_tls.TLSStream(first, pki.client_context(), server_hostname="localhost")
            context = pki.server_context(identities=None, identity_on_demand=True)
            server = trio_tls.TLSStream(second, context, identity_provider=provider)

            async def shake(stream: trio_tls.TLSStream, bad: bool) -> None:
                if bad:
                    with pytest.raises(trio.BrokenResourceError) as caught:
                        await stream.do_handshake()
                    assert isinstance(caught.value.__cause__, CallbackError) or stream.connector.server_hostname == "localhost"
                else:
                    await stream.do_handshake()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(shake, client, provider is refuse)
                nursery.start_soon(shake, server, provider is refuse)
            await trio.aclose_forcefully(client)
            await trio.aclose_forcefully(server)
        first, _ = trio.testing.memory_stream_pair()
        slow = trio_tls.TLSStream(first, pki.server_context(), limits=Limits(handshake_timeout=0.05))
        with pytest.raises(trio.BrokenResourceError, match=r"0\.05 s"):
            await slow.receive_some()
        await slow.aclose()
        with pytest.raises(TypeError, match="ServerContext"):
            trio_tls.TLSListener(None, pki.client_context())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="receive_some"):
            trio_tls.TLSStream(object(), pki.server_context())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ClientContext"):
            await trio_tls.open_tls_over_tcp_stream("localhost", 1, context=pki.server_context())  # type: ignore[arg-type]

    trio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyios_rules(pki: PKI, backend: str) -> None:
    async def main() -> None:
        served: list[Any] = []
        done = anyio.Event()

        async def handle(stream: anyio_tls.TLSStream) -> None:
            served.append(stream)
            await done.wait()

        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain, anyio.create_task_group() as group:
            listener = anyio_tls.TLSListener(plain, pki.server_context(alpn_protocols=["h2"]))
            assert listener.extra(anyio.streams.tls.TLSAttribute.standard_compatible)
            group.start_soon(listener.serve, handle)
            connectable = anyio_tls.TLSConnectable(
                anyio.TCPConnectable("127.0.0.1", plain.extra(anyio.abc.SocketAttribute.local_port)),
                pki.client_context(alpn_protocols=["h2"]),
                server_hostname="localhost",
            )
            client = await connectable.connect()
            while not served:
                await anyio.sleep(0.01)
            server = served[0]
            attribute = anyio.streams.tls.TLSAttribute
            assert client.extra(attribute.alpn_protocol) == "h2"
            assert client.extra(attribute.tls_version) == "TLSv1.3"
            assert not client.extra(attribute.server_side)
            assert client.extra(attribute.peer_certificate)
            assert client.extra(anyio_tls.ConnectorAttribute.connector) is client.connector
            with pytest.raises(ValueError, match="positive"):
                await client.receive(0)
            await client.send(b"hello")
            assert await server.receive(2) == b"he"
            assert await server.receive() == b"llo"
            await client.send_eof()
            with pytest.raises(anyio.ClosedResourceError):
                await client.send(b"x")
            with pytest.raises(anyio.EndOfStream):
                await server.receive()
            async with anyio.create_task_group() as ending:
                ending.start_soon(server.unwrap)
                transport, trailing = await client.unwrap()
            assert trailing == b""
            with pytest.raises(anyio.ClosedResourceError):
                await client.receive()
            await client.aclose()
            await transport.aclose()
            await server.transport_stream.aclose()
            done.set()
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)


class _Recorder(Protocol):
    def __init__(self) -> None:
        self.data, self.reason = b"", None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any = None) -> None:
        self.reason = reason


class _TwistedPair:
    """A client and a server over two transports of strings, and a clock."""

    def __init__(self, pki: PKI, server: Callable[[], Any] = _Recorder, **options: Any) -> None:
        self.clock = Clock()
        contexts: Any = (pki.client_context(), pki.server_context())
        self.ends: list[Any] = []
        for context, application in zip(contexts, (_Recorder, server), strict=True):
            names: Any = {"server_hostname": "localhost"} if context is contexts[0] else {}
            factory = twisted_tls.TLSFactory(context, Factory.forProtocol(application), reactor=self.clock, **names, **options)  # type: ignore[arg-type]
            protocol: Any = factory.buildProtocol(None)
            transport: Any = StringTransport()
            transport.protocol = protocol
            transport.abortConnection = transport.loseConnection
            protocol.makeConnection(transport)
            self.ends.append((protocol, transport, protocol.wrappedProtocol))

    def pump(self) -> None:
        for _ in range(10):
            for (_, transport, _), (peer, peer_transport, _) in (self.ends, self.ends[::-1]):
                if peer_transport.producerState == "producing" and (data := transport.value()):
                    transport.clear()
                    peer.dataReceived(data)
            self.clock.advance(0.001)


class _Puller:
    def __init__(self, transport: Any, count: int) -> None:
        self.transport, self.left = transport, count
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        if self.left:
            self.left -= 1
            self.transport.write(b"pulled ")
        else:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.left = 0


def test_twisted_producers(pki: PKI) -> None:
    pair = _TwistedPair(pki)
    (_, wire, client), (_, _, server) = pair.ends
    client.transport.write(b"before the handshake ")
    pair.pump()
    assert server.data == b"before the handshake "
    assert client.transport.negotiatedProtocol is None
    assert client.transport.getPeerCertificate() is not None
    assert client.transport.getPeer() == wire.getPeer()
    with pytest.raises(TypeError):
        client.transport.write("text")
    # Pausing the reader pauses the transport below; nothing is delivered meanwhile.
    server.transport.pauseProducing()
    client.transport.writeSequence([b"a", b"b"])
    pair.pump()
    assert b"ab" not in server.data
    server.transport.resumeProducing()
    pair.pump()

    class Push:
        calls: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return lambda: self.calls.append(name)

    push = Push()
    client.transport.registerProducer(push, True)
    with pytest.raises(RuntimeError, match="never unregistered"):
        client.transport.registerProducer(push, True)
    wire.producer.pauseProducing()
    wire.producer.resumeProducing()
    assert push.calls == ["pauseProducing", "resumeProducing"]
    # What a producer still produces is sent before the connection is closed.
    client.transport.loseConnection()
    assert client.transport.disconnecting
    client.transport.write(b"last")
    client.transport.unregisterProducer()
    pair.pump()
    assert server.data.endswith(b"last")
    assert wire.disconnecting


def test_twisted_ends(pki: PKI) -> None:
    pair = _TwistedPair(pki)
    pair.pump()
    (tls, wire, client), (other, _, server) = pair.ends
    other.connectionLost(Failure(ConnectionDone()))
    assert server.reason.check(ConnectionLost)
    assert isinstance(server.reason.value.__cause__, TruncationError)
    client.transport.abortConnection()
    assert wire.disconnecting
    tls.connectionLost(Failure(ConnectionDone()))
    assert client.reason is not None
    client.transport.write(b"ignored")


def test_twisted_handshake_deadline_and_bad_input(pki: PKI) -> None:
    pair = _TwistedPair(pki, limits=Limits(handshake_timeout=5))
    pair.clock.advance(4.9)
    assert not pair.ends[0][1].disconnecting
    pair.clock.advance(0.2)
    assert pair.ends[0][1].disconnecting
    with pytest.raises(TypeError, match="buildProtocol"):
        twisted_tls.TLSFactory(pki.server_context(), object())
    endpoint: Any
    for endpoint, context in ((twisted_tls.TLSClientEndpoint, pki.server_context()), (twisted_tls.TLSServerEndpoint, pki.client_context())):
        with pytest.raises(TypeError, match="context must be"):
            endpoint(None, context)
    with pytest.raises(TypeError, match="start_tls"):
        twisted_tls.start_tls(Protocol(), pki.client_context(), server_hostname="localhost")


def test_an_application_that_raises_loses_its_own_connection(pki: PKI) -> None:
    class Bad(_Recorder):
        def dataReceived(self, data: bytes) -> None:
            raise KeyError(data)

    pair = _TwistedPair(pki, Bad)
    pair.pump()
    pair.ends[0][2].transport.write(b"x")
    pair.pump()
    assert pair.ends[1][1].disconnecting


def test_trios_own_checks_of_a_stream(pki: PKI) -> None:
    """Those that trio runs over its own streams."""

    def maker(transports: Callable[[], Any], shake: bool) -> Any:
        async def make() -> Any:
            first, second = transports()
            client = trio_tls.TLSStream(first, pki.client_context(), server_hostname="localhost")
            server = trio_tls.TLSStream(second, pki.server_context())
            if shake:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.do_handshake)
                    nursery.start_soon(server.do_handshake)
            return client, server

        return make

    async def main() -> None:
        clogged = maker(trio.testing.lockstep_stream_pair, True)
        await trio.testing.check_half_closeable_stream(maker(trio.testing.memory_stream_pair, False), clogged)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))


def test_a_trio_transport_that_fails_in_its_own_way_breaks_the_stream(pki: PKI) -> None:
    async def main() -> None:
        first, _ = trio.testing.memory_stream_pair()

        async def fail() -> None:
            raise KeyError("transport")

        first.send_stream.send_all_hook = fail
        client = trio_tls.TLSStream(first, pki.client_context(), server_hostname="localhost")
        with pytest.raises(KeyError):
            await client.do_handshake()
        with pytest.raises(trio.BrokenResourceError, match="KeyError"):
            await client.send_all(b"x")
        await trio.aclose_forcefully(client)

    trio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_over_a_stream_of_objects(pki: PKI, backend: str) -> None:
    """It cannot be told how much to give."""

    async def main() -> None:
        to_server, from_client = anyio.create_memory_object_stream[bytes](100)
        to_client, from_server = anyio.create_memory_object_stream[bytes](100)
        data = bytes(range(256)) * 2000

        async def serve() -> None:
            transport = StapledObjectStream(to_client, from_client)
            async with await anyio_tls.TLSStream.wrap(transport, pki.server_context()) as stream:
                got = b"".join([part async for part in stream])
                assert got == data

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            client = await anyio_tls.TLSStream.wrap(
                StapledObjectStream(to_server, from_server), pki.client_context(), server_hostname="localhost"
            )
            await client.send(data)
            await client.send_eof()
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            await client.aclose()

    anyio.run(main, backend=backend)


class _Half(_Recorder):
    """A protocol that knows half-close."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def readConnectionLost(self) -> None:
        self.calls.append("read")

    def writeConnectionLost(self) -> None:
        self.calls.append("write")

    def handshakeCompleted(self) -> None:
        self.calls.append("handshake")


classImplements(_Half, interfaces.IHalfCloseableProtocol, interfaces.IHandshakeListener)


def test_twisted_half_close_and_what_a_transport_offers(pki: PKI) -> None:
    pair = _TwistedPair(pki, _Half)
    pair.pump()
    (_, _, client), (tls, _, server) = pair.ends
    assert server.calls == ["handshake"]
    assert interfaces.ISSLTransport.providedBy(server.transport)
    assert interfaces.INegotiated.providedBy(server.transport)
    assert tls.logPrefix() == "_Half (TLSProtocol)"
    with pytest.raises(NotImplementedError, match="start_tls"):
        server.transport.startTLS(None)
    client.transport.write(b"request")
    client.transport.loseWriteConnection()
    client.transport.write(b"ignored")
    pair.pump()
    assert server.data == b"request"
    assert server.calls == ["handshake", "read"]
    server.transport.write(b"answer")
    server.transport.loseWriteConnection()
    server.transport.loseWriteConnection()
    pair.pump()
    assert client.data == b"answer"
    assert server.calls == ["handshake", "read", "write"]
    assert all(wire.disconnecting for _, wire, _ in pair.ends)


def test_twisted_pausing_before_the_handshake_does_not_stop_it(pki: PKI) -> None:
    pair = _TwistedPair(pki)
    server = pair.ends[1][2]
    server.transport.pauseProducing()
    pair.ends[0][2].transport.write(b"data")
    pair.pump()
    assert server.transport.connector.version == "TLSv1.3"
    assert server.data == b""
    server.transport.resumeProducing()
    pair.pump()
    assert server.data == b"data"


def test_twisted_data_in_one_piece_and_the_end_while_paused(pki: PKI) -> None:
    """A transport hands out more than the connector takes at once, and its end, although the application rests: nothing is lost (F26)."""
    pair = _TwistedPair(pki)
    pair.pump()
    (_, wire, client), (other, _, server) = pair.ends
    data = bytes(range(256)) * 2000
    server.transport.pauseProducing()
    client.transport.write(data)
    client.transport.loseConnection()
    pair.clock.advance(0)
    other.dataReceived(wire.value())
    other.connectionLost(Failure(ConnectionDone()))
    assert server.data == data
    assert server.reason.check(ConnectionDone)


def test_twisted_closing_with_data_before_the_handshake_sends_it(pki: PKI) -> None:
    pair = _TwistedPair(pki)
    client = pair.ends[0][2]
    client.transport.write(b"hello")
    client.transport.loseConnection()
    assert client.transport.disconnecting
    pair.pump()
    assert pair.ends[1][2].data == b"hello"
    # Without any there is nothing to wait for.
    pair = _TwistedPair(pki)
    pair.ends[0][2].transport.loseConnection()
    assert pair.ends[0][1].disconnecting


@pytest.mark.parametrize("streaming", [True, False])
def test_twisted_a_producer_from_before_the_handshake(pki: PKI, streaming: bool) -> None:
    class Early(_Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.running = True
            self.asked = 0

        def connectionMade(self) -> None:
            self.transport.registerProducer(self, streaming)  # type: ignore[union-attr]

        def pauseProducing(self) -> None:
            self.running = False

        def resumeProducing(self) -> None:
            self.running = True
            self.asked += 1
            if self.asked < 4:
                self.transport.write(b"x")  # type: ignore[union-attr]
            else:
                self.transport.unregisterProducer()  # type: ignore[union-attr]

        def stopProducing(self) -> None:
            self.running = False

    pair = _TwistedPair(pki, Early)
    server = pair.ends[1][2]
    assert server.running is not streaming
    assert server.asked == 0
    pair.pump()
    assert server.running
    if streaming:
        assert server.asked == 1
        pair.ends[1][0].stopProducing()
        assert not server.running
    server.transport.unregisterProducer()
    server.transport.loseConnection()
    late = Early()
    server.transport.registerProducer(late, True)
    assert not late.running


def test_twisted_a_producer_that_raises_loses_its_connection(pki: PKI) -> None:
    class Bad:
        def resumeProducing(self) -> None:
            raise KeyError("producer")

        def stopProducing(self) -> None:
            pass

    pair = _TwistedPair(pki)
    pair.pump()
    pair.ends[0][2].transport.registerProducer(Bad(), False)
    pair.pump()
    assert pair.ends[0][1].disconnecting


def test_twisted_an_upgrade_takes_the_producer_along(pki: PKI) -> None:
    class Plain(_Recorder):
        pass

    ends: list[Any] = []
    clock = Clock()
    context: Any
    options: Any
    for context, options in ((pki.client_context(), {"server_hostname": "localhost"}), (pki.server_context(), {})):
        application, wire = Plain(), StringTransport()
        wire.protocol = application  # type: ignore[attr-defined]
        application.makeConnection(wire)
        calls: list[str] = []
        producer: Any = type("Push", (), {"__getattr__": lambda _, name, calls=calls: lambda: calls.append(name)})()
        wire.registerProducer(producer, True)
        done: list[Any] = []
        twisted_tls.start_tls(application, context, reactor=clock, **options).addBoth(done.append)
        ends.append((application, wire, calls, done))
    for _ in range(10):
        for (_, wire, _, _), (peer, _, _, _) in (ends, ends[::-1]):
            if data := wire.value():
                wire.clear()
                peer.transport._tls.dataReceived(data)
        clock.advance(0.001)
    for application, _, calls, done in ends:
        assert done == [application]
        assert calls == ["pauseProducing", "resumeProducing"]
    with pytest.raises(TypeError, match="left_over"):
        twisted_tls.start_tls(ends[0][0], pki.client_context(), server_hostname="localhost", left_over="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("world", ["trio", "anyio", "twisted"])
def test_a_missing_library_is_named(world: str) -> None:
    code = f"import sys; sys.modules[{world!r}] = None; import sslconnector.{world}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'sslconnector[{world}]'" in done.stderr
