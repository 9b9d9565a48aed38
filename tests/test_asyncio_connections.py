"""Upgrades, UNIX sockets, time-outs, identities on demand and facts of the asyncio shell."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sslconnector import (
    ApiMisuse,
    CallbackError,
    ConfigurationError,
    ConnectionAborted,
    HandshakeInterrupted,
    HandshakeTimeout,
    IdentityNeeded,
    Limits,
    NotTLSError,
    PeerError,
    TruncationError,
)
from sslconnector import asyncio as tls
from sslconnector.ssl_object import SSLObject

from .asyncio_helpers import Echo, Recorder, Serving
from .helpers import PKI
from .strangers import Stranger, stranger_context

# -- arguments -------------------------------------------------------------------------------------------------------------------------


def test_without_ssl_they_are_asyncios(run: Any) -> None:
    async def main() -> None:
        server = await tls.create_server(Echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, client = await tls.create_connection(Recorder, "127.0.0.1", port, ssl=False)
        assert not isinstance(transport, tls.TLSTransport)
        transport.write(b"in clear")
        await client.until(8)
        transport.close()
        await client.lost
        for options in ({"server_hostname": "localhost"}, {"ssl_handshake_timeout": 1}, {"ssl_shutdown_timeout": 1}):
            with pytest.raises(ValueError, match="only meaningful with ssl"):
                await tls.create_connection(Recorder, "127.0.0.1", port, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await tls.create_server(Recorder, "127.0.0.1", 0, ssl_handshake_timeout=1)
        server.close()

    run(main)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_time_outs_must_be_positive_numbers(pki: PKI, name: str, value: Any) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=f"{name} should be a positive number"):
            await tls.create_connection(Recorder, "localhost", 1, ssl=pki.client_context(), **{name: value})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{name} should be a positive number"):
            await tls.create_server(Recorder, "localhost", 1, ssl=pki.server_context(), **{name: value})  # type: ignore[arg-type]

    asyncio.run(main())


def test_ssl_true_is_the_default_context(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            with pytest.raises(ssl.SSLCertVerificationError):
                # The system does not know our CA.
                await tls.create_connection(Recorder, "localhost", serving.port, ssl=True)

    run(main)


def test_wrong_contexts_are_told_apart(pki: PKI, run: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"must be a sslconnector.ClientContext, not ServerContext; create_server\(\) takes those"):
            await tls.create_connection(Recorder, "localhost", 1, ssl=pki.server_context())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be a sslconnector.ServerContext, not SSLContext"):
            await tls.start_server(lambda *_: None, "localhost", 1, ssl=ssl.create_default_context())
        left, right = socket.socketpair()
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=left)
        with pytest.raises(TypeError, match="must be a sslconnector.ClientContext or ServerContext, not SSLContext"):
            await tls.start_tls(transport, protocol, ssl.create_default_context())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="server_side=True does not go with a ClientContext"):
            await tls.start_tls(transport, protocol, pki.client_context(), server_side=True, server_hostname="localhost")
        with pytest.raises(TypeError, match="transport must be an asyncio.Transport, not str"):
            await tls.start_tls("transport", protocol, pki.client_context())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="left_over must be bytes"):
            await tls.start_tls(transport, protocol, pki.client_context(), left_over="x")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="needs server_hostname"):
            await tls.start_tls(transport, protocol, pki.client_context())
        # None of this has touched the connection.
        right.sendall(b"still in clear")
        await protocol.until(14)
        transport.close()
        with pytest.raises(HandshakeInterrupted, match="closing or closed"):
            await tls.start_tls(transport, protocol, pki.client_context(), server_hostname="localhost")
        await protocol.lost
        right.close()

    run(main)


# -- UNIX sockets ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no UNIX sockets there")
def test_unix_sockets(pki: PKI, run: Any, tmp_path: Path) -> None:
    async def main() -> None:
        path = str(tmp_path / "socket")
        server = await tls.create_unix_server(Echo, path, ssl=pki.server_context())
        transport, client = await tls.create_unix_connection(Recorder, path, ssl=pki.client_context(), server_hostname="localhost")
        transport.write(b"hello" * 1000)
        await client.until(5000)
        transport.close()
        assert await client.lost is None
        with pytest.raises(ValueError, match="needs server_hostname"):
            await tls.create_unix_connection(Recorder, path, ssl=pki.client_context())
        server.close()

        async def echo(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await tls.start_unix_server(echo, path + "2", ssl=pki.server_context())
        reader, writer = await tls.open_unix_connection(path + "2", ssl=pki.client_context(), server_hostname="localhost")
        writer.write(b"a line\n")
        assert await reader.read() == b"a line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        server = await tls.start_unix_server(echo, path + "3")
        reader, writer = await tls.open_unix_connection(path + "3")
        writer.write(b"in clear\n")
        assert await reader.read() == b"in clear\n"
        writer.close()
        server.close()

    run(main)


# -- facts -----------------------------------------------------------------------------------------------------------------------------


def test_facts_in_the_words_of_the_ssl_module(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, alpn_protocols=["h2"], client_certificates="optional", trust=pki.trust) as serving:
            client = await serving.connect(alpn_protocols=["h2"], identity=pki.client)
            info = client.transport.get_extra_info
            assert info("peercert")["subjectAltName"][0] == ("DNS", "localhost")
            ssl_object = info("ssl_object")
            assert isinstance(ssl_object, SSLObject)
            assert ssl_object.selected_alpn_protocol() == "h2"
            assert ssl_object.version() == "TLSv1.3"
            assert ssl_object.cipher() == info("cipher")
            assert ssl_object.getpeercert() == info("peercert")
            assert ssl_object.getpeercert(True) == ssl_object.get_verified_chain()[0]
            assert ssl_object.server_hostname == "localhost"
            assert not ssl_object.server_side
            assert ssl_object.context is info("sslcontext")
            assert ssl_object.session_reused is False
            assert ssl_object.get_channel_binding("tls-exporter") == ssl_object.get_channel_binding()
            with pytest.raises(ValueError, match="tls-unique"):
                ssl_object.get_channel_binding("tls-unique")
            assert info("compression") is None
            assert info("group") is not None
            assert info("resumed") is False
            assert len(info("peer_chain")) == 2
            # With the first data come the tickets.
            client.transport.write(b"x")
            await client.until(1)
            assert ssl_object.session is not None
            server = serving.protocols[0].transport.get_extra_info
            assert server("ssl_object").server_side
            assert server("peercert")["subjectAltName"] == (("email", "client@example.org"),)
            anonymous = await serving.connect(verify_peer=False)
            anonymous.transport.write(b"x")
            await anonymous.until(1)
            assert anonymous.transport.get_extra_info("peercert") == {}
            assert serving.protocols[1].transport.get_extra_info("peercert", "none") is None
            resumed_transport, resumed = await tls.create_connection(
                Recorder, "127.0.0.1", serving.port, ssl=info("sslcontext"), server_hostname="localhost", session=ssl_object.session
            )
            assert resumed_transport.get_extra_info("ssl_object").session_reused
            for protocol in (client, anonymous, resumed):
                protocol.transport.close()
                await protocol.lost

    run(main)


def test_before_the_handshake_there_are_no_facts(pki: PKI) -> None:
    from sslconnector import Connector

    ssl_object = SSLObject(Connector(pki.client_context(), server_hostname="localhost"))
    assert ssl_object.version() is None
    assert ssl_object.cipher() is None
    assert ssl_object.getpeercert() is None
    assert ssl_object.session_reused is None


# -- identities on demand --------------------------------------------------------------------------------------------------------------


def test_identities_on_demand(pki: PKI, run: Any) -> None:
    other = pki.issue("other.example")
    asked: list[str | None] = []

    async def later(event: IdentityNeeded) -> Any:
        asked.append(event.server_name)
        await asyncio.sleep(0.01)
        if event.server_name == "broken.example":
            raise ZeroDivisionError
        if event.server_name == "nothing.example":
            return None
        return other if event.server_name == "other.example" else pki.server

    def at_once(event: IdentityNeeded) -> Any:
        return pki.server

    async def main() -> None:
        context = pki.server_context(identities=None, identity_on_demand=True)
        for provider, names in ((later, ("localhost", "other.example")), (at_once, ("localhost",))):
            server = await tls.create_server(Echo, "127.0.0.1", 0, ssl=context, identity_provider=provider)
            port = server.sockets[0].getsockname()[1]
            for name in names:
                transport, client = await tls.create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname=name)
                transport.write(b"x")
                await client.until(1)
                transport.close()
                await client.lost
            if provider is later:
                for name in ("broken.example", "nothing.example"):
                    with pytest.raises(PeerError):
                        await tls.create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname=name)
            server.close()
        assert asked == ["localhost", "other.example", "broken.example", "nothing.example"]
        with pytest.raises(ConfigurationError, match="pass identity_provider="):
            await tls.create_server(Echo, "127.0.0.1", 0, ssl=context)
        with pytest.raises(TypeError, match="identity_provider must be callable"):
            await tls.create_server(Echo, "127.0.0.1", 0, ssl=context, identity_provider=pki.server)  # type: ignore[arg-type]

    main.problem_count = 2  # type: ignore[attr-defined]
    run(main)


def test_a_client_that_leaves_while_its_identity_is_looked_up(pki: PKI, run: Any) -> None:
    async def main() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def never(_: IdentityNeeded) -> Any:
            entered.set()
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        context = pki.server_context(identities=None, identity_on_demand=True, limits=Limits(handshake_timeout=0.3))
        server = await tls.create_server(Echo, "127.0.0.1", 0, ssl=context, identity_provider=never)
        port = server.sockets[0].getsockname()[1]
        connecting = asyncio.ensure_future(
            tls.create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
        )
        await entered.wait()
        # The handshake's deadline runs on.
        with pytest.raises(PeerError):
            await connecting
        await asyncio.wait_for(cancelled.wait(), 5)
        server.close()

    run(main)


def test_an_upgrade_whose_identity_provider_fails(pki: PKI, run: Any) -> None:
    async def main() -> None:
        def broken(_: IdentityNeeded) -> Any:
            raise ZeroDivisionError

        context = pki.server_context(identities=None, identity_on_demand=True)
        left, right = socket.socketpair()
        server, protocol = await tls.create_connection(Recorder, sock=left)
        with pytest.raises(ConfigurationError, match="identity_provider"):
            await tls.start_tls(server, protocol, context)
        client, client_protocol = await tls.create_connection(Recorder, sock=right)
        results = await asyncio.gather(
            tls.start_tls(server, protocol, context, identity_provider=broken),
            tls.start_tls(client, client_protocol, pki.client_context(), server_hostname="localhost"),
            return_exceptions=True,
        )
        assert isinstance(results[0], CallbackError)
        assert isinstance(results[0].__cause__, ZeroDivisionError)
        assert isinstance(results[1], PeerError)

    main.problem_count = 1  # type: ignore[attr-defined]
    run(main)


# -- upgrades --------------------------------------------------------------------------------------------------------------------------


def _same(protocol: Any) -> Any:
    return protocol


async def _plain_pair() -> tuple[Any, Recorder, Any, Recorder]:
    left, right = socket.socketpair()
    one, two = await tls.create_connection(Recorder, sock=left), await tls.create_connection(Recorder, sock=right)
    return (*one, *two)


def test_an_upgrade_while_paused_for_writing(pki: PKI, run: Any) -> None:
    """What was written before goes out first, and resume_writing() comes through exactly once."""

    async def main() -> None:
        client, client_protocol, server, server_protocol = await _plain_pair()
        server.pause_reading()
        while not client_protocol.paused:
            client.write(bytes(100_000))
        before = client.get_write_buffer_size()
        assert before > 0
        upgrade = asyncio.ensure_future(
            tls.start_tls(client, client_protocol, pki.client_context(), server_hostname="localhost", ssl_handshake_timeout=15)
        )
        await asyncio.sleep(0.05)
        assert client_protocol.resumed == 0
        total = 0
        sent = before  # at most so much is in clear, the rest is TLS

        class Splitter(Recorder):
            """Takes what is in clear (zeros) and hands over at the first TLS record."""

            def data_received(self, data: bytes) -> None:
                nonlocal total
                clear = len(data) - len(data.lstrip(b"\0"))
                total += clear
                if clear < len(data):
                    self.left_over = data[clear:]
                    server.pause_reading()
                    self.got.set()

        splitter = Splitter()
        server.set_protocol(splitter)
        server.resume_reading()
        await splitter.got.wait()
        assert total >= sent
        new_server = await tls.start_tls(server, splitter, pki.server_context(), left_over=splitter.left_over)
        new_client = await upgrade
        assert (client_protocol.paused, client_protocol.resumed) == (1, 1)
        server_protocol = Recorder()
        new_server.set_protocol(server_protocol)
        new_client.write(b"over TLS")
        await server_protocol.until(8)
        assert server_protocol.data == b"over TLS"
        # Flow control goes on over TLS.
        new_server.pause_reading()
        while client_protocol.paused < 2:
            new_client.write(bytes(100_000))
        new_server.resume_reading()
        while client_protocol.resumed < 2:
            await asyncio.sleep(0.01)
        new_client.close()
        assert await client_protocol.lost is None
        assert await server_protocol.lost is None

    run(main)


@pytest.mark.parametrize("around", ["nothing", "wait_for", "gather"])
@pytest.mark.parametrize("ending", ["", "closed", "cut"])
def test_data_with_the_upgrades_last_flight_is_not_answered_in_clear(pki: PKI, run: Any, around: str, ending: str) -> None:
    """It is delivered when who awaits start_tls() has had the new transport, not before."""
    context = stranger_context(pki, server=False, version="TLSv1.3")

    class Answers(Recorder):
        upgraded: Any = None

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            (self.upgraded or self.transport).write(b"answer to " + data)

    async def main() -> None:
        left, right = socket.socketpair()
        transport, protocol = await tls.create_connection(lambda: Answers(keep_open=True), sock=left)

        def talk() -> bytes:
            client = Stranger(right, context).shake(flush=False).say(b"hello")
            if ending == "closed":
                client.close_notify()
            client.flush()
            if ending == "cut":
                client.end_wire()
            return client.hear(100)

        talking = asyncio.ensure_future(asyncio.to_thread(talk))
        upgrade = tls.start_tls(transport, protocol, pki.server_context())
        if around == "wait_for":
            protocol.upgraded = await asyncio.wait_for(upgrade, 10)
        elif around == "gather":
            (protocol.upgraded,) = await asyncio.gather(upgrade)
        else:
            protocol.upgraded = await upgrade
        assert await talking == b"answer to hello"
        if ending == "closed":
            await asyncio.wait_for(protocol.eof.wait(), 5)
        if ending == "cut":
            assert isinstance(await protocol.lost, TruncationError)
        else:
            protocol.upgraded.abort()
            await protocol.lost
        right.close()

    run(main)


def test_an_upgrade_that_fails_is_told_to_the_protocol_too(pki: PKI, run: Any) -> None:
    async def main() -> None:
        client, client_protocol, server, server_protocol = await _plain_pair()
        upgrade = asyncio.ensure_future(tls.start_tls(client, client_protocol, pki.client_context(), server_hostname="localhost"))
        await server_protocol.until(5)
        server.write(b"500 no TLS here\r\n")
        with pytest.raises(NotTLSError):
            await upgrade
        assert isinstance(await client_protocol.lost, NotTLSError)
        server.close()
        await server_protocol.lost

    run(main)


def test_an_upgrade_has_a_deadline(pki: PKI, run: Any) -> None:
    async def main() -> None:
        client, client_protocol, server, server_protocol = await _plain_pair()
        with pytest.raises(HandshakeTimeout, match="0.2 s"):
            await tls.start_tls(client, client_protocol, pki.client_context(), server_hostname="localhost", ssl_handshake_timeout=0.2)
        assert isinstance(await client_protocol.lost, TimeoutError)
        server.close()
        await server_protocol.lost

    run(main)


@pytest.mark.parametrize("ours", [True, False])
def test_F01_an_upgrade_is_refused_while_a_stream_holds_bytes_in_clear(pki: PKI, run: Any, ours: bool) -> None:
    """Over our streams and over asyncio's: refused, with nothing changed; and what can only be TLS is taken as such."""

    async def main() -> None:
        reader_class: Any = tls.StreamReader if ours else asyncio.StreamReader
        protocol_class: Any = tls.StreamReaderProtocol if ours else asyncio.StreamReaderProtocol
        for injected in (b"RCPT TO:<x>\r\n", b"\x17\x03", b"\x16\x02\x01"):
            left, right = socket.socketpair()
            reader = reader_class()
            made = protocol_class(reader)
            transport, protocol = await tls.create_connection(functools.partial(_same, made), sock=left)
            right.sendall(b"STARTTLS\r\n" + injected)
            assert await reader.readline() == b"STARTTLS\r\n"
            with pytest.raises(ApiMisuse, match=rf"holds {len(injected)} bytes in clear"):
                await tls.start_tls(transport, protocol, pki.server_context())
            assert await reader.readexactly(len(injected)) == injected
            transport.write(b"going on in clear")
            assert right.recv(100) == b"going on in clear"
            transport.close()
            right.close()

    run(main)


