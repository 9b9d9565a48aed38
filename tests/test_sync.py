"""TLS on plain sockets: what only they have (the rest is in test_behaviour)."""

from __future__ import annotations

import importlib.util
import os
import queue
import selectors
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sslconnector import (
    ApiMisuse,
    CallbackError,
    CertificateError,
    CloseTimeout,
    ConfigurationError,
    HandshakeInterrupted,
    HandshakeTimeout,
    Limits,
    PeerAlert,
    PeerError,
    TruncationError,
)
from sslconnector.sync import TLSSocket, WantReadError, WantWriteError, wrap_socket

from .helpers import PKI
from .strangers import Stranger, serving, stranger_context


@contextmanager
def pair(pki: PKI, client: dict[str, Any] | None = None, server: dict[str, Any] | None = None) -> Iterator[tuple[TLSSocket, TLSSocket]]:
    """Two ends of one connection, both ours, blocking with a time-out."""
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)
    made: list[TLSSocket] = []
    thread = threading.Thread(target=lambda: made.append(wrap_socket(right, pki.server_context(**(server or {})))))
    thread.start()
    one = wrap_socket(left, pki.client_context(**(client or {})), server_hostname="localhost")
    thread.join()
    try:
        yield one, made[0]
    finally:
        one.abort()
        made[0].abort()


def test_the_calls_of_a_socket(pki: PKI) -> None:
    with pair(pki, {"alpn_protocols": ["x"]}, {"alpn_protocols": ["x"]}) as (client, server):
        assert client.gettimeout() == client.timeout == 10
        assert client.getblocking()
        assert client.fileno() > 0
        assert client.family == socket.AF_UNIX
        assert client.type == socket.SOCK_STREAM
        assert client.proto == 0
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 100_000
        assert client.getpeername() == client.getsockname() == ""
        assert client.version() == "TLSv1.3"
        assert client.selected_alpn_protocol() == "x"
        assert client.getpeercert()["subjectAltName"][0] == ("DNS", "localhost")  # type: ignore[call-overload,index]
        assert server.server_side
        assert client.pending() == 0
        server.sendall(b"0123456789")
        assert client.recv(0) == b""
        assert client.recv(3) == b"012"
        assert client.pending() > 0
        buffer = bytearray(5)
        assert client.recv_into(buffer) == 5
        assert buffer == b"34567"
        assert client.recv_into(memoryview(buffer), 1) == 1
        assert client.recv_into(bytearray()) == 0
        assert client.recv(1000) == b"9"
        assert client.send(b"") == 0
        client.sendall(b"")
        client.settimeout(0.1)
        # Taken, though the peer does not read: what is left goes out first with the next call.
        assert client.send(bytes(1_000_000)) == 262_144
        with pytest.raises(TimeoutError):
            client.flush()
        assert "completed" in repr(client)
        client.setblocking(False)
        assert client.gettimeout() == 0
        client.settimeout(5)
    assert client.fileno() == -1
    assert "closed" in repr(client)
    assert client.waits_for == 0
    for call in (lambda: client.recv(1), lambda: client.send(b"x"), client.flush, client.do_handshake, lambda: client.recv(0)):
        with pytest.raises(OSError, match="the socket is closed"):
            call()
    client.close()


