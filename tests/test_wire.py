"""Sockets as wires, who is served when, and the listening side."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sslconnector import Connector, _engine
from sslconnector import asyncio as tls
from sslconnector.asyncio import TLSProtocol, poller
from sslconnector.asyncio.poller import READ, WRITE, EpollSet, LoopPoller
from sslconnector.asyncio.wire import SocketServer, SocketWire

from .asyncio_helpers import Echo, Recorder, Serving
from .helpers import PKI

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")

Main = Callable[[], Coroutine[Any, Any, Any]]
_compiled = getattr(_engine.ENGINES.get("compiled"), "epoll_set", None)


class Watch:
    def __init__(self, sock: socket.socket, note: list[Any], patient: bool = False) -> None:
        self.sock, self.note, self.patient = sock, note, patient
        self.then: Callable[[], None] = lambda: None

    def readable(self) -> None:
        self.note.append((self, "readable"))
        self.then()

    def writable(self) -> None:
        self.note.append((self, "writable"))
        self.then()


@pytest.fixture(params=["python", "compiled"])
def epoll_set(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return EpollSet
    if _compiled is None:
        pytest.skip("there was no compiler")
    return _compiled


class Pairs:
    def __init__(self, made: Any, count: int, **options: Any) -> None:
        self.failures: list[Exception] = []
        self.note: list[Any] = []
        self.set = made(64, self.failures.append)
        self.ends = [socket.socketpair() for _ in range(count)]
        self.watches = [Watch(ours, self.note, **options) for ours, _ in self.ends]
        for watch in self.watches:
            self.set.watch(watch.sock.fileno(), watch, READ)

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        self.set.close()
        for pair in self.ends:
            for end in pair:
                end.close()

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.ends[number][1].send(b"x")


def test_who_is_ready_is_called(epoll_set: Any) -> None:
    with Pairs(epoll_set, 3) as pairs:
        pairs.say(0, 2)
        pairs.set.serve()
        assert {watch for watch, _ in pairs.note} == {pairs.watches[0], pairs.watches[2]}
        assert len(pairs.set) == 3
        pairs.note.clear()
        fd = pairs.watches[0].sock.fileno()
        pairs.set.change(fd, READ | WRITE)
        pairs.set.change(pairs.watches[2].sock.fileno(), 0)
        pairs.set.serve()
        assert pairs.note == [(pairs.watches[0], "readable"), (pairs.watches[0], "writable")]
        pairs.set.forget(fd)
        with pytest.raises(KeyError):
            pairs.set.forget(fd)
        with pytest.raises(KeyError):
            pairs.set.change(fd, READ)
        assert len(pairs.set) == 2


def test_one_that_is_forgotten_or_closed_meanwhile_is_not_called(epoll_set: Any) -> None:
    with Pairs(epoll_set, 3) as pairs:
        first = pairs.watches[0]
        for watch in pairs.watches:
            # Whoever comes first takes the others out.
            def take_others_out(me: Watch = watch) -> None:
                for other in pairs.watches:
                    if other is not me:
                        pairs.set.forget(other.sock.fileno())

            watch.then = take_others_out
        pairs.say(0, 1, 2)
        pairs.set.serve()
        assert len(pairs.note) == 1
        assert first.sock.fileno() >= 0
    with Pairs(epoll_set, 2) as pairs:
        for watch in pairs.watches:
            watch.then = lambda: pairs.set.close()
        pairs.say(0, 1)
        pairs.set.serve()


def test_errors_reach_even_who_only_writes(epoll_set: Any) -> None:
    with Pairs(epoll_set, 1) as pairs:
        watch = pairs.watches[0]
        pairs.set.change(watch.sock.fileno(), WRITE)
        watch.sock.send(b"unread")
        pairs.ends[0][1].close()
        pairs.set.serve()
        assert pairs.note == [(watch, "writable")]
        # Who asked for nothing is left alone, however often it is looked.
        pairs.set.change(watch.sock.fileno(), 0)
        pairs.set.serve()
        assert len(pairs.note) == 1


def test_what_a_callback_raises_hits_nobody_else(epoll_set: Any) -> None:
    with Pairs(epoll_set, 3) as pairs:
        error = ValueError("mine")

        def fail() -> None:
            raise error

        pairs.watches[1].then = fail
        pairs.say(0, 1, 2)
        pairs.set.serve()
        assert len(pairs.note) == 3
        assert pairs.failures == [error]

        def leave() -> None:
            raise KeyboardInterrupt

        pairs.watches[1].then = leave
        with pytest.raises(KeyboardInterrupt):
            pairs.set.serve()


def test_the_patient_are_served_one_by_one_after_the_others(epoll_set: Any) -> None:
    with Pairs(epoll_set, 6, patient=True) as pairs:
        for watch in pairs.watches[3:]:
            watch.patient = False
        for watch in pairs.watches:
            watch.then = lambda: pairs.note[-1][0].sock.recv(1)
        pairs.say(0, 1, 2, 3, 4, 5)
        pairs.set.serve()
        served = [watch for watch, _ in pairs.note]
        assert set(served[:3]) == set(pairs.watches[3:])
        assert len(served) == 4
        for _ in range(2):
            pairs.set.serve()
        assert {watch for watch, _ in pairs.note} == set(pairs.watches)


def test_each_is_called_in_its_own_context(epoll_set: Any) -> None:
    name = contextvars.ContextVar("name", default="none")
    with Pairs(epoll_set, 0) as pairs:
        seen = []
        for number in range(2):
            pairs.ends.append(socket.socketpair())
            watch = Watch(pairs.ends[-1][0], pairs.note)
            watch.then = lambda: seen.append(name.get())
            token = name.set(f"connection {number}")
            pairs.set.watch(watch.sock.fileno(), watch, READ)
            name.reset(token)
        pairs.say(0, 1)
        pairs.set.serve()
        assert sorted(seen) == ["connection 0", "connection 1"]
        assert name.get() == "none"


@pytest.mark.skipif(_compiled is None, reason="there was no compiler")
def test_the_compiled_set_checks_what_it_is_given() -> None:
    assert _compiled is not None
    made = _compiled(10, print)
    with socket.socket() as sock:
        made.watch(sock.fileno(), object(), 0)
        with pytest.raises(ValueError, match="cannot be watched"):
            made.watch(sock.fileno(), object(), READ)
        with pytest.raises(ValueError, match="cannot be watched"):
            made.watch(-1, object(), READ)
        with pytest.raises(TypeError):
            made.watch("one")
    with pytest.raises(OSError):
        made.watch(100_000, object(), READ)
    made.close()
    made.close()


async def _exchange(pki: PKI) -> None:
    async with Serving(pki) as serving:
        client = await serving.connect()
        client.transport.write(bytes(300_000))
        await client.until(300_000)
        client.transport.pause_reading()
        client.transport.write(b"more")
        await asyncio.sleep(0.02)
        assert len(client.data) == 300_000
        client.transport.resume_reading()
        await client.until(300_004)
        client.transport.close()
        await client.lost


def test_without_epoll(run: Callable[[Main], Any], pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's own calls do it, too."""
    monkeypatch.delattr(select, "epoll")

    async def main() -> None:
        await _exchange(pki)
        assert isinstance(poller.poller_of(asyncio.get_running_loop()), LoopPoller)

    run(main)


