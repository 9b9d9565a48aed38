"""Any order of what the wire and the application do: nothing is lost, doubled, reordered or told at a wrong time.

The wires are in memory and move only as much as a step says, so that every split and every order can come up.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sslconnector import Connector, PeerError
from sslconnector import asyncio as tls
from sslconnector.sync import TLSSocket, WantReadError, WantWriteError, wrap_socket

from .helpers import PKI, examples

_PKI = PKI()
_CLIENT, _SERVER = _PKI.client_context(), _PKI.server_context()

# -- asyncio ---------------------------------------------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """One end of a connection in memory, with the rules of a loop's transport."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.peer: Wire
        self.protocol: Any = None
        self.out = bytearray()
        self.reading = True
        self.paused = False
        self.eof_written = self.eof_told = self.closing = self.lost = False

    def start(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    # What protocols call.

    def write(self, data: Any) -> None:
        assert not self.eof_written, "write() after write_eof()"
        if self.closing:
            return
        self.out += data
        if len(self.out) > 50_000 and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return len(self.out)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        self.closing = True
        self._maybe_lose()

    def abort(self) -> None:
        self.closing = True
        self.out.clear()
        self._maybe_lose()

    # What the test does.

    def move(self, size: int) -> bool:
        """Carries up to ``size`` bytes, or the end, to the peer. False: there is nothing to carry, or nobody takes it."""
        peer = self.peer
        if peer.lost or (peer.closing and not self.lost):
            # Nobody is there any more: a reset, in real life.
            moved = bool(self.out)
            self.out.clear()
            self._taken()
            return moved
        if not peer.reading or peer.eof_told or peer.closing:
            return False
        if not self.out:
            if (self.eof_written or self.lost) and not peer.eof_told:
                peer.eof_told = True
                if not peer.protocol.eof_received():
                    peer.close()
                return True
            return False
        buffer = peer.protocol.get_buffer(-1)
        count = min(size, len(buffer), len(self.out))
        buffer[:count] = self.out[:count]
        del self.out[:count]
        peer.protocol.buffer_updated(count)
        self._taken()
        return True

    def _taken(self) -> None:
        if self.paused and len(self.out) < 10_000:
            self.paused = False
            if not self.lost:
                self.protocol.resume_writing()
        self._maybe_lose()

    def _maybe_lose(self) -> None:
        if self.closing and not self.out and not self.lost:
            self.lost = True
            self.loop.call_soon(self.protocol.connection_lost, None)


class Application(asyncio.Protocol):
    """Checks that it is called by the rules."""

    def __init__(self, keep_open: bool, reactions: list[str]) -> None:
        self.keep_open = keep_open
        #: what it does within data_received, one after the other
        self.reactions = reactions
        self.transport: Any = None
        self.got = bytearray()
        self.sent = bytearray()
        self.ended = self.lost = self.writing_paused = False
        self.error: BaseException | None = None

    def connection_made(self, transport: Any) -> None:
        assert self.transport is None
        self.transport = transport

    def _may_be_called(self) -> None:
        assert self.transport is not None
        assert not self.lost

    def data_received(self, data: bytes) -> None:
        self._may_be_called()
        assert data
        assert not self.ended
        # A lost wire delivers what came before, even to who has paused.
        assert not self.transport.is_closing()
        assert self.transport.is_reading() or self.transport.wire.lost
        self.got += data
        reaction = self.reactions.pop(0) if self.reactions else ""
        if reaction == "pause":
            self.transport.pause_reading()
        elif reaction == "resume":
            self.transport.pause_reading()
            self.transport.resume_reading()
        elif reaction in ("echo", "flood") and self.transport._connector.write_side.value == "open":
            echo = bytes(data) * (1 if reaction == "echo" else 100)
            self.transport.write(echo)
            self.sent += echo
        elif reaction == "write_eof":
            self.transport.write_eof()

    def eof_received(self) -> bool:
        self._may_be_called()
        assert not self.ended
        assert self.transport.is_reading() or self.transport.wire.lost
        self.ended = True
        return self.keep_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self._may_be_called()
        self.lost, self.error = True, exc

    def pause_writing(self) -> None:
        self._may_be_called()
        assert not self.writing_paused
        self.writing_paused = True

    def resume_writing(self) -> None:
        assert self.writing_paused
        self.writing_paused = False


class BufferedApplication(Application, asyncio.BufferedProtocol):
    """The same with a small buffer."""

    def __init__(self, keep_open: bool, reactions: list[str]) -> None:
        super().__init__(keep_open, reactions)
        self.buffer = bytearray(700)

    def get_buffer(self, sizehint: int) -> bytearray:
        self._may_be_called()
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))