def test_wrong_arguments(pki: PKI) -> None:
    with pytest.raises(TypeError, match=r"sock must be a socket, or have recv_into\(\) and send\(\); str has no recv_into"):
        wrap_socket("socket", pki.client_context(), server_hostname="localhost")  # type: ignore[arg-type]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(TypeError, match="SOCK_STREAM"):
        wrap_socket(datagrams, pki.client_context(), server_hostname="localhost")
    with socket.socket() as unconnected, pytest.raises(HandshakeInterrupted, match="not connected"):
        wrap_socket(unconnected, pki.client_context(), server_hostname="localhost")
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(TypeError, match="context must be"):
            wrap_socket(left, ssl.create_default_context())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="needs server_hostname"):
            wrap_socket(left, pki.client_context())
        with pytest.raises(TypeError, match="left_over must be bytes"):
            wrap_socket(left, pki.server_context(), left_over=bytearray())  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="identity_provider"):
            wrap_socket(left, pki.server_context(identities=None, identity_on_demand=True))
        assert left.fileno() > 0, "nothing of this has touched the socket"
    with pair(pki) as (client, _):
        for call, error in (
            (lambda: client.recv(-1), ValueError),
            (lambda: client.recv(True), ValueError),
            (lambda: client.recv(1.5), ValueError),  # type: ignore[arg-type]
            (lambda: client.recv(1, socket.MSG_PEEK), ValueError),
            (lambda: client.recv_into(b"x"), TypeError),  # type: ignore[arg-type]
            (lambda: client.recv_into(bytearray(1), -1), ValueError),
            (lambda: client.send("text"), TypeError),  # type: ignore[arg-type]
            (lambda: client.sendall("text"), TypeError),  # type: ignore[arg-type]
            (lambda: client.send(b"x", socket.MSG_OOB), ValueError),
            (lambda: client.settimeout(-1), ValueError),
            (lambda: client.settimeout("1s"), ValueError),  # type: ignore[arg-type]
            (lambda: client.shutdown(7), ValueError),
        ):
            with pytest.raises(error):
                call()  # type: ignore[no-untyped-call]
        client.sendall(b"unharmed")


def test_a_failed_handshake_closes_the_socket_and_tells_the_peer(pki: PKI) -> None:
    left, right = socket.socketpair()
    told: list[BaseException] = []

    def serve() -> None:
        try:
            wrap_socket(right, pki.server_context())
        except OSError as error:
            told.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(CertificateError):
        wrap_socket(left, pki.client_context(trust=pki.other_trust), server_hostname="localhost")
    thread.join(10)
    assert left.fileno() == right.fileno() == -1
    assert "unknown_ca" in str(told[0])


def test_the_sockets_time_out_is_for_the_whole_call(pki: PKI) -> None:
    """Bytes that trickle in do not extend it."""
    done = threading.Event()

    def talk(sock: socket.socket) -> None:
        peer = Stranger(sock, stranger_context(pki, server=True), server_side=True).shake()
        peer.say(bytes(16384))
        record = peer.outgoing.read()
        for byte in record:
            if done.wait(0.05):
                return
            sock.sendall(bytes([byte]))

    with serving(talk) as port:
        client = wrap_socket(socket.create_connection(("127.0.0.1", port), 5), pki.client_context(), server_hostname="localhost")
        client.settimeout(0.3)
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match="timed out"):
            client.recv()
        assert 0.25 < time.monotonic() - begin < 2
        done.set()
        client.abort()


def test_F11_the_handshakes_own_deadline_holds_without_a_time_out(pki: PKI) -> None:
    left, right = socket.socketpair()
    with right, pytest.raises(HandshakeTimeout):
        wrap_socket(left, pki.client_context(limits=Limits(handshake_timeout=0.2)), server_hostname="localhost")


# -- threads ---------------------------------------------------------------------------------------------------------------------------


def test_one_thread_reads_while_another_writes(pki: PKI) -> None:
    """Both directions full, both ends ours: the readers never wait for the writers."""
    data = os.urandom(1 << 20) * 8
    with pair(pki) as (client, server):
        results: dict[str, bytes] = {}

        def read(name: str, sock: TLSSocket) -> None:
            got = bytearray()
            while len(got) < len(data):
                got += sock.recv()
            results[name] = bytes(got)

        threads = [threading.Thread(target=read, args=("client", client)), threading.Thread(target=read, args=("server", server))]
        threads += [threading.Thread(target=sock.sendall, args=(data,)) for sock in (client, server)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == {"client": data, "server": data}


def test_two_writers_do_not_mix_their_messages(pki: PKI) -> None:
    with pair(pki) as (client, server):
        size = 1_000_000
        threads = [threading.Thread(target=client.sendall, args=(bytes([number]) * size,)) for number in range(4)]
        for thread in threads:
            thread.start()
        got = bytearray()
        while len(got) < 4 * size:
            got += server.recv()
        for thread in threads:
            thread.join(10)
        for position in range(0, 4 * size, size):
            assert len(set(got[position : position + size])) == 1


def test_abort_wakes_a_reader_in_another_thread(pki: PKI) -> None:
    with pair(pki) as (client, _):
        client.settimeout(None)
        errors: list[BaseException] = []

        def read() -> None:
            try:
                client.recv()
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(0.1)
        client.abort()
        thread.join(5)
        assert not thread.is_alive()
        assert errors


def test_close_wakes_a_reader_in_another_thread(pki: PKI) -> None:
    with pair(pki) as (client, _):
        client.settimeout(None)
        ended = threading.Event()

        def read() -> None:
            try:
                client.recv()
            except OSError:
                pass
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        time.sleep(0.1)
        client.close()
        assert ended.wait(5)


def test_both_threads_begin_with_the_handshake(pki: PKI) -> None:
    left, right = socket.socketpair()
    client = wrap_socket(left, pki.client_context(), server_hostname="localhost", do_handshake_on_connect=False)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(client.recv()))
    writer = threading.Thread(target=lambda: client.sendall(b"ping"))
    reader.start()
    writer.start()
    with wrap_socket(right, pki.server_context()) as server:
        assert server.recv() == b"ping"
        server.sendall(b"pong")
        reader.join(10)
        writer.join(10)
        assert got == [b"pong"]
        client.abort()