def test_a_client_hello_right_behind_starttls_is_taken(pki: PKI, run: Any) -> None:
    """In one segment with the command, as clients may send it that do not wait for the answer."""
    context = stranger_context(pki, server=False)

    async def main() -> None:
        left, right = socket.socketpair()
        reader = tls.StreamReader()
        transport, protocol = await tls.create_connection(lambda: tls.StreamReaderProtocol(reader), sock=left)
        writer = tls.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        client = Stranger(right, context)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        right.sendall(b"STARTTLS\r\n" + client.outgoing.read())
        assert await reader.readline() == b"STARTTLS\r\n"
        await asyncio.sleep(0.05)
        await asyncio.gather(writer.start_tls(pki.server_context()), asyncio.to_thread(client.shake))
        assert writer.transport is not transport
        client.say(b"secret\n").flush()
        assert await reader.readline() == b"secret\n"
        # Flow control of the reader acts on the new transport.
        assert reader._transport is writer.transport
        writer.close()
        await writer.wait_closed()
        right.close()

    run(main)


def test_left_over_of_any_size(pki: PKI, run: Any) -> None:
    """More than the connector takes at once: a whole conversation was read before the upgrade."""
    context = stranger_context(pki, server=False, version="TLSv1.2")

    async def main() -> None:
        left, right = socket.socketpair()
        transport, protocol = await tls.create_connection(Recorder, sock=left)
        client = Stranger(right, context)
        shaking = asyncio.ensure_future(asyncio.to_thread(client.shake))
        await protocol.until(5)
        first = bytes(protocol.data)
        protocol.data.clear()
        transport = await tls.start_tls(transport, protocol, pki.server_context(), left_over=first)
        await shaking
        client.say(b"hello").flush()
        await protocol.until(5)
        assert protocol.data == b"hello"
        transport.close()
        right.close()
        # Garbage of more than one window is refused, not an error of ours.
        left, right = socket.socketpair()
        transport, protocol = await tls.create_connection(Recorder, sock=left)
        with pytest.raises(PeerError):
            await tls.start_tls(transport, protocol, pki.server_context(), left_over=b"\x16\x03\x01\x02\x00" + bytes(300_000))
        right.close()

    run(main)


