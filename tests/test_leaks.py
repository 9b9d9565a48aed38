"""After thousands of connections that ended in every way, nothing of ours is alive, no timer is left, and memory does not grow (F28)."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sslconnector import Connector, Limits
from sslconnector import anyio as anyio_tls
from sslconnector import asyncio as tls
from sslconnector import trio as trio_tls
from sslconnector import twisted as twisted_tls
from sslconnector._engine import Engine
from sslconnector.awaiting import AwaitingTLS
from sslconnector.sync import TLSSocket, wrap_socket

from .helpers import PKI
from .strangers import Stranger, stranger_context
from .test_memory import heap
from .worlds import Listener, World, make_world

#: connections in all, for each world
TOTAL = 2000
ENDS = ("clean", "aborted", "truncated", "refused", "timed out", "cancelled", "refused by us", "no TLS")
_OURS = (
    *(Connector, Engine, AwaitingTLS, TLSSocket, anyio_tls.TLSStream, trio_tls.TLSStream, twisted_tls.TLSProtocol),
    *(tls.TLSProtocol, tls.TLSTransport, tls.StreamReader, tls.StreamWriter, tls.StreamReaderProtocol),
)


def alive() -> list[Any]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, _OURS)]


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


class Asyncio:
    """Clients in every way against a protocol server and a stream server of ours."""

    def __init__(self, pki: PKI) -> None:
        self.good = pki.client_context()
        self.bad = pki.client_context(trust=pki.other_trust)
        self.server_context = pki.server_context(limits=Limits(handshake_timeout=0.8))

    async def start(self) -> None:
        class Echo(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(data)

        async def echo(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
            try:
                while data := await reader.read(10_000):
                    writer.write(data)
                    await writer.drain()
                writer.close()
                await writer.wait_closed()
            except ConnectionError:
                writer.transport.abort()

        self.servers = [
            await tls.create_server(Echo, "127.0.0.1", 0, ssl=self.server_context, backlog=500),
            await tls.start_server(echo, "127.0.0.1", 0, ssl=self.server_context, backlog=500),
        ]

    def stop(self) -> None:
        for server in self.servers:
            server.close()

    async def one(self, number: int) -> None:
        end = ENDS[number % len(ENDS)]
        port = self.servers[number // len(ENDS) % 2].sockets[0].getsockname()[1]
        if end == "no TLS":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()
            return
        if end == "timed out":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.read()
            writer.close()
            await writer.wait_closed()
            return
        options: dict[str, Any] = {"ssl": self.bad if end == "refused" else self.good, "server_hostname": "localhost"}
        if end == "cancelled":
            try:
                await asyncio.wait_for(tls.open_connection("127.0.0.1", port, **options), 0.001)
            except TimeoutError:
                return
            return
        if end == "refused":
            with pytest.raises(ssl.SSLCertVerificationError):
                await tls.create_connection(Client, "127.0.0.1", port, **options)
            return
        if number % 2 and end == "clean":
            reader, writer = await tls.open_connection("127.0.0.1", port, **options)
            writer.write(b"x" * 20_000)
            await reader.readexactly(20_000)
            writer.close()
            await writer.wait_closed()
            return
        transport, client = await tls.create_connection(Client, "127.0.0.1", port, **options)
        transport.write(b"x")
        if end == "clean":
            transport.close()
        elif end == "truncated":
            wire: Any = transport.wire  # type: ignore[attr-defined]
            wire.write_eof()
            await asyncio.sleep(0)
            wire.close()
        else:
            transport.abort()
        await client.lost

    async def round(self, count: int) -> None:
        for begin in range(0, count, 100):
            await asyncio.gather(*(self.one(number) for number in range(begin, begin + 100)))
        # Servers let go of what their clients left.
        for _ in range(200):
            await asyncio.sleep(0.02)
            if not alive():
                break


def _timers(loop: Any) -> list[Any]:
    return [handle for handle in getattr(loop, "_scheduled", []) if not handle.cancelled()]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_F28_asyncio(pki: PKI, loop: str) -> None:
    factory: Any = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    before = alive()
    assert before == [], "left by another test"

    async def main() -> None:
        world = Asyncio(pki)
        await world.start()
        try:
            await world.round(800)
            level = heap()
            await world.round(TOTAL - 800)
            assert alive() == []
            assert _timers(asyncio.get_running_loop()) == []
            assert len(asyncio.all_tasks()) == 1
            assert (heap() - level) / (TOTAL - 800) < 300
        finally:
            world.stop()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_F28_sockets(pki: PKI) -> None:
    good, bad = pki.client_context(), pki.client_context(trust=pki.other_trust)
    server_context = pki.server_context(limits=Limits(handshake_timeout=0.05))
    assert alive() == []

    def serve(sock: socket.socket) -> None:
        try:
            with wrap_socket(sock, server_context) as server:
                while data := server.recv():
                    server.sendall(data)
        except OSError:
            pass

    def one(number: int) -> None:
        end = ENDS[number % len(ENDS)]
        left, right = socket.socketpair()
        served = pool.submit(serve, right)
        if end in ("no TLS", "timed out"):
            left.sendall(b"SSH-2.0-x\r\n" if end == "no TLS" else b"")
            while left.recv(1000):
                pass
            left.close()
        elif end == "refused":
            with pytest.raises(ssl.SSLCertVerificationError):
                wrap_socket(left, bad, server_hostname="localhost")
        elif end == "cancelled":
            client = wrap_socket(left, good, server_hostname="localhost", do_handshake_on_connect=False)
            client.settimeout(0)
            try:
                client.do_handshake()
            except BlockingIOError:
                pass
            client.close()
        else:
            client = wrap_socket(left, good, server_hostname="localhost")
            client.sendall(b"x")
            client.recv()
            if end == "clean":
                client.close()
            elif end == "truncated":
                left.close()
            else:
                client.abort()
        served.result(10)

    def round_(count: int) -> None:
        for number in range(count):
            one(number)

    # One thread for all: who measures coverage keeps something of each thread.
    with ThreadPoolExecutor(1) as pool:
        round_(400)
        level = heap()
        round_(TOTAL - 400)
        assert alive() == []
        assert (heap() - level) / (TOTAL - 400) < 300


def test_F28_a_stranger_that_resets(pki: PKI, run: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]) -> None:
    context = stranger_context(pki, server=False)

    async def main() -> None:
        world = Asyncio(pki)
        await world.start()
        port = world.servers[0].sockets[0].getsockname()[1]

        def reset(stage: int) -> None:
            client = Stranger.connect(port, context)
            if stage:
                client.shake()
            if stage == 2:
                client.say(bytes(100_000)).flush()
            client.reset()

        for number in range(60):
            await asyncio.to_thread(reset, number % 3)
        Stranger.close_all()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not alive():
                break
        assert alive() == []
        world.stop()

    run(main)


@pytest.mark.parametrize("name", ["trio", "anyio-asyncio", "anyio-trio", "twisted"])
def test_F28_other_worlds(pki: PKI, name: str) -> None:
    good, bad = pki.client_context(), pki.client_context(trust=pki.other_trust)
    server_context = pki.server_context()

    def one(world: World, listener: Listener, number: int) -> None:
        end = ("clean", "aborted", "refused", "no TLS")[number % 4]
        if end == "no TLS":
            with socket.create_connection(("127.0.0.1", listener.port)) as sock:
                sock.sendall(b"SSH-2.0-x\r\n")
                while sock.recv(1000):
                    pass
        elif end == "refused":
            with pytest.raises(ssl.SSLCertVerificationError):
                world.connect(listener.port, bad)
        else:
            client = world.connect(listener.port, good)
            client.send(b"x" * 20_000)
            server = listener.accept()
            assert len(server.recv_exactly(20_000)) == 20_000
            if end == "aborted":
                client.abort()
                with pytest.raises(ConnectionError):
                    server.recv()
                server.abort()
                return
            client.close_write()
            assert server.recv() == b""
            server.send(b"answer")
            server.close_write()
            assert client.recv_all() == b"answer"
            client.close()
            server.close()

    def round_(count: int) -> None:
        world = make_world(name)
        listener = world.listen(server_context)
        for number in range(count):
            one(world, listener, number)
        listener.close()
        world.close()

    round_(100)
    assert alive() == []
    level = heap()
    round_(400)
    assert alive() == []
    assert (heap() - level) / 400 < 1000