# -- non-blocking ----------------------------------------------------------------------------------------------------------------------


def test_a_non_blocking_send_that_raises_has_taken_nothing(pki: PKI) -> None:
    """And one that returned need not be repeated with the same bytes (F24)."""
    with pair(pki) as (client, server):
        client.settimeout(0)
        sent = bytearray()
        number = 0
        with pytest.raises(WantWriteError) as caught:
            while True:
                piece = bytes([number % 251]) * 50_000
                sent += piece[: client.send(piece)]
                number += 1
        assert isinstance(caught.value, ssl.SSLWantWriteError)
        assert isinstance(caught.value, BlockingIOError)
        assert client.waits_for & selectors.EVENT_WRITE
        with pytest.raises(WantWriteError):
            client.send(b"other data")
        with pytest.raises(WantWriteError):
            client.sendall(b"other data")
        got = bytearray()
        while len(got) < len(sent):
            got += server.recv()
            try:
                client.flush()
            except WantWriteError:
                pass
        assert got == sent
        assert not client.waits_for & selectors.EVENT_WRITE
        client.sendall(b"goes")
        assert server.recv() == b"goes"


def test_a_non_blocking_recv_says_what_it_waits_for(pki: PKI) -> None:
    with pair(pki) as (client, server):
        client.settimeout(0)
        with pytest.raises(WantReadError) as caught:
            client.recv()
        assert isinstance(caught.value, ssl.SSLWantReadError)
        assert client.waits_for == selectors.EVENT_READ
        server.sendall(b"x")
        selector = selectors.DefaultSelector()
        selector.register(client, client.waits_for)
        assert selector.select(5)
        assert client.recv() == b"x"
        selector.close()
        with pytest.raises(WantReadError):
            client.unwrap()
        server.shutdown(socket.SHUT_WR)
        assert client.recv() == b""
        assert client.waits_for == 0


def test_a_non_blocking_handshake_is_part_of_the_first_call(pki: PKI) -> None:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    client = wrap_socket(left, pki.client_context(), server_hostname="localhost")
    server = wrap_socket(right, pki.server_context())
    got = b""
    for _ in range(100):
        try:
            client.send(b"first")
            break
        except WantReadError:
            pass
        with pytest.raises(WantReadError):
            server.recv()
    for _ in range(100):
        try:
            got += server.recv()
        except WantReadError:
            continue
        break
    assert got == b"first"
    client.close()
    server.close()


# -- the end ---------------------------------------------------------------------------------------------------------------------------


def test_unwrap_gives_back_the_socket_and_what_followed(pki: PKI) -> None:
    left, right = socket.socketpair()
    left.settimeout(7)

    def serve() -> None:
        peer = Stranger(right, stranger_context(pki, server=True), server_side=True).shake()
        assert peer.hear_all() == b"over"
        right.sendall(peer.close_notify().outgoing.read() + b"in clear again")
        assert right.recv(100) == b"welcome back"

    thread = threading.Thread(target=serve)
    thread.start()
    client = wrap_socket(left, pki.client_context(), server_hostname="localhost")
    client.sendall(b"over")
    sock, left_over = client.unwrap()
    assert sock is left
    assert sock.gettimeout() == 7
    while len(left_over) < 14:
        left_over += sock.recv(100)
    assert left_over == b"in clear again"
    sock.sendall(b"welcome back")
    thread.join(10)
    with pytest.raises(OSError, match="closed"):
        client.recv()
    client.close()
    assert sock.fileno() > 0
    sock.close()
    right.close()