_sizes = st.sampled_from([1, 5, 100, 1000, 16384, 20_000, 70_000, 200_000])
_steps = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.tuples(st.just("move"), _sizes),
            st.tuples(st.just("move"), _sizes),
            st.tuples(st.just("write"), _sizes),
            st.tuples(st.sampled_from(["pause", "resume", "turn"]), st.just(0)),
            st.tuples(st.sampled_from(["write_eof", "close"]), st.just(0)),
        ),
    ),
    max_size=60,
)


_reactions = st.lists(st.sampled_from(["", "pause", "pause", "resume", "echo", "flood", "write_eof"]), max_size=12)


async def _play(steps: Any, kinds: tuple[Any, Any], keep_open: tuple[bool, bool], reactions: tuple[list[str], list[str]]) -> None:
    loop = asyncio.get_running_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    wires = Wire(loop), Wire(loop)
    wires[0].peer, wires[1].peer = wires[1], wires[0]
    applications: list[Application] = [kind(keep, react) for kind, keep, react in zip(kinds, keep_open, reactions, strict=True)]
    wires[0].start(tls.TLSProtocol(loop, Connector(_CLIENT, server_hostname="localhost"), lambda: applications[0]))
    wires[1].start(tls.TLSProtocol(loop, Connector(_SERVER), lambda: applications[1]))
    for _ in range(20):
        wires[0].move(100_000)
        wires[1].move(100_000)
    assert all(application.transport is not None for application in applications)
    transports = [application.transport for application in applications]
    written_to_the_end = [True, True]
    for which, (action, size) in steps:
        application, transport = applications[which], transports[which]
        if action == "move":
            wires[which].move(size)
        elif action == "turn":
            await asyncio.sleep(0)
        elif action == "write":
            if transport.is_closing() or transport._connector.write_side.value != "open":
                continue
            data = (len(application.sent) + which).to_bytes(4, "big") * (size // 4 + 1)
            transport.write(data)
            application.sent += data
        elif action == "pause":
            transport.pause_reading()
        elif action == "resume":
            transport.resume_reading()
        elif action == "write_eof":
            transport.write_eof()
        elif action == "close":
            # Who closes does not want the rest of what the peer has to say.
            if not transport.is_closing() and not application.ended:
                written_to_the_end[not which] = False
            transport.close()
    # Then everything moves, and everybody closes.
    for _ in range(3):
        for transport in transports:
            transport.resume_reading()
        quiet = 0
        while quiet < 3:
            for transport in transports:
                transport.resume_reading()
            before = [len(application.got) for application in applications]
            await asyncio.sleep(0)
            moved = wires[0].move(200_000) | wires[1].move(200_000)
            quiet = 0 if moved or before != [len(application.got) for application in applications] else quiet + 1
        for application, transport in zip(applications, transports, strict=True):
            if not transport.is_closing() and application.ended:
                transport.close()
        for which, transport in enumerate(transports):
            if not transport.is_closing():
                transport.write_eof()
            applications[which].keep_open = False
    for which in (0, 1):
        application, other = applications[which], applications[not which]
        if written_to_the_end[not which]:
            assert application.got == other.sent
            assert application.ended or application.lost
        else:
            assert other.sent.startswith(application.got)
        assert application.error is None or not all(written_to_the_end)
        assert not isinstance(application.error, AssertionError)
    for wire in wires:
        wire.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(application.lost for application in applications)
    assert problems == []


@settings(max_examples=examples(200))
@given(
    _steps,
    st.tuples(*[st.sampled_from([Application, BufferedApplication])] * 2),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(_reactions, _reactions),
)
def test_asyncio(steps: Any, kinds: Any, keep_open: Any, reactions: Any) -> None:
    asyncio.run(_play(steps, kinds, keep_open, reactions))


# -- sockets ---------------------------------------------------------------------------------------------------------------------------


class Pipe:
    """A non-blocking object in memory: holds up to so many bytes, takes and gives as many as the last step said."""

    def __init__(self, incoming: bytearray, outgoing: bytearray) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.takes = self.gives = 100_000

    def recv_into(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self.incoming), self.gives)
        if not size:
            raise BlockingIOError
        buffer[:size] = self.incoming[:size]
        del self.incoming[:size]
        return size

    def send(self, data: memoryview) -> int:
        size = min(len(data), self.takes, 60_000 - len(self.outgoing))
        if size <= 0:
            raise BlockingIOError
        self.outgoing += data[:size]
        return size

    def gettimeout(self) -> float:
        return 0.0


