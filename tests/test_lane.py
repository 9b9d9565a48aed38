"""The lanes, all twins of them: plain turns in the shortest way, and everything as if they were not there."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslconnector import Connector, KeyLimitReached, Limits, TruncationError, _engine
from sslconnector._engine import lane as direct_lane
from sslconnector.asyncio import TLSProtocol, create_server
from sslconnector.asyncio.wire import SocketWire
from sslconnector.timers import Timer

from .asyncio_helpers import Echo, Recorder, Serving
from .helpers import PKI
from .strangers import Stranger, stranger_context

Main = Callable[[], Coroutine[Any, Any, Any]]
TWINS = [name for name, engine in _engine.ENGINES.items() if engine.lane_type is not None]


@pytest.fixture(params=TWINS)
def lane_twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(_engine, "default_engine", _engine.ENGINES[request.param])
    return str(request.param)


class Pair:
    """One of our servers' connections over a socket pair, and Python's ``ssl`` at the other end, in one thread."""

    def __init__(self, pki: PKI, application: Callable[[], asyncio.BaseProtocol], **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.sock = theirs
        self.stranger = Stranger(None, stranger_context(pki, server=False))
        self.protocol = TLSProtocol(self.loop, Connector(pki.server_context(**options)), application)
        SocketWire(self.loop, ours, self.protocol)
        self.application: Any = None

    @property
    def lane(self) -> Any:
        return self.protocol._lane

    async def shake(self) -> None:
        while True:
            try:
                self.stranger.tls.do_handshake()
            except Exception as error:
                if "want read" not in str(error).lower() and "did not complete" not in str(error):
                    raise
                await self.flush()
                await self.fill()
            else:
                break
        await self.flush()
        while self.protocol.application is None:
            await asyncio.sleep(0)
        self.application = self.protocol.application

    async def flush(self) -> None:
        if self.stranger.outgoing.pending:
            await self.loop.sock_sendall(self.sock, self.stranger.outgoing.read())

    async def fill(self) -> bool:
        data = await self.loop.sock_recv(self.sock, 262144)
        self.stranger.incoming.write(data)
        return bool(data)

    async def say(self, data: bytes) -> None:
        self.stranger.tls.write(data)
        await self.flush()

    async def hear(self, size: int) -> bytes:
        heard = bytearray()
        while len(heard) < size:
            try:
                heard += self.stranger.tls.read(size - len(heard))
            except Exception as error:
                if "did not complete" not in str(error):
                    raise
                if not await self.fill():
                    break
        return bytes(heard)

    async def end(self) -> None:
        self.sock.close()
        while self.protocol.wire is not None:
            await asyncio.sleep(0)


def test_plain_turns_are_the_lanes(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Echo)
        await pair.shake()
        await pair.say(b"first")
        assert await pair.hear(5) == b"first"
        assert pair.lane.lent
        before = pair.protocol.connector.statistics
        for size in (1, 100, 16384, 40000):
            await pair.say(bytes(size))
            assert await pair.hear(size) == bytes(size)
            assert pair.lane.lent
        after = pair.protocol.connector.statistics
        assert after.plaintext_read - before.plaintext_read == after.plaintext_written - before.plaintext_written == 56485
        assert after.records_read - before.records_read == 6
        assert after.ciphertext_received - before.ciphertext_received == 56485 + 6 * 22
        # What the lane counted stays counted when the connection is taken back.
        pair.protocol._leave_lane()
        assert pair.protocol.connector.statistics == after
        await pair.end()

    run(main)


def test_each_call_of_the_transport_takes_the_connection_back(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Recorder)
        await pair.shake()
        await pair.say(b"x")
        await pair.application.until(1)
        transport, lane = pair.application.transport, pair.lane
        assert lane.lent
        transport.pause_reading()
        assert not lane.lent
        await pair.say(b"paused")
        await asyncio.sleep(0.02)
        assert bytes(pair.application.data) == b"x"
        transport.resume_reading()
        await pair.application.until(7)
        assert lane.lent
        other = Recorder()
        transport.set_protocol(other)
        assert lane.lent
        await pair.say(b"for the other")
        await other.until(13)
        assert bytes(pair.application.data) == b"xpaused"
        transport.write(bytearray(b"any buffer"))
        transport.write(memoryview(b" will do"))
        transport.writelines([b", ", b"also several"])
        transport.write(bytes(100_000))
        assert await pair.hear(100_032) == b"any buffer will do, also several" + bytes(100_000)
        with pytest.raises(TypeError, match="bytes-like"):
            transport.write("text")
        transport.write_eof()
        assert not lane.lent
        with pytest.raises(RuntimeError, match="after close_write"):
            transport.write(b"late")
        transport.abort()
        await pair.end()

    run(main)


_MOVES = st.one_of(
    st.tuples(st.just("say"), st.sampled_from([1, 3, 700, 5000, 20000])),
    st.tuples(st.just("cut"), st.one_of(st.integers(0, 30), st.integers(0, 40000))),
    st.tuples(st.just("write"), st.sampled_from([1, 300, 17000, 70000])),
    st.tuples(st.sampled_from(["pause", "resume", "turn"]), st.just(0)),
)


@given(moves=st.lists(_MOVES, max_size=25))
@pytest.mark.parametrize("twin_name", TWINS)
def test_any_cut_and_any_order(moves: list[tuple[str, int]], pki: PKI, twin_name: str) -> None:
    """Cuts of the ciphertext, writes of the application's own between them, pauses: every byte once and in order, and the counts right."""
    engine = _engine.ENGINES[twin_name]

    async def main() -> None:
        pair = Pair(pki, Recorder)
        await pair.shake()
        said, told = bytearray(), bytearray()
        ciphertext = bytearray()
        application = pair.application
        for move, size in [*moves, ("resume", 0)]:
            if move == "say":
                message = bytes([len(said) % 251]) * size
                pair.stranger.tls.write(message)
                said += message
                ciphertext += pair.stranger.outgoing.read()
            elif move == "cut":
                await pair.loop.sock_sendall(pair.sock, ciphertext[:size])
                del ciphertext[:size]
            elif move == "write":
                message = bytes([len(told) % 251]) * size
                told += message
                application.transport.write(message)
            elif move == "pause":
                application.transport.pause_reading()
            elif move == "resume":
                application.transport.resume_reading()
            else:
                await asyncio.sleep(0)
        await asyncio.gather(pair.loop.sock_sendall(pair.sock, bytes(ciphertext)), application.until(len(said)))
        assert application.data == said
        assert await pair.hear(len(told)) == told
        statistics = pair.protocol.connector.statistics
        assert (statistics.plaintext_read, statistics.plaintext_written) == (len(said), len(told))
        # A cut after all of it is told as one.
        pair.sock.shutdown(socket.SHUT_WR)
        assert isinstance(await application.lost, TruncationError)
        await pair.end()

    original = _engine.default_engine
    _engine.default_engine = engine
    try:
        asyncio.run(asyncio.wait_for(main(), 20))
    finally:
        _engine.default_engine = original