def test_unwrap_does_not_lose_data_that_nobody_has_read(pki: PKI) -> None:
    with pair(pki) as (client, server):
        server.sendall(b"unread")
        server.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with pytest.raises(ApiMisuse, match="not read to its end"):
                client.unwrap()
        assert client.pending() == 6
        buffer = bytearray(2)
        assert client.recv_into(buffer) == 2
        assert buffer + client.recv(2) + client.recv() == b"unread"
        sock, left_over = client.unwrap()
        assert left_over == b""
        sock.close()


def test_unwrap_of_a_cut_connection(pki: PKI) -> None:
    with pair(pki) as (client, server):
        server._wire.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(TruncationError):
            client.unwrap()


def test_F27_close_tells_what_did_not_arrive(pki: PKI) -> None:
    with pair(pki, {"limits": Limits(close_flush_timeout=0.3)}) as (client, _):
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(20_000_000))
        client.settimeout(None)
        with pytest.raises(CloseTimeout, match="data that was written before is lost"):
            client.close()
        assert client.fileno() == -1


def test_F27_a_non_blocking_close_tells_it_too(pki: PKI) -> None:
    with pair(pki) as (client, _):
        client.settimeout(0)
        client.sendall(bytes(5_000_000))
        with pytest.raises(CloseTimeout, match=r"flush\(\) first"):
            client.close()
        assert client.fileno() == -1


def test_the_alert_is_read_though_the_peer_takes_no_more(pki: PKI) -> None:
    """The server refuses and shuts its side for reading; our part of the handshake cannot be sent any more."""
    left, right = socket.socketpair()
    client = wrap_socket(left, pki.client_context(), server_hostname="localhost", do_handshake_on_connect=False)
    right.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
    right.shutdown(socket.SHUT_RD)
    with pytest.raises(PeerAlert, match="handshake_failure"):
        client.do_handshake()
    client.abort()
    right.close()


def test_facts_while_another_thread_reads(pki: PKI) -> None:
    with pair(pki) as (client, server):
        reading = threading.Thread(target=client.recv)
        reading.start()
        for _ in range(20):
            assert client.getpeercert(True) == client.get_verified_chain()[0]
            assert len(client.get_channel_binding()) == 32
        server.sendall(b"x")
        reading.join(10)
        assert client.session is not None


def test_close_is_quiet_when_only_close_notify_is_lost(pki: PKI) -> None:
    with pair(pki) as (client, server):
        server._wire.sock.close()
        client.close()


def test_shutdown_both_ways(pki: PKI) -> None:
    with pair(pki) as (client, server):
        client.shutdown(socket.SHUT_RD)
        client.sendall(b"last")
        client.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ApiMisuse):
            client.send(b"x")
        assert server.recv() == b"last"
        assert server.recv() == b""


def test_makefile(pki: PKI) -> None:
    with pair(pki) as (client, server):
        with client.makefile("rw", encoding="utf-8", newline="\n") as file, server.makefile("rwb") as other:
            client.close()
            # The files keep it open.
            file.write("grüße\nzweite\n")
            file.flush()
            assert other.readline() == "grüße\n".encode()
            assert other.read(6) == b"zweite"
            other.write(b"answer\n")
            other.flush()
            assert file.readline() == "answer\n"
        assert client.fileno() == -1


# -- anything with recv_into and send --------------------------------------------------------------------------------------------------


class Pipe:
    """Two queues."""

    def __init__(self, incoming: queue.Queue[bytes], outgoing: queue.Queue[bytes]) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.rest = b""

    def recv_into(self, buffer: memoryview) -> int:
        data = self.rest or self.incoming.get(timeout=10)
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self.rest = data[size:]
        return size

    def send(self, data: memoryview) -> int:
        piece = bytes(data[:1000])
        self.outgoing.put(piece)
        return len(piece)


