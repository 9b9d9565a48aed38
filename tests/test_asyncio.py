"""The asyncio shell, on the stock loop and on uvloop, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import weakref
from typing import Any

import pytest

from sslconnector import (
    ApiMisuse,
    CertificateError,
    CloseTimeout,
    ConfigurationError,
    Connector,
    HandshakeInterrupted,
    HandshakeTimeout,
    Limits,
    NotTLSError,
    PeerAlert,
    TruncationError,
)
from sslconnector.asyncio import TLSProtocol, create_connection, create_server

from .asyncio_helpers import Recorder, Serving
from .helpers import PKI, VERSIONS


@pytest.mark.parametrize("version", list(VERSIONS))
def test_echo_of_many_sizes(pki: PKI, run: Any, version: str) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            client = await serving.connect(**VERSIONS[version])
            total = 0
            for size in (1, 0, 100, 16384, 16385, 100_000, 3_000_000):
                client.transport.write(bytes(size))
                total += size
                await client.until(total)
            assert len(client.data) == total
            assert client.transport.get_extra_info("version") == version
            client.transport.close()
            assert await client.lost is None
            assert await serving.protocols[0].lost is None

    run(main)


def test_facts_and_small_calls(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, alpn_protocols=["x"]) as serving:
            client = await serving.connect(alpn_protocols=["x"])
            transport = client.transport
            info = transport.get_extra_info
            assert info("peername")[0] == "127.0.0.1"
            assert info("alpn_protocol") == "x"
            assert info("cipher")[1:] == ("TLSv1.3", info("connector").cipher_bits)
            assert info("compression", 5) is None
            assert info("peer_certificate") == pki.server.certificate
            assert info("server_hostname") == "localhost"
            assert isinstance(info("connector"), Connector)
            assert info("sslcontext") is info("connector").context
            assert info("nothing", "default") == "default"
            assert "completed" in repr(transport)
            assert transport.can_write_eof()
            assert transport.get_protocol() is client
            transport.set_write_buffer_limits(high=1000, low=10)
            assert transport.get_write_buffer_limits() == (10, 1000)
            transport.writelines([b"a", b"b", bytearray(b"c")])
            await client.until(3)
            assert client.data == b"abc"
            with pytest.raises(TypeError, match="encode the text"):
                transport.write("text")  # type: ignore[arg-type]
            other = Recorder()
            transport.set_protocol(other)
            transport.write(b"d")
            await other.until(1)
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(ApiMisuse, match="after close_write"):
                transport.write(b"e")
            assert await other.lost is None
            assert transport.is_closing()
            assert not transport.is_reading()
            assert transport.get_write_buffer_size() == 0
            assert transport.get_write_buffer_limits() == (0, 0)
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"
            transport.set_write_buffer_limits(1)
            transport.write(b"dropped")
            transport.write_eof()
            transport.close()
            transport.abort()

    run(main)


def test_half_close_answers_later_and_whole(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, lambda: Recorder(keep_open=True)) as serving:
            client = await serving.connect()
            client.transport.write(b"request")
            client.transport.write_eof()
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.eof.wait()
            assert server.data == b"request"
            await asyncio.sleep(0.2)
            server.transport.write(bytes(8 << 20))
            server.transport.close()
            assert await client.lost is None
            assert len(client.data) == 8 << 20
            assert await server.lost is None

    run(main)


def _raw_client(pki: PKI, port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    pki.ca.configure_trust(context)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")


def test_F05_a_cut_connection_is_told_from_a_closed_one(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            loop = asyncio.get_running_loop()
            raw = await loop.run_in_executor(None, _raw_client, pki, serving.port)
            raw.sendall(b"last words")
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.until(10)
            # FIN without close_notify
            plain = socket.socket(fileno=raw.detach())
            plain.shutdown(socket.SHUT_WR)
            error = await server.lost
            plain.close()
            assert isinstance(error, TruncationError)
            assert server.data == b"last words"
            # a reset
            raw = await loop.run_in_executor(None, _raw_client, pki, serving.port)
            while len(serving.protocols) < 2:
                await asyncio.sleep(0.01)
            plain = socket.socket(fileno=raw.detach())
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            plain.close()
            assert isinstance(await serving.protocols[1].lost, ConnectionResetError | TruncationError)

    run(main)


def test_refused_certificates_on_both_sides(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder, client_certificates="required", trust=pki.trust) as serving:
            with pytest.raises(CertificateError, match="not for 'example.org'"):
                await create_connection(Recorder, "127.0.0.1", serving.port, ssl=pki.client_context(), server_hostname="example.org")
            # On TLS 1.3 the client learns of the refusal only at a read.
            client = await serving.connect()
            error = await client.lost
            assert isinstance(error, PeerAlert)
            assert "client certificate" in str(error)
            client = await serving.connect(identity=pki.client)
            client.transport.write(b"x")
            await serving.accepted.wait()
            assert serving.protocols[0].transport.get_extra_info("peer_certificate") == pki.client.certificate
            client.transport.close()
            await client.lost

    run(main)


def test_F29_the_alert_reaches_the_peer(pki: PKI, run: Any) -> None:
    """A client that is refused while it is still sending gets the alert, not a reset."""

    async def main() -> None:
        async with Serving(pki, Recorder, client_certificates="required", trust=pki.trust) as serving:
            for _ in range(10):
                client = await serving.connect()
                client.transport.write(bytes(50_000))
                assert isinstance(await client.lost, PeerAlert)

    run(main)


def test_F11_F33_silent_peers_are_dropped(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, limits=Limits(handshake_timeout=0.2)) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert serving.protocols == []

        async def silent(reader: Any, writer: Any) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HandshakeTimeout, match="0.2 s"):
            await create_connection(
                asyncio.Protocol, "localhost", port, ssl=pki.client_context(limits=Limits(handshake_timeout=0.2)), family=socket.AF_INET
            )
        server.close()
        await server.wait_closed()

    run(main)


def test_the_peer_is_no_tls(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert await reader.read() == b""
            writer.close()

        async def plain(reader: Any, writer: Any) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await reader.read()
            writer.close()

        async def closes(_: Any, writer: Any) -> None:
            writer.close()

        for handler, error, words in ((plain, NotTLSError, "SMTP"), (closes, HandshakeInterrupted, "closed")):
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            with pytest.raises((error, ConnectionResetError), match=words if error is NotTLSError else None):
                await create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
            server.close()
            await server.wait_closed()

    run(main)


def test_cancelled_connect_leaves_nothing(pki: PKI, run: Any) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def silent(reader: Any, writer: Any) -> None:
            try:
                await reader.read()
            except ConnectionError:
                pass
            closed.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for delay in (0.0, 0.05):
            task = asyncio.ensure_future(
                create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
            )
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(closed.wait(), 5)
        server.close()
        await server.wait_closed()

    run(main)


def test_F26_nothing_is_delivered_while_paused_and_nothing_is_lost(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.made.wait()
            server.transport.pause_reading()
            assert not server.transport.is_reading()
            client.transport.write(bytes(3_000_000))
            client.transport.close()
            await asyncio.sleep(0.2)
            assert server.data == b""
            assert not server.lost.done()
            server.transport.resume_reading()
            assert server.transport.is_reading()
            assert await server.lost is None
            assert len(server.data) == 3_000_000

    run(main)


def test_flow_control_reaches_the_application(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.made.wait()
            server.transport.pause_reading()
            sent = 0
            while not client.paused:
                client.transport.write(bytes(100_000))
                sent += 100_000
                await asyncio.sleep(0)
            assert client.transport.get_write_buffer_size() > 0
            server.transport.resume_reading()
            await server.until(sent)
            while not client.resumed:
                await asyncio.sleep(0.01)
            client.transport.close()
            await client.lost

    run(main)


def test_F33_close_gives_up_on_a_peer_that_takes_nothing(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder, limits=Limits(close_flush_timeout=0.3)) as serving:
            client = await serving.connect()
            await serving.accepted.wait()
            server = serving.protocols[0]
            client.transport.pause_reading()
            server.transport.write(bytes(20_000_000))
            server.transport.close()
            error = await asyncio.wait_for(server.lost, 5)
            assert isinstance(error, CloseTimeout)
            client.transport.abort()
            assert await client.lost is None

    run(main)


def test_F27_everything_written_before_close_arrives(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            for number in range(100):
                client.transport.write(bytes([number]) * 50_000)
            client.transport.close()
            client.transport.write(b"too late")
            await serving.accepted.wait()
            server = serving.protocols[0]
            assert await server.lost is None
            assert len(server.data) == 5_000_000

    run(main)


def test_abort_is_told_as_none_here_and_as_an_error_there(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            client.transport.write(b"x")
            await serving.accepted.wait()
            await serving.protocols[0].until(1)
            client.transport.abort()
            assert await client.lost is None
            assert isinstance(await serving.protocols[0].lost, ConnectionError)

    run(main)


class Buffered(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(1000)
        self.data = bytearray()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Unclassed(asyncio.BaseProtocol):
    """A buffered protocol by its calls alone."""

    __init__ = Buffered.__init__
    connection_made = Buffered.connection_made
    get_buffer = Buffered.get_buffer
    buffer_updated = Buffered.buffer_updated
    eof_received = Buffered.eof_received
    connection_lost = Buffered.connection_lost


@pytest.mark.parametrize("kind", [Buffered, Unclassed])
def test_buffered_protocols_are_decrypted_into_their_buffer(pki: PKI, run: Any, kind: Any) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            client: Any = await serving.connect(kind)
            client.transport.write(bytes(range(256)) * 1000)
            while len(client.data) < 256_000:
                await asyncio.sleep(0.01)
            assert client.data == bytes(range(256)) * 1000
            client.transport.close()
            assert await client.lost is None

    run(main)


@pytest.mark.parametrize("where", ["factory", "connection_made", "data_received", "eof_received"])
def test_what_the_application_raises_ends_its_connection(pki: PKI, run: Any, where: str) -> None:
    class Broken(Recorder):
        def __init__(self) -> None:
            if where == "factory":
                raise ZeroDivisionError
            super().__init__()

    def explode(*_: Any) -> None:
        raise ZeroDivisionError

    if where != "factory":
        setattr(Broken, where, explode)

    async def main() -> None:
        async with Serving(pki, Broken) as serving:
            client = await serving.connect()
            client.transport.write(b"x")
            client.transport.write_eof()
            assert isinstance(await client.lost, PeerAlert | TruncationError | None)

    main.problem_count = 1  # type: ignore[attr-defined]
    run(main)


def test_F25_callbacks_may_close_and_write(pki: PKI, run: Any) -> None:
    class Closes(Recorder):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"1")
            self.transport.pause_reading()
            self.transport.resume_reading()
            self.transport.write(b"2")
            self.transport.close()
            self.transport.write(b"3")

    async def main() -> None:
        async with Serving(pki, Closes) as serving:
            client = await serving.connect()
            client.transport.write(b"x" * 100_000)
            assert await client.lost is None
            assert client.data == b"12"

    run(main)


def test_many_connections_at_once(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:

            async def one(number: int) -> None:
                client = await serving.connect()
                data = b"%06d" % number * 3000
                client.transport.write(data)
                await client.until(len(data))
                assert client.data == data
                client.transport.close()
                assert await client.lost is None

            await asyncio.gather(*(one(number) for number in range(100)))

    run(main)


def test_F28_nothing_stays_alive(pki: PKI, run: Any) -> None:
    async def main() -> None:
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        async with Serving(pki) as serving:
            for number in range(30):
                if number % 3 == 2:
                    with pytest.raises(CertificateError):
                        await serving.connect(trust=pki.other_trust)
                    continue
                client = await serving.connect()
                client.transport.write(b"hello")
                await client.until(5)
                alive.update([client, client.transport, client.transport.get_extra_info("connector")])
                if number % 3:
                    client.transport.close()
                else:
                    client.transport.abort()
                await client.lost
                del client
            alive.update(serving.protocols)
            for protocol in serving.protocols:
                await protocol.lost
            serving.protocols.clear()
            del protocol
        await asyncio.sleep(0.05)
        gc.collect()
        assert list(alive) == []
        assert [thing for thing in gc.get_objects() if isinstance(thing, TLSProtocol)] == []

    run(main)


def test_pythons_own_ssl_at_the_other_end(pki: PKI, run: Any) -> None:
    async def main() -> None:
        client_context = ssl.create_default_context()
        pki.ca.configure_trust(client_context)
        async with Serving(pki) as serving:
            reader, writer = await asyncio.open_connection("127.0.0.1", serving.port, ssl=client_context, server_hostname="localhost")
            writer.write(bytes(500_000))
            assert await reader.readexactly(500_000) == bytes(500_000)
            writer.close()
            await writer.wait_closed()
            assert await serving.protocols[0].lost is None

        async def echo(reader: Any, writer: Any) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pki.server_cert.configure_cert(server_context)
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        transport, client = await create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
        transport.write(bytes(500_000))
        await client.until(500_000)
        transport.close()
        assert await client.lost is None
        server.close()
        await server.wait_closed()

    run(main)


def test_wrong_arguments(pki: PKI, run: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="ssl must be a sslconnector.ClientContext, not SSLContext"):
            await create_connection(Recorder, "localhost", 1, ssl=ssl.create_default_context())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="ssl must be a sslconnector.ServerContext, not ClientContext"):
            await create_server(Recorder, "localhost", 1, ssl=pki.client_context())  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="identity_on_demand"):
            await create_server(Recorder, "127.0.0.1", 0, ssl=pki.server_context(identities=None, identity_on_demand=True))
        with pytest.raises(ValueError, match="needs server_hostname"):
            await create_connection(Recorder, sock=None, ssl=pki.client_context())

    run(main)


def test_another_protocol_may_be_set_while_data_is_delivered(pki: PKI, run: Any) -> None:
    class Switches(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.next = Recorder()
            self.transport.set_protocol(self.next)

    async def main() -> None:
        async with Serving(pki, Switches) as serving:
            client = await serving.connect()
            client.transport.write(bytes(300_000))
            client.transport.close()
            await client.lost
            first: Any = serving.protocols[0]
            assert await first.next.lost is None
            assert len(first.data) + len(first.next.data) == 300_000
            assert len(first.data) <= 65536

    run(main)


@pytest.mark.parametrize("buffer", [bytearray(), b"read-only", "text", None])
def test_a_buffer_that_is_none_ends_the_connection(pki: PKI, run: Any, buffer: Any) -> None:
    class Broken(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            if buffer is None:
                raise ZeroDivisionError
            return buffer

    async def main() -> None:
        async with Serving(pki) as serving:
            client: Any = await serving.connect(Broken)  # type: ignore[arg-type]
            client.transport.write(b"x")
            assert isinstance(await client.lost, TypeError | ValueError | ZeroDivisionError)

    main.problem_count = 1  # type: ignore[attr-defined]
    run(main)