def test_in_python(run: Callable[[Main], Any], pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "epoll_set", None)
    run(lambda: _exchange(pki))


def test_nothing_is_left_in_the_loop(run: Callable[[Main], Any], pki: PKI) -> None:
    async def main() -> None:
        # The first time a loop may open something of its own.
        await _exchange(pki)
        await asyncio.sleep(0.05)
        before = len(os.listdir("/proc/self/fd"))
        await _exchange(pki)
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == before

    run(main)


# -- the wire ----------------------------------------------------------------------------------------------------------------------


def test_what_the_wire_knows(run: Callable[[Main], Any], pki: PKI) -> None:
    async def main() -> None:
        async with Serving(pki) as serving:
            client = await serving.connect()
            await serving.accepted.wait()
            wire: Any = client.transport.wire
            assert isinstance(wire, SocketWire)
            assert "open" in repr(wire)
            peer = ("127.0.0.1", serving.port)
            assert client.transport.get_extra_info("peername") == peer
            own = client.transport.get_extra_info("sockname")
            assert own == client.transport.get_extra_info("socket").getsockname()
            assert serving.protocols[0].transport.get_extra_info("peername") == own
            assert wire.get_protocol() is not None
            with pytest.raises(NotImplementedError):
                wire.set_protocol(Recorder())
            assert wire.is_reading()
            assert client.transport.get_extra_info("nothing", 7) == 7
            client.transport.abort()
            await client.lost
            assert client.transport.get_extra_info("peername") == peer
            assert client.transport.get_extra_info("sockname") == own
            await asyncio.sleep(0)
            assert client.transport.get_extra_info("socket") is None
            assert "closed" in repr(wire)
            wire.write(b"nobody")
            wire.close()

    run(main)