_socket_steps = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(
            st.tuples(st.sampled_from(["send", "sendall", "recv", "recv_into", "recv", "takes", "gives"]), _sizes),
            st.tuples(st.sampled_from(["flush", "shutdown", "handshake"]), st.just(0)),
        ),
    ),
    max_size=80,
)


@settings(max_examples=examples(150))
@given(_socket_steps)
def test_sockets(steps: Any) -> None:
    import socket

    one, two = bytearray(), bytearray()
    pipes = Pipe(one, two), Pipe(two, one)
    ends: list[TLSSocket] = [wrap_socket(pipes[0], _CLIENT, server_hostname="localhost"), wrap_socket(pipes[1], _SERVER)]
    sent, got = [bytearray(), bytearray()], [bytearray(), bytearray()]
    shut = [False, False]

    def do(which: bool, action: str, size: int) -> None:
        end = ends[which]
        if action in ("takes", "gives"):
            setattr(pipes[which], action, size % 7 if size < 1000 else size)
            return
        data = (len(sent[which]) + which).to_bytes(4, "big") * (size // 4 + 1)
        try:
            if action == "send" and not shut[which]:
                sent[which] += data[: end.send(data)]
            elif action == "sendall" and not shut[which]:
                end.sendall(data)
                sent[which] += data
            elif action == "recv":
                got[which] += end.recv(size)
            elif action == "recv_into":
                buffer = bytearray(size)
                got[which] += buffer[: end.recv_into(buffer)]
            elif action == "flush":
                end.flush()
            elif action == "handshake":
                end.do_handshake()
            elif action == "shutdown":
                # Is it shut when the call raised? Only once the handshake is complete; asking again is harmless.
                end.shutdown(socket.SHUT_WR)
        except (WantReadError, WantWriteError):
            pass
        shut[which] = end.connector.write_side.value != "open"

    for which, (action, size) in steps:
        do(which, action, size)
    for pipe in pipes:
        pipe.takes = pipe.gives = 100_000
    for _ in range(400):
        for which in (False, True):
            do(which, "handshake", 0)
            do(which, "flush", 0)
            do(which, "recv", 65536)
        do(False, "shutdown", 0)
        do(True, "shutdown", 0)
        if all(end.connector.finished for end in ends):
            break
    assert got[0] == sent[1]
    assert got[1] == sent[0]
    for end in ends:
        assert end.recv() == b""
        assert end.waits_for == 0
        end.close()


def test_a_damaged_segment_is_told_and_ends_it() -> None:
    """One flipped bit at each place of a conversation: an error on at least one side, and both connections end."""

    async def play(where: int) -> None:
        loop = asyncio.get_running_loop()
        wires = Wire(loop), Wire(loop)
        wires[0].peer, wires[1].peer = wires[1], wires[0]
        applications = [Application(True, []), Application(True, [])]
        waiters: list[Any] = [loop.create_future(), loop.create_future()]
        wires[0].start(tls.TLSProtocol(loop, Connector(_CLIENT, server_hostname="localhost"), lambda: applications[0], waiters[0]))
        wires[1].start(tls.TLSProtocol(loop, Connector(_SERVER), lambda: applications[1], waiters[1]))
        position = 0
        for _ in range(30):
            for which in (0, 1):
                out = wires[which].out
                if position <= where < position + len(out):
                    out[where - position] ^= 0x10
                position += len(out)
                wires[which].move(100_000)
                transport = applications[which].transport
                if transport is not None and not applications[which].sent and not transport.is_closing():
                    applications[which].sent += b"data" * 100
                    transport.write(b"data" * 100)
        errors = []
        for wire, application, waiter in zip(wires, applications, waiters, strict=True):
            wire.protocol.connector.receive_eof()
            wire.abort()
            await asyncio.sleep(0)
            if waiter.done() and waiter.exception() is not None:
                errors.append(waiter.exception())
            errors.append(application.error)
            assert bytes(application.got) in (b"", b"data" * 100)
        assert any(isinstance(error, PeerError) for error in errors)

    for where in range(0, 5000, 61):
        asyncio.run(play(where))
