"""How a connection behaves, whatever carries it: one suite, run over every world of ``tests/worlds``.

The other end is mostly a stranger (Python's ``ssl``), so that an error on both of our sides cannot hide itself.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from sslconnector import (
    ApiMisuse,
    CertificateError,
    CloseTimeout,
    Connector,
    HandshakeInterrupted,
    HandshakeState,
    Limits,
    NotTLSError,
    PeerAlert,
    TLSError,
    TruncationError,
)

from .helpers import PKI, VERSIONS
from .strangers import Stranger, serving, stranger_context
from .worlds import WORLDS, Stream, World, make_world
from .worlds.sockets import BlockingWorld, NonBlockingWorld

MEBI = 1 << 20


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = make_world(request.param)
    yield made
    Stranger.close_all()
    made.close()


def pattern(size: int) -> bytes:
    """Bytes of which no stretch looks like another one nearby."""
    block = b"".join(number.to_bytes(4, "big") for number in range(min(size, MEBI) // 4 + 1))
    return (block * (size // len(block) + 1))[:size]


@contextmanager
def listening(world: World, context: Any, **options: Any) -> Iterator[Any]:
    listener = world.listen(context, **options)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def in_thread(function: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """Runs it beside the block; what it raises is raised at the block's end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, *arguments)
        yield
        future.result(60)


def send_and_end(stream: Stream, data: bytes) -> None:
    stream.send(data)
    stream.close_write()


def send_and_close(stream: Stream, data: bytes) -> None:
    stream.send(data)
    stream.close()