def test_a_reset_behind_data_is_found_out(run: Callable[[Main], Any], pki: PKI) -> None:
    """libuv forgets a descriptor at its first error, and then what came before it was never followed by the error."""

    async def main() -> None:
        async with Serving(pki, Recorder) as serving:
            client = await serving.connect()
            client.transport.write(b"last words")
            wire: Any = client.transport.wire
            sock = socket.socket(fileno=os.dup(wire.get_extra_info("socket").fileno()))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.transport.abort()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sock.close()
            while not serving.protocols:
                await asyncio.sleep(0.001)
            assert isinstance(await serving.protocols[0].lost, ConnectionError)

    run(main)


def test_an_unclosed_wire_is_complained_about(pki: PKI) -> None:
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    wire: Any = SocketWire(loop, ours, TLSProtocol(loop, Connector(pki.server_context()), Echo))
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        wire.__del__()
    assert ours.fileno() == -1
    wire._sock = None
    theirs.close()
    loop.close()


# -- the server --------------------------------------------------------------------------------------------------------------------


def test_the_server_is_asyncios(run: Callable[[Main], Any], pki: PKI) -> None:
    async def main() -> None:
        server = await tls.create_server(Echo, "127.0.0.1", 0, ssl=pki.server_context(), start_serving=False)
        assert isinstance(server, asyncio.Server)
        assert isinstance(server, SocketServer)
        assert not server.is_serving()
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        transport, protocol = await tls.create_connection(
            Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost"
        )
        transport.write(b"x")
        await protocol.until(1)
        transport.close()
        await protocol.lost
        async with server:
            forever = asyncio.ensure_future(server.serve_forever())
            await asyncio.sleep(0)
            forever.cancel()
            with pytest.raises(asyncio.CancelledError):
                await forever
        server.close()
        assert server.sockets == ()
        assert not server.is_serving()

        listening = socket.create_server(("127.0.0.1", 0))
        server = await tls.create_server(Echo, sock=listening, ssl=pki.server_context())
        port = listening.getsockname()[1]
        transport, protocol = await tls.create_connection(
            Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost"
        )
        server.close()
        assert listening.fileno() == -1
        transport.write(b"still served")
        await protocol.until(12)
        transport.close()
        await protocol.lost
        await server.wait_closed()
        with pytest.raises(ValueError, match="host/port and sock"), socket.socket() as sock:
            await tls.create_server(Echo, "127.0.0.1", 0, sock=sock, ssl=pki.server_context())

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
def test_a_server_closes_its_clients(run: Callable[[Main], Any], pki: PKI) -> None:
    async def main() -> None:
        server = await tls.create_server(Echo, "127.0.0.1", 0, ssl=pki.server_context())
        port = server.sockets[0].getsockname()[1]
        _, protocol = await tls.create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
        _, other = await tls.create_connection(Recorder, "127.0.0.1", port, ssl=pki.client_context(), server_hostname="localhost")
        for client in (protocol, other):
            client.transport.write(b"x")
            await client.until(1)
        server.close()
        server.close_clients()  # type: ignore[attr-defined,unused-ignore]
        # In the orderly way: with close_notify.
        assert await protocol.lost is None
        assert await other.lost is None
        await server.wait_closed()

    run(main)


def test_exhaustion_does_not_make_the_server_deaf(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors a connection waits in the backlog; the server says so, and takes it when there are some again."""
    problems: list[dict[str, Any]] = []
    monkeypatch.setattr("sslconnector.asyncio.wire._EXHAUSTED_SECONDS", 0.05)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with Serving(pki) as serving:
            listener = serving.server._listeners[0]  # type: ignore[attr-defined]
            original, listener._sock = listener._sock, Failing(listener._sock)
            client = await serving.connect()
            listener._sock = original
            client.transport.write(b"x")
            await client.until(1)
            client.transport.close()
            await client.lost

    class Failing:
        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.left = sock, 2

        def accept(self) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return self.sock.accept()

        def fileno(self) -> int:
            return self.sock.fileno()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert len(problems) == 2
    assert "no resources to accept a connection" in problems[0]["message"]


def test_a_connection_that_cannot_be_made_is_given_up(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    problems: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with Serving(pki) as serving:
            server: Any = serving.server
            make, server.make_protocol = server.make_protocol, lambda: 1 / 0
            with pytest.raises(ConnectionError):
                await serving.connect()
            server.make_protocol = make
            client = await serving.connect()
            client.transport.close()
            await client.lost

    asyncio.run(asyncio.wait_for(main(), 20))
    assert [context["message"] for context in problems] == ["an accepted connection was given up"]