def test_over_any_object(pki: PKI) -> None:
    one: queue.Queue[bytes] = queue.Queue()
    two: queue.Queue[bytes] = queue.Queue()

    def serve() -> None:
        server = wrap_socket(Pipe(one, two), pki.server_context())
        while data := server.recv():
            server.sendall(data)
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = wrap_socket(Pipe(two, one), pki.client_context(), server_hostname="localhost")
    assert client.gettimeout() is None
    with pytest.raises(TypeError, match="a Pipe has no settimeout"):
        client.settimeout(1)
    client.sendall(bytes(100_000))
    got = 0
    while got < 100_000:
        got += len(client.recv())
    client.shutdown(socket.SHUT_RDWR)
    assert client.recv() == b""
    client.close()
    thread.join(10)
    assert not thread.is_alive()


def test_an_object_that_does_not_wait_is_a_non_blocking_one(pki: PKI) -> None:
    class NotYet(Pipe):
        def recv_into(self, buffer: memoryview) -> int:
            raise BlockingIOError

    with pytest.raises(WantReadError):
        wrap_socket(NotYet(queue.Queue(), queue.Queue()), pki.client_context(), server_hostname="localhost")


# -- identities, sessions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_an_identity_on_demand(pki: PKI, broken: bool) -> None:
    left, right = socket.socketpair()
    context = pki.server_context(identities=None, identity_on_demand=True)
    results: list[Any] = []

    def provider(event: Any) -> Any:
        assert event.server_name == "localhost"
        return None if broken else pki.server

    def serve() -> None:
        try:
            results.append(wrap_socket(right, context, identity_provider=provider))
        except CallbackError as error:
            results.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    if broken:
        with pytest.raises(PeerError):
            wrap_socket(left, pki.client_context(), server_hostname="localhost")
        thread.join(10)
        assert isinstance(results[0].__cause__, TypeError)
    else:
        client = wrap_socket(left, pki.client_context(), server_hostname="localhost")
        thread.join(10)
        client.abort()
        results[0].abort()


def test_a_session_is_resumed(pki: PKI) -> None:
    context, front = pki.client_context(), pki.server_context()
    session = None
    for expected in (False, True):
        left, right = socket.socketpair()

        def serve(right: socket.socket = right) -> None:
            with wrap_socket(right, front) as server:
                server.sendall(server.recv())
                server.recv()

        thread = threading.Thread(target=serve)
        thread.start()
        with wrap_socket(left, context, server_hostname="localhost", session=session) as client:
            client.sendall(b"x")
            assert client.recv() == b"x"
            assert client.session_reused is expected
            session = client.session
        thread.join(10)


def test_F30_a_servers_tickets_leave_while_it_waits(pki: PKI) -> None:
    with pair(pki, server={"limits": Limits(ticket_delay=0.05)}) as (client, server):
        server.settimeout(0.3)
        with pytest.raises(TimeoutError):
            server.recv()
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv()
        assert client.session is not None


# -- gevent ----------------------------------------------------------------------------------------------------------------------------

_GEVENT = """
from gevent import monkey
monkey.patch_all()
import socket, sys, gevent
sys.path.insert(0, "@ROOT@")
from sslconnector.sync import wrap_socket
from tests.helpers import PKI

pki = PKI()
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
server_context, client_context = pki.server_context(), pki.client_context()

def handle(sock):
    with wrap_socket(sock, server_context) as tls:
        while data := tls.recv():
            tls.sendall(data)

def serve():
    while True:
        gevent.spawn(handle, listener.accept()[0])

def client(number):
    sock = socket.create_connection(listener.getsockname(), 10)
    with wrap_socket(sock, client_context, server_hostname="localhost") as tls:
        data = b"%06d" % number * 20000
        gevent.spawn(tls.sendall, data)
        got = b""
        while len(got) < len(data):
            got += tls.recv()
        assert got == data
        return 1

gevent.spawn(serve)
greenlets = [gevent.spawn(client, n) for n in range(50)]
gevent.joinall(greenlets, timeout=30, raise_error=True)
print(sum(greenlet.value for greenlet in greenlets))
"""


@pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed (the extra 'test' has it)")
def test_under_gevent() -> None:
    from pathlib import Path

    code = textwrap.dedent(_GEVENT).replace("@ROOT@", str(Path(__file__).parent.parent))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "50\n", done.stderr