def echo_stranger(pki: PKI, version: str | None = None) -> Callable[[socket.socket], None]:
    context = stranger_context(pki, server=True, version=version)

    def handle(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as peer:
            while data := peer.recv(65536):
                peer.sendall(data)
            peer.unwrap()

    return handle


def tls_stranger(pki: PKI, talk: Callable[[Stranger], None], version: str | None = None) -> Callable[[socket.socket], None]:
    """A server that shakes hands and then does as ``talk`` says."""
    context = stranger_context(pki, server=True, version=version)
    return lambda sock: talk(Stranger(sock, context, server_side=True).shake())


def patient_stranger(pki: PKI) -> Callable[[socket.socket], None]:
    """A server that shakes hands if the client stays, and does not mind if it goes."""
    context = stranger_context(pki, server=True)

    def handle(sock: socket.socket) -> None:
        try:
            Stranger(sock, context, server_side=True).shake().hear()
        except (ssl.SSLError, ConnectionError):
            pass

    return handle


def accepted_from(pki: PKI, listener: Any, version: str | None = None) -> tuple[Stranger, Stream]:
    """A client that is a stranger, connected to us."""
    client = Stranger.connect(listener.port, stranger_context(pki, server=False, version=version))
    client.shake()
    return client, listener.accept()


# -- echoes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 16384, 16385, 65536, MEBI, 16 * MEBI])
def test_a_stranger_echoes_us(pki: PKI, world: World, size: int) -> None:
    data = pattern(size)
    with serving(echo_stranger(pki)) as port:
        stream = world.connect(port, pki.client_context())
        with in_thread(send_and_end, stream, data):
            assert stream.recv_all() == data
        stream.close()


@pytest.mark.parametrize("version", list(VERSIONS))
def test_we_echo_a_stranger(pki: PKI, world: World, version: str) -> None:
    data = pattern(MEBI + 7)
    with listening(world, pki.server_context()) as listener:
        client = socket.create_connection(("127.0.0.1", listener.port), 30)
        context = stranger_context(pki, server=False, version=version)

        def serve() -> None:
            stream = listener.accept()
            while piece := stream.recv():
                stream.send(piece)
            stream.close()

        with in_thread(serve), context.wrap_socket(client, server_hostname="localhost") as peer:
            # One thread: an SSLSocket of Python's cannot be used by two at once.
            for position in range(0, len(data), 100_000):
                piece = data[position : position + 100_000]
                peer.sendall(piece)
                got = bytearray()
                while len(got) < len(piece):
                    got += peer.recv(65536)
                assert got == piece
            peer.unwrap()


def test_both_sides_are_ours_and_write_before_they_read(pki: PKI, world: World) -> None:
    """Each side's writer waits for the other's reader, and neither for its own."""
    data = pattern(4 * MEBI)
    with listening(world, pki.server_context()) as listener:
        client = world.connect(listener.port, pki.client_context())
        server = listener.accept()
        got: list[bytes] = []
        reading = in_thread(lambda: got.append(server.recv_exactly(len(data))))
        with in_thread(client.send, data), in_thread(server.send, data), reading:
            assert client.recv_exactly(len(data)) == data
        assert got == [data]
        client.close_write()
        assert server.recv() == b""
        server.close()
        assert client.recv() == b""
        client.close()


def test_500_connections_at_once(pki: PKI, world: World) -> None:
    context = pki.client_context()
    with listening(world, pki.server_context()) as listener:

        def one(number: int) -> Stream:
            stream = world.connect(listener.port, context)
            stream.send(b"%06d" % number)
            return stream

        with ThreadPoolExecutor(20) as pool:
            clients = list(pool.map(one, range(500)))
            servers = [listener.accept() for _ in range(500)]

            def answer(server: Stream) -> None:
                server.send(server.recv_exactly(6) * 1000)
                server.close_write()

            list(pool.map(answer, servers))
            for number, client in enumerate(clients):
                assert client.recv_all() == b"%06d" % number * 1000
            list(pool.map(lambda stream: stream.close(), clients))
            for server in servers:
                assert server.recv() == b""
            list(pool.map(lambda stream: stream.close(), servers))


# -- closing ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(VERSIONS))
def test_F20_an_answer_after_our_half_close_arrives_whole(pki: PKI, world: World, version: str) -> None:
    answer = pattern(8 * MEBI)

    def talk(peer: Stranger) -> None:
        assert peer.hear_all() == b"request"
        time.sleep(0.2)
        peer.say(answer).flush()
        peer.close_notify().flush()

    # Python's ssl answers close_notify on TLS 1.2 by refusing to write, as RFC 5246 says: there the server is ours.
    if version == "TLSv1.3":
        with serving(tls_stranger(pki, talk, version)) as port:
            stream = world.connect(port, pki.client_context())
            stream.send(b"request")
            stream.close_write()
            assert stream.recv_all() == answer
            stream.close()
    with listening(world, pki.server_context(**VERSIONS[version])) as listener:
        client = world.connect(listener.port, pki.client_context())
        client.send(b"request")
        client.close_write()
        server = listener.accept()
        assert server.recv_all() == b"request"
        time.sleep(0.2)
        with in_thread(send_and_close, server, answer):
            assert client.recv_all() == answer
        client.close()


def test_F20_we_answer_after_a_strangers_half_close(pki: PKI, world: World) -> None:
    answer = pattern(8 * MEBI)
    with listening(world, pki.server_context()) as listener:
        client, server = accepted_from(pki, listener, "TLSv1.3")
        client.say(b"request").close_notify().flush()
        assert server.recv_all() == b"request"
        time.sleep(0.2)
        with in_thread(send_and_close, server, answer):
            assert client.hear_all() == answer
            client.close()


@pytest.mark.parametrize("version", list(VERSIONS))
def test_F27_everything_written_before_close_arrives(pki: PKI, world: World, version: str) -> None:
    data = pattern(8 * MEBI)
    received: list[bytes] = []

    def talk(peer: Stranger) -> None:
        time.sleep(0.3)  # the socket's buffers are full by now
        received.append(peer.hear_all())

    with serving(tls_stranger(pki, talk, version)) as port:
        stream = world.connect(port, pki.client_context())
        stream.send(data)
        stream.close()
    assert received == [data]


def test_F33_close_gives_up_on_a_peer_that_does_not_read(pki: PKI, world: World) -> None:
    done = threading.Event()

    def talk(peer: Stranger) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        done.wait(30)

    with serving(tls_stranger(pki, talk)) as port:
        stream = world.connect(port, pki.client_context(limits=Limits(close_flush_timeout=0.4)))
        finished: list[BaseException | None] = []

        def fill() -> None:
            try:
                while True:
                    stream.send(bytes(MEBI))
            except OSError as error:
                finished.append(error)

        writer = threading.Thread(target=fill, daemon=True)
        writer.start()
        time.sleep(0.5)
        assert not finished, "a peer that does not read must hold the writer back"
        begin = time.monotonic()
        if world.closes_while_sending:
            with pytest.raises(CloseTimeout, match="0.4 s"):
                stream.close()
        else:
            stream.abort()
        assert time.monotonic() - begin < 5
        writer.join(10)
        assert finished
        done.set()


def test_silence_after_our_close_does_not_hold_us(pki: PKI, world: World) -> None:
    done = threading.Event()

    def wait(_: Any) -> None:
        done.wait(30)

    with serving(tls_stranger(pki, wait)) as port:
        stream = world.connect(port, pki.client_context())
        stream.send(b"bye")
        begin = time.monotonic()
        stream.close()
        assert time.monotonic() - begin < 4
        done.set()


# -- the end of the wire ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("size", [0, 100_000])
def test_F05_a_cut_is_told_after_the_data(pki: PKI, world: World, version: str, size: int) -> None:
    data = pattern(size)

    def talk(peer: Stranger) -> None:
        peer.say(data).flush()
        peer.end_wire()
        peer.fill()

    with serving(tls_stranger(pki, talk, version)) as port:
        stream = world.connect(port, pki.client_context())
        assert stream.recv_exactly(size) == data
        for _ in range(2):
            with pytest.raises(TruncationError, match="without close_notify"):
                stream.recv()
        with pytest.raises(TruncationError) if world.close_tells_of_a_cut else _nothing():
            stream.close()


def test_junk_on_an_established_connection_is_told_at_once(pki: PKI, world: World) -> None:
    """Its first bytes, read as a record's header, promise more than will ever come."""

    def talk(peer: Stranger) -> None:
        peer.say(b"good").flush()
        peer.sock.sendall(b"please corrupt the connection")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            while True:
                peer.hear()

    with serving(tls_stranger(pki, talk)) as port:
        stream = world.connect(port, pki.client_context())
        assert stream.recv_exactly(4) == b"good"
        with pytest.raises(ssl.SSLError, match="broke the TLS protocol"):
            stream.recv()
        stream.abort()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_F05_a_cut_by_a_client_is_told_to_the_server(pki: PKI, world: World) -> None:
    with listening(world, pki.server_context()) as listener:
        client, server = accepted_from(pki, listener)
        client.say(b"half of it").flush()
        client.end_wire()
        assert server.recv() == b"half of it"
        with pytest.raises(TruncationError):
            server.recv()
        client.close()


def test_a_wrong_record_is_told_after_the_data(pki: PKI, world: World) -> None:
    def talk(peer: Stranger) -> None:
        peer.say(b"good").flush()
        peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError, match="alert bad record mac"):
            peer.hear()

    with serving(tls_stranger(pki, talk)) as port:
        stream = world.connect(port, pki.client_context())
        assert stream.recv_exactly(4) == b"good"
        with pytest.raises(ssl.SSLError, match="bad record|bad_record|decryption"):
            stream.recv()
        stream.abort()