# -- flow control and turns ------------------------------------------------------------------------------------------------------------


def test_pause_writing_reaches_an_application_that_writes_in_its_turn(pki: PKI, run: Any) -> None:
    class Floods(Recorder):
        written = 0

        def data_received(self, data: bytes) -> None:
            while not self.paused:
                self.transport.write(bytes(10_000))
                self.written += 10_000
                assert self.written < 100_000_000, "pause_writing() never comes"

    async def main() -> None:
        async with Serving(pki, Floods) as serving:
            client = await serving.connect()
            client.transport.write(b"go")
            await serving.accepted.wait()
            server: Any = serving.protocols[0]
            while not server.written:
                await asyncio.sleep(0.01)
            await client.until(server.written)
            client.transport.close()
            await client.lost

    run(main)


def test_F26_the_end_is_not_told_while_paused(pki: PKI, run: Any) -> None:
    """Data and close_notify arrive in one segment; the application pauses at the data."""

    class Pauses(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def main() -> None:
        async with Serving(pki, lambda: Pauses(keep_open=True)) as serving:
            client = await serving.connect()
            client.transport.write(b"the last words")
            client.transport.write_eof()
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.until(14)
            await asyncio.sleep(0.1)
            assert not server.eof.is_set()
            server.transport.resume_reading()
            await asyncio.wait_for(server.eof.wait(), 5)
            server.transport.close()
            client.transport.close()
            await client.lost

    run(main)


def test_reading_may_be_paused_and_resumed_any_number_of_times(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            client = await serving.connect()
            for _ in range(3):
                client.transport.pause_reading()
            assert not client.transport.is_reading()
            client.transport.write(b"x")
            await asyncio.sleep(0.05)
            assert client.data == b""
            for _ in range(3):
                client.transport.resume_reading()
            await client.until(1)
            client.transport.close()
            client.transport.pause_reading()
            client.transport.resume_reading()
            assert await client.lost is None

    run(main)


def test_sendfile(pki: PKI, run: Any, tmp_path: Path) -> None:
    """The loop's own, where the loop has it for TLS."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4000)

    async def main() -> None:
        async with Serving(pki) as serving:
            client = await serving.connect()
            with path.open("rb") as file:
                try:
                    sent = await asyncio.get_running_loop().sendfile(client.transport, file)
                except NotImplementedError:
                    client.transport.close()
                    await client.lost
                    return
            assert sent == 1_024_000
            await client.until(sent)
            assert client.data == path.read_bytes()
            client.transport.close()
            await client.lost

    run(main)


def test_the_loops_own_start_tls_works_over_our_transport(pki: PKI) -> None:
    """asyncio's TLS in ours."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            await serving.accepted.wait()
            server = serving.protocols[0]
            context = stranger_context(pki, server=True)
            new_client, new_server = await asyncio.gather(
                loop.start_tls(client.transport, client, stranger_context(pki, server=False), server_hostname="localhost"),
                loop.start_tls(server.transport, server, context, server_side=True),
            )
            assert new_client is not None
            assert new_server is not None
            new_client.write(b"twice")
            await server.until(5)
            assert server.data == b"twice"
            new_client.close()
            new_server.close()
            await client.lost

    asyncio.run(main())


def test_a_peer_that_resets_after_close_is_no_error(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await asyncio.to_thread(lambda: Stranger.connect(serving.port, stranger_context(pki, server=False)).shake())
            await serving.accepted.wait()
            server = serving.protocols[0]
            server.transport.close()
            await asyncio.sleep(0.05)
            client.reset()
            assert await asyncio.wait_for(server.lost, 5) is None
            Stranger.close_all()

    run(main)


def test_who_closes_the_transport_below_is_told_apart_from_a_cut(pki: PKI, run: Any) -> None:
    """As asyncio's Server.close_clients() does it: the peer has cut nothing."""

    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            client.transport.write(b"x")
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.until(1)
            wire: Any = server.transport.wire
            wire.close()
            assert isinstance(await server.lost, ConnectionAborted)
            assert isinstance(await client.lost, TruncationError)

    run(main)


def test_junk_after_close_notify_is_not_read_for_ever(pki: PKI, run: Any) -> None:
    async def main() -> None:
        async with Serving(pki, lambda: Recorder(keep_open=True)) as serving:
            sent = 0

            def flood() -> None:
                nonlocal sent
                client = Stranger.connect(serving.port, stranger_context(pki, server=False)).shake()
                client.close_notify().flush()
                client.sock.settimeout(0.5)
                try:
                    while sent < 100_000_000:
                        sent += client.sock.send(bytes(65536))
                except (TimeoutError, ConnectionError):
                    pass

            await asyncio.to_thread(flood)
            assert sent < 50_000_000
            server = serving.protocols[0]
            server.transport.write(b"an answer")
            server.transport.close()
            await server.lost
            Stranger.close_all()

    run(main)


def test_a_deadline_for_the_flush_holds_after_the_peers_end(pki: PKI, run: Any) -> None:
    """The peer has sent close_notify and FIN and takes nothing: closing does not wait for it for ever (F33)."""

    async def main() -> None:
        async with Serving(pki, lambda: Recorder(keep_open=True), limits=Limits(close_flush_timeout=0.3)) as serving:

            def connect() -> Stranger:
                client = Stranger.connect(serving.port, stranger_context(pki, server=False))
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                return client.shake()

            client = await asyncio.to_thread(connect)
            client.close_notify().flush()
            client.end_wire()
            await serving.accepted.wait()
            server = serving.protocols[0]
            await server.eof.wait()
            server.transport.write(bytes(20_000_000))
            begin = time.monotonic()
            server.transport.close()
            assert isinstance(await asyncio.wait_for(server.lost, 5), TimeoutError)
            assert time.monotonic() - begin < 4
            Stranger.close_all()

    run(main)