def test_what_is_not_data_is_for_the_connector(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    """Damage, close_notify and a reset meet the lane first; data before them is delivered, and the rules are the same."""

    async def main() -> None:
        pair = Pair(pki, Recorder)
        await pair.shake()
        pair.stranger.tls.write(b"good")
        good = pair.stranger.outgoing.read()
        pair.stranger.tls.write(b"bad")
        bad = bytearray(pair.stranger.outgoing.read())
        bad[-1] ^= 1
        await pair.loop.sock_sendall(pair.sock, good + bytes(bad))
        error = await pair.application.lost
        assert "bad_record_mac" in str(error)
        assert bytes(pair.application.data) == b"good"
        await pair.end()

        pair = Pair(pki, lambda: Recorder(keep_open=True))
        await pair.shake()
        await pair.say(b"before")
        pair.stranger.tls.write(b"last words")
        with pytest.raises(Exception, match="did not complete"):
            pair.stranger.tls.unwrap()
        await pair.flush()
        await pair.application.eof.wait()
        assert bytes(pair.application.data) == b"beforelast words"
        pair.application.transport.write(b"half-closed")
        await pair.fill()
        pair.application.transport.close()
        await pair.end()

    run(main)


def test_a_write_to_a_neighbour_within_a_turn(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    """Chat: what comes on one connection is written to all. Each byte goes to its own socket."""

    async def main() -> None:
        members: list[Recorder] = []

        class Member(Recorder):
            def data_received(self, data: bytes) -> None:
                for member in members:
                    member.transport.write(data + b"%d" % members.index(member))

        async with Serving(pki, Member) as serving:
            clients = [await serving.connect() for _ in range(3)]
            await asyncio.sleep(0.01)
            members += serving.protocols
            clients[1].transport.write(b"hello")
            for number, client in enumerate(clients):
                await client.until(6)
                assert bytes(client.data) == b"hello%d" % number
                client.transport.close()
                await client.lost

    run(main)


def test_an_application_that_raises(pki: PKI, lane_twin: str) -> None:
    problems: list[dict[str, Any]] = []

    class Raising(Recorder):
        def data_received(self, data: bytes) -> None:
            if data == b"boom":
                raise ValueError("boom")
            if data == b"exit":
                raise SystemExit(7)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        pair = Pair(pki, Raising)
        await pair.shake()
        await pair.say(b"fine")
        await asyncio.sleep(0.01)
        assert pair.lane.lent
        await pair.say(b"boom")
        assert isinstance(await pair.application.lost, ValueError)
        await pair.end()
        pair = Pair(pki, Raising)
        await pair.shake()
        await pair.say(b"fine")
        await asyncio.sleep(0.01)
        await pair.say(b"exit")
        left.append(pair)
        await asyncio.sleep(1)

    left: list[Pair] = []

    with pytest.raises(SystemExit):
        asyncio.run(main())
    # The loop was left with an open connection.
    wire: Any = left[0].protocol.wire
    for sock in (wire._sock, left[0].sock):
        sock.close()
    wire._sock = None
    assert [context["message"] for context in problems] == ["Fatal error: protocol.data_received() call failed."]


class Buffered(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = bytearray(1000)
        self.sizes: list[int] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        assert sizehint == -1
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.sizes.append(nbytes)
        self.transport.write(self.buffer[:nbytes])


def test_buffered_protocols(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Buffered)
        await pair.shake()
        for size in (10, 3000):
            await pair.say(bytes(range(250)) * (size // 250) or b"0123456789")
            assert len(await pair.hear(size)) == size
        assert pair.lane.lent
        assert pair.application.sizes == [10, 1000, 1000, 1000]
        # A buffer without room is the application's mistake, and said once.
        pair.application.buffer = bytearray()
        await pair.say(b"x")
        await pair.end()

    main.problem_count = 1  # type: ignore[attr-defined]
    run(main)


def test_the_key_limit_is_reported_from_the_lane(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Echo, limits=Limits(records_per_key=3))
        await pair.shake()
        events: list[Any] = []
        connector = pair.protocol.connector
        pair.protocol._take_events = lambda: events.extend(iter(connector.next_event, None))  # type: ignore[method-assign]
        for _ in range(4):
            await pair.say(b"x")
            assert await pair.hear(1) == b"x"
        assert [event.direction for event in events if isinstance(event, KeyLimitReached)] == ["read", "write"]
        await pair.end()

    run(main)


def test_memory_is_given_back_by_a_sweep(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Echo, limits=Limits(release_memory_after=0.02))
        await pair.shake()
        await pair.say(bytes(16384))
        assert await pair.hear(16384) == bytes(16384)
        connector = pair.protocol.connector
        assert connector.grown
        while connector.grown:
            await asyncio.sleep(0.01)
        assert pair.lane.lent
        assert Timer.MEMORY not in connector._timers
        await pair.say(bytes(16384))
        assert await pair.hear(16384) == bytes(16384)
        # Half a record in the buffers: they are kept until it is whole.
        pair.stranger.tls.write(bytes(5000))
        record = pair.stranger.outgoing.read()
        await pair.loop.sock_sendall(pair.sock, record[:3000])
        await asyncio.sleep(0.1)
        assert connector.grown
        await pair.loop.sock_sendall(pair.sock, record[3000:])
        assert await pair.hear(5000) == bytes(5000)
        while connector.grown:
            await asyncio.sleep(0.01)
        await pair.end()

    run(main)


# -- what a turn costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif("compiled" not in TWINS, reason="there was no compiler")
def test_an_echo_takes_one_call_of_python(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled lane nothing of ours runs in Python: the application's ``data_received``, and its call of ``write``."""
    monkeypatch.setattr(_engine, "default_engine", _engine.ENGINES["compiled"])

    async def main() -> list[str]:
        pair = Pair(pki, Echo)
        await pair.shake()
        await pair.say(b"x" * 500)
        await pair.hear(500)
        await pair.say(b"x" * 500)
        await asyncio.sleep(0)
        pair.stranger.tls.write(b"x" * 500)
        pair.sock.send(pair.stranger.outgoing.read())
        calls: list[str] = []

        def note(frame: Any, event: str, argument: Any) -> None:
            if event == "call":
                calls.append(frame.f_code.co_name)
            elif event == "c_call":
                calls.append(argument.__name__)

        turn = pair.lane.readable
        sys.setprofile(note)
        turn()
        sys.setprofile(None)
        await pair.end()
        return calls

    assert asyncio.run(main()) == ["readable", "data_received", "write", "setprofile"]


def test_an_echo_calls_openssl_four_times(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each record: one BIO_write, one SSL_read, one SSL_write, one BIO_read; no call has to fail. And one recv, one send."""
    monkeypatch.setattr(_engine, "default_engine", _engine.ENGINES["direct"])
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        return call

    async def main() -> None:
        pair = Pair(pki, Echo)
        await pair.shake()
        await pair.say(b"x")
        await pair.hear(1)
        for name in ("_SSL_read", "_SSL_write", "_BIO_read", "_BIO_write"):
            monkeypatch.setattr(direct_lane, name, counted(name[1:], getattr(direct_lane, name)))
        pair.lane._recv_into = counted("recv", pair.lane._recv_into)
        pair.lane._send = counted("send", pair.lane._send)
        for size in (1, 1000, 16384):
            calls.clear()
            await pair.say(bytes(size))
            assert await pair.hear(size) == bytes(size)
            # A record of 16 KiB may come in two segments.
            calls["recv"], calls["BIO_write"] = min(calls["recv"], 1), min(calls["BIO_write"], 1)
            assert calls == {"recv": 1, "BIO_write": 1, "SSL_read": 1, "SSL_write": 1, "BIO_read": 1, "send": 1}
        await pair.end()

    asyncio.run(main())


def test_a_closed_lane_refers_to_nothing(run: Callable[[Main], Any], pki: PKI, lane_twin: str) -> None:
    async def main() -> None:
        pair = Pair(pki, Echo)
        await pair.shake()
        await pair.say(b"x")
        await pair.hear(1)
        lane, write = pair.lane, pair.application.transport.write
        await pair.end()
        assert not lane.lent
        write(b"into the void")
        lane.readable()
        lane.writable()
        assert pair.application.transport.write != write

    run(main)


@pytest.mark.skipif("compiled" not in TWINS, reason="there was no compiler")
def test_a_compiled_lane_checks_what_it_is_lent() -> None:
    from sslconnector._engine import _pump

    with socket.socket() as sock:
        lane = _pump.Lane(sock, object(), object(), print)
        with pytest.raises(TypeError):
            lane.lend(1, print, None, (b"", 0, 0), 1, 1000, 1, True)  # type: ignore[arg-type]
        pump = _pump.Pump()
        with pytest.raises(RuntimeError):
            lane.lend(pump, print, None, (b"", 0, 0), 1, 1000, 1, True)
        assert not lane.lent
    with pytest.raises((OSError, ValueError)):
        _pump.Lane(sock, object(), object(), print)


@pytest.mark.parametrize("twin_name", list(_engine.ENGINES))
def test_the_interpreter_ends_well(pki: PKI, twin_name: str, tmp_path: Any) -> None:
    """Memory that is pinned for C outlives the collector's last run."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(pki.server_cert.cert_chain_pems[0].bytes())
    key.write_bytes(pki.server_cert.private_key_pem.bytes())
    program = """
import asyncio, sys
from sslconnector import ClientContext, Identity, ServerContext
from sslconnector.asyncio import open_connection, start_server
async def handle(reader, writer):
    writer.write(await reader.read(100))
async def main():
    server = await start_server(handle, "127.0.0.1", 0, ssl=ServerContext(identities=Identity.from_files(*sys.argv[1:])))
    port = server.sockets[0].getsockname()[1]
    reader, writer = await open_connection("127.0.0.1", port, ssl=ClientContext(verify_peer=False))
    writer.write(b"hello")
    assert await reader.read(5) == b"hello"
    kept.extend((reader, writer, server))
kept = []
asyncio.run(main())
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(certificate), str(key)]
    done = subprocess.run(
        command, env={**os.environ, "SSLCONNECTOR_ENGINE": twin_name}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_server_on_another_twin_is_served_all_the_same(run: Callable[[Main], Any], pki: PKI, twin: str) -> None:
    async def main() -> None:
        server = await create_server(Echo, "127.0.0.1", 0, ssl=pki.server_context())
        port = server.sockets[0].getsockname()[1]
        async with Serving(pki) as other:
            client = await other.connect()
            client.transport.write(bytes(50_000))
            await client.until(50_000)
            client.transport.close()
            await client.lost
        assert port
        server.close()
        await server.wait_closed()

    run(main)