_STAGES = ["accepted", "hello", "flight", "established", "data"]


@pytest.mark.parametrize("stage", _STAGES)
def test_a_server_resets(pki: PKI, world: World, stage: str) -> None:
    context = stranger_context(pki, server=True)

    def handle(sock: socket.socket) -> None:
        peer = Stranger(sock, context, server_side=True)
        if stage == "accepted":
            return peer.reset()
        if stage in ("hello", "flight"):
            peer.fill()
            if stage == "flight":
                with pytest.raises(ssl.SSLWantReadError):
                    peer.tls.do_handshake()
                flight = peer.outgoing.read()
                sock.sendall(flight[: len(flight) // 2])
            return peer.reset()
        peer.shake()
        if stage == "data":
            peer.say(pattern(100_000)).flush()
            peer.hear()
        return peer.reset()

    with serving(handle) as port:
        if stage in ("accepted", "hello", "flight"):
            # A reset that comes while the socket still connects is told in the world's own way: some say that no attempt succeeded.
            with pytest.raises(OSError if stage == "accepted" else ConnectionError):
                world.connect(port, pki.client_context())
            return
        try:
            stream = world.connect(port, pki.client_context())
        except ConnectionError:
            assert stage == "established"
            return
        if stage == "data":
            assert stream.recv_exactly(100_000) == pattern(100_000)
            stream.send(b"x")
        with pytest.raises(ConnectionError):
            stream.recv()
        stream.abort()


@pytest.mark.parametrize("stage", _STAGES)
def test_a_client_resets(pki: PKI, world: World, stage: str) -> None:
    context = stranger_context(pki, server=False)
    with listening(world, pki.server_context()) as listener:
        client = Stranger.connect(listener.port, context)
        if stage in ("hello", "flight"):
            with pytest.raises(ssl.SSLWantReadError):
                client.tls.do_handshake()
            hello = client.outgoing.read()
            client.sock.sendall(hello[: len(hello) // 2] if stage == "hello" else hello)
            if stage == "flight":
                client.fill()
        elif stage in ("established", "data"):
            client.shake()
            server = listener.accept()
            if stage == "data":
                client.say(b"data").flush()
                assert server.recv_exactly(4) == b"data"
        client.reset()
        if stage in ("established", "data"):
            with pytest.raises(ConnectionError):
                while True:
                    assert server.recv() == b"", "nothing comes"
        # The server goes on.
        client, server = accepted_from(pki, listener)
        client.say(b"still there?").flush()
        assert server.recv() == b"still there?"
        client.close()


# -- handshakes ------------------------------------------------------------------------------------------------------------------------


def test_we_refuse_a_servers_certificate(pki: PKI, world: World) -> None:
    alerts: list[str] = []
    context = stranger_context(pki, server=True)

    def handle(sock: socket.socket) -> None:
        try:
            Stranger(sock, context, server_side=True).shake().hear()
        except ssl.SSLError as error:
            alerts.append(str(error))

    with serving(handle) as port:
        with pytest.raises(CertificateError):
            world.connect(port, pki.client_context(trust=pki.other_trust))
        with pytest.raises(CertificateError, match=r"other\.example"):
            world.connect(port, pki.client_context(), server_hostname="other.example")
    # The alert that says why arrived (F29).
    assert ["unknown ca" in alert or "bad certificate" in alert for alert in sorted(alerts)] == [True, True], alerts


@pytest.mark.parametrize("version", list(VERSIONS))
def test_a_server_refuses_our_certificate(pki: PKI, world: World, version: str) -> None:
    context = stranger_context(pki, server=True, version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    pki.ca.configure_trust(context)

    def refusing(sock: socket.socket) -> None:
        peer = Stranger(sock, context, server_side=True)
        with pytest.raises(ssl.SSLError):
            peer.shake()
        peer.flush()
        peer.end_wire()
        while peer.fill():
            pass

    with serving(refusing) as port:
        if version == "TLSv1.2":
            with pytest.raises(PeerAlert):
                world.connect(port, pki.client_context())
        else:
            # A TLS 1.3 client has no earlier word.
            stream = world.connect(port, pki.client_context())
            with pytest.raises(PeerAlert, match="certificate_required"):
                stream.recv()
            stream.abort()


@pytest.mark.parametrize("version", list(VERSIONS))
def test_we_refuse_a_clients_certificate(pki: PKI, world: World, version: str) -> None:
    wrong = pki.other_ca.issue_cert("client@example.org")
    with listening(world, pki.server_context(client_certificates="required", trust=pki.trust)) as listener:
        for certificate in (None, wrong):
            client = Stranger.connect(listener.port, stranger_context(pki, server=False, version=version, client_certificate=certificate))
            with pytest.raises(ssl.SSLError, match="alert"):
                client.shake().hear()
            client.close()
        good = stranger_context(pki, server=False, version=version, client_certificate=pki.ca.issue_cert("client@example.org"))
        client = Stranger.connect(listener.port, good).shake()
        server = listener.accept()
        assert server.connector is not None
        assert server.connector.peer_certificate is not None
        client.close()


def test_F11_a_silent_server(pki: PKI, world: World) -> None:
    done = threading.Event()

    def wait(_: Any) -> None:
        done.wait(30)

    with serving(wait) as port:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            world.connect(port, pki.client_context(limits=Limits(handshake_timeout=60)), timeout=0.3)
        with pytest.raises(TimeoutError):
            world.connect(port, pki.client_context(limits=Limits(handshake_timeout=0.3)), timeout=None if world.cancels else 0.4)
        assert time.monotonic() - begin < 5
        done.set()


def test_F11_a_silent_client_is_dropped(pki: PKI, world: World) -> None:
    with listening(world, pki.server_context(limits=Limits(handshake_timeout=0.3)), timeout=0.3) as listener:
        for first in (b"", b"\x16\x03\x01"):
            with socket.create_connection(("127.0.0.1", listener.port), 30) as client:
                client.sendall(first)
                while client.recv(100):
                    pass
        assert listener.accepted.empty()


def test_F36_a_peer_that_speaks_no_tls(pki: PKI, world: World) -> None:
    def smtp(sock: socket.socket) -> None:
        sock.sendall(b"220 mail.example ESMTP\r\n")
        while sock.recv(65536):
            pass

    with serving(smtp) as port, pytest.raises(NotTLSError, match="SMTP"):
        world.connect(port, pki.client_context())
    with listening(world, pki.server_context()) as listener, socket.create_connection(("127.0.0.1", listener.port), 30) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(100) == b""


def test_the_wire_ends_in_the_handshake(pki: PKI, world: World) -> None:
    def handle(sock: socket.socket) -> None:
        sock.recv(65536)

    with serving(handle) as port, pytest.raises(HandshakeInterrupted):
        world.connect(port, pki.client_context())


# -- what comes together ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 60_000, 500_000])
@pytest.mark.parametrize("ending", ["open", "closed", "fin", "cut"])
def test_data_in_the_segment_of_finished(pki: PKI, world: World, size: int, ending: str) -> None:
    """A client's last handshake flight, its data, close_notify and FIN, all at once."""
    data = pattern(size)
    with listening(world, pki.server_context()) as listener:
        client = Stranger.connect(listener.port, stranger_context(pki, server=False, version="TLSv1.3"))
        client.shake(flush=False)
        client.say(data)
        if ending in ("closed", "fin"):
            client.close_notify()
        client.flush()
        if ending in ("fin", "cut"):
            client.end_wire()
        server = listener.accept()
        assert server.recv_exactly(size) == data
        if ending == "cut":
            with pytest.raises(TruncationError):
                server.recv()
            server.abort()
        else:
            if ending != "open":
                assert server.recv() == b""
            server.send(b"answer")
            server.close_write()
            assert client.hear_all() == b"answer"
            client.close()


@pytest.mark.parametrize("version", list(VERSIONS))
def test_a_servers_data_and_close_notify_in_one_segment(pki: PKI, world: World, version: str) -> None:
    context = stranger_context(pki, server=True, version=version)
    data = pattern(50_000)

    def handle(sock: socket.socket) -> None:
        peer = Stranger(sock, context, server_side=True)
        peer.shake(flush=False).say(data).close_notify().flush()
        peer.end_wire()
        while peer.fill():
            pass

    with serving(handle) as port:
        stream = world.connect(port, pki.client_context())
        assert stream.recv_all() == data
        stream.close()


def test_one_byte_at_a_time(pki: PKI, world: World) -> None:
    def talk(peer: Stranger) -> None:
        peer.say(b"slowly").close_notify()
        for byte in peer.outgoing.read():
            peer.sock.sendall(bytes([byte]))
        peer.hear()

    with serving(tls_stranger(pki, talk)) as port:
        stream = world.connect(port, pki.client_context())
        assert stream.recv_all() == b"slowly"
        stream.close()


# -- upgrades and TLS in TLS -----------------------------------------------------------------------------------------------------------


def test_an_upgrade_in_mid_stream_as_client(pki: PKI, world: World) -> None:
    context = stranger_context(pki, server=True)

    def handle(sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")
        assert sock.recv(100) == b"STARTTLS\r\n"
        sock.sendall(b"220 go\r\n")
        peer = Stranger(sock, context, server_side=True).shake()
        while data := peer.hear():
            peer.say(data).flush()
        peer.close_notify().flush()

    with serving(handle) as port:
        stream = world.connect(port, None)
        assert stream.recv_exactly(11) == b"220 hello\r\n"
        stream.send(b"STARTTLS\r\n")
        assert stream.recv_exactly(8) == b"220 go\r\n"
        stream.start_tls(pki.client_context(), server_hostname="localhost")
        assert stream.connector is not None
        assert stream.connector.version == "TLSv1.3"
        stream.send(b"secret" * 1000)
        assert stream.recv_exactly(6000) == b"secret" * 1000
        stream.close_write()
        assert stream.recv() == b""
        stream.close()


def test_an_upgrade_in_mid_stream_as_server(pki: PKI, world: World) -> None:
    with listening(world, None) as listener:
        sock = socket.create_connection(("127.0.0.1", listener.port), 30)
        server = listener.accept()
        server.send(b"220 hello\r\n")
        assert sock.recv(100) == b"220 hello\r\n"
        sock.sendall(b"STARTTLS\r\n")
        assert server.recv_exactly(10) == b"STARTTLS\r\n"
        server.send(b"220 go\r\n")
        assert sock.recv(100) == b"220 go\r\n"
        with in_thread(lambda: server.start_tls(pki.server_context())):
            client = Stranger(sock, stranger_context(pki, server=False)).shake()
        client.say(b"secret").close_notify().flush()
        assert server.recv_all() == b"secret"
        server.send(b"answer")
        server.close_write()
        assert client.hear_all() == b"answer"
        client.close()
        server.close()


def test_F01_an_injected_command_does_not_cross_the_upgrade(pki: PKI, world: World) -> None:
    """What came in clear with STARTTLS is refused, or fails the handshake; it never comes out as if it had come over TLS."""
    with listening(world, None) as listener:
        sock = socket.create_connection(("127.0.0.1", listener.port), 30)
        server = listener.accept()
        sock.sendall(b"STARTTLS\r\nRCPT TO:<attacker>\r\n")
        time.sleep(0.1)
        first = server.recv()
        with pytest.raises((ApiMisuse, NotTLSError, HandshakeInterrupted)):
            if first == b"STARTTLS\r\nRCPT TO:<attacker>\r\n":
                # This world hands out what came; the rest would be the caller's to keep. Nothing is left inside.
                sock.sendall(b"more of it\r\n")
                time.sleep(0.1)
            server.start_tls(pki.server_context())
        sock.close()


def test_an_upgrade_that_fails_closes_the_connection(pki: PKI, world: World) -> None:
    context = stranger_context(pki, server=True)

    def handle(sock: socket.socket) -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Stranger(sock, context, server_side=True).shake().hear()

    with serving(handle) as port:
        stream = world.connect(port, None)
        with pytest.raises(CertificateError):
            stream.start_tls(pki.client_context(trust=pki.other_trust), server_hostname="localhost")


class _Tunnel:
    """The plaintext of a stranger's connection, as the socket of another stranger."""

    def __init__(self, outer: Stranger) -> None:
        self.outer = outer
        self.recv = outer.hear

    def sendall(self, data: bytes) -> None:
        self.outer.say(data).flush()


def test_tls_in_tls(pki: PKI, world: World) -> None:
    """Through a proxy that ends the outer TLS, to a server that ends the inner one."""
    context = stranger_context(pki, server=True)
    data = pattern(MEBI)

    def handle(sock: socket.socket) -> None:
        outer = Stranger(sock, context, server_side=True).shake()
        assert outer.hear(100) == b"CONNECT\r\n"
        outer.say(b"200\r\n").flush()
        inner = Stranger(_Tunnel(outer), context, server_side=True).shake()
        while got := inner.hear():
            inner.say(got).flush()
        inner.close_notify().flush()
        outer.close_notify().flush()

    with serving(handle) as port:
        stream = world.connect(port, pki.client_context())
        outer = stream.connector
        stream.send(b"CONNECT\r\n")
        assert stream.recv_exactly(5) == b"200\r\n"
        stream.start_tls(pki.client_context(), server_hostname="localhost")
        assert stream.connector is not outer
        with in_thread(send_and_end, stream, data):
            assert stream.recv_all() == data
        stream.close()


# -- cancellation ----------------------------------------------------------------------------------------------------------------------


def _needs_cancellation(world: World) -> Any:
    if not world.cancels:
        pytest.skip("sockets have no cancellation; their time-outs are tested below")
    return world


def test_a_cancelled_connect_leaves_nothing(pki: PKI, world: World) -> None:
    """At every step; the server sees each of the connections end."""
    asynchronous = _needs_cancellation(world)
    ours = pki.client_context()
    with serving(patient_stranger(pki)) as port:
        for steps in range(1000):

            async def connect() -> None:
                inner = await asynchronous.a_connect(port, ssl=ours, server_hostname="localhost")
                await inner.abort()

            if asynchronous.cancelled(steps, connect) and steps > 20:
                break
        else:
            pytest.fail("it never got through")


def test_a_cancelled_upgrade_leaves_nothing(pki: PKI, world: World) -> None:
    asynchronous = _needs_cancellation(world)
    ours = pki.client_context()
    with serving(patient_stranger(pki)) as port:
        for steps in range(1000):
            stream: Any = asynchronous.connect(port, None)
            done = asynchronous.cancelled(steps, lambda stream=stream: stream.inner.start_tls(ours, server_hostname="localhost"))
            stream.abort()
            if done:
                break
        else:
            pytest.fail("it never got through")


def test_cancelled_reads_and_writes_lose_nothing(pki: PKI, world: World) -> None:
    asynchronous = _needs_cancellation(world)
    data = pattern(3 * MEBI)
    with serving(echo_stranger(pki)) as port:
        stream: Any = asynchronous.connect(port, pki.client_context())

        def send() -> None:
            number = 0
            # A cancelled send has taken all of its data or none.
            while (position := stream.connector.statistics.plaintext_written) < len(data):
                assert position % 50_000 == 0
                piece = data[position : position + 50_000]
                asynchronous.cancelled(number % 7 + 1, lambda piece=piece: stream.inner.send(piece))
                number += 1

        got = bytearray()
        with in_thread(send):
            number = 0
            while len(got) < len(data):
                number += 1

                async def receive() -> None:
                    got.extend(await stream.inner.recv())

                asynchronous.cancelled(number % 5, receive)
        assert got == data
        # A cancelled close may close at once; nothing is under way any more.
        stream.close_write()
        assert stream.recv() == b""
        asynchronous.cancelled(1, stream.inner.close)
        stream.close()


def test_time_outs_lose_nothing(pki: PKI, world: World) -> None:
    if not isinstance(world, BlockingWorld) or isinstance(world, NonBlockingWorld):
        pytest.skip("for blocking sockets")
    data = pattern(3 * MEBI)
    with serving(echo_stranger(pki)) as port:
        stream: Any = world.connect(port, pki.client_context())
        stream.sock.settimeout(0.0005)

        def send() -> None:
            view = memoryview(data)
            while view:
                try:
                    view = view[stream.sock.send(view[:70_000]) :]
                except TimeoutError:
                    pass

        got = bytearray()
        with in_thread(send):
            while len(got) < len(data):
                try:
                    got += stream.sock.recv(30_000)
                except TimeoutError:
                    pass
        assert got == data
        stream.close()


# -- flow control ----------------------------------------------------------------------------------------------------------------------


def test_a_reader_that_rests_holds_the_peer_back_and_loses_nothing(pki: PKI, world: World) -> None:
    data = pattern(16 * MEBI)
    sent = threading.Event()

    def talk(peer: Stranger) -> None:
        view = memoryview(data)
        for position in range(0, len(view), MEBI):
            peer.say(view[position : position + MEBI]).flush()
        sent.set()
        peer.close_notify().flush()
        peer.hear()

    with serving(tls_stranger(pki, talk)) as port:
        stream = world.connect(port, pki.client_context())
        assert not sent.wait(0.5), "16 MiB were taken although nobody reads"
        assert stream.recv_all() == data
        stream.close()


def test_facts(pki: PKI, world: World) -> None:
    with listening(world, pki.server_context(alpn_protocols=["h2"])) as listener:
        client = world.connect(listener.port, pki.client_context(alpn_protocols=["h2", "http/1.1"]))
        server = listener.accept()
        for stream in (client, server):
            connector = stream.connector
            assert isinstance(connector, Connector)
            assert connector.handshake_state is HandshakeState.COMPLETED
            assert connector.alpn_protocol == "h2"
            assert connector.server_hostname == "localhost"
        assert issubclass(TruncationError, TLSError)
        client.close_write()
        assert server.recv() == b""
        server.close()
        assert client.recv() == b""
        client.close()
