"""The connector's contract, call by call. Faults of other TLS layers are in test_faults.py."""

from __future__ import annotations

import array
import os
import subprocess
import sys
from typing import Any

import pytest

from sslconnector import (
    Alert,
    ApiMisuse,
    CloseTimeout,
    ConnectionAborted,
    Connector,
    FloodError,
    HandshakeCompleted,
    HandshakeState,
    HandshakeTimeout,
    IdentityNeeded,
    KeyLimitReached,
    Limits,
    PeerAlert,
    PeerClosed,
    PeerMisbehaved,
    ReadSide,
    ReadStatus,
    SessionTicketReceived,
    TruncationError,
    WriteSide,
    _engine,
)

from .helpers import PKI, V12, V13, VERSIONS, Side, pump, shake, with_key_updater

pytestmark = pytest.mark.usefixtures("twin")


def test_handshake_and_echo(pki: PKI, version: str) -> None:
    client, server = pki.pair(**VERSIONS[version])
    shake(client, server)
    for side in (client, server):
        (event,) = side.of_type(HandshakeCompleted)
        assert event.version == side.connector.version == version
        assert event.server_name == "localhost"
        assert event.cipher == side.connector.cipher
        assert side.connector.cipher_bits in (128, 256)
        assert side.connector.group
        assert not event.resumed
        assert side.connector.handshake_state is HandshakeState.COMPLETED
    for size in (1, 2, 100, 16383, 16384, 16385, 70000, 1 << 20):
        data = bytes(i % 251 for i in range(size))
        client.connector.write(data)
        pump(client, server)
        assert server.plaintext == data
        server.connector.write(memoryview(server.plaintext))
        server.plaintext.clear()
        pump(client, server)
        assert client.plaintext == data
        client.plaintext.clear()


def test_plaintext_before_the_handshake_is_queued_and_sent_after_it(pki: PKI, version: str) -> None:
    client, server = pki.pair(**VERSIONS[version])
    client.connector.write(b"early ")
    server.connector.write(b"too early?")
    assert client.connector.bytes_queued == 6
    assert client.connector.bytes_to_send == 0
    client.connector.start()
    client.connector.write(b"bird")
    assert client.connector.bytes_queued == 10
    pump(client, server)
    assert client.connector.bytes_queued == 0
    assert server.plaintext == b"early bird"
    assert client.plaintext == b"too early?"


def test_the_queue_is_limited_and_takes_all_or_nothing(pki: PKI) -> None:
    client, _ = pki.pair(client={"limits": Limits(queued_plaintext=10)})
    client.connector.write(b"12345")
    with pytest.raises(ApiMisuse, match="queued_plaintext"):
        client.connector.write(b"678901")
    assert client.connector.bytes_queued == 5
    client.connector.write(b"67890")
    assert client.connector.bytes_queued == 10


def test_mutable_buffers_may_change_after_the_call(pki: PKI) -> None:
    client, server = pki.pair()
    data = bytearray(b"before")
    client.connector.write(data)
    data[:] = b"after!"
    client.connector.start()
    flight = bytearray(client.connector.data_to_send())
    server.connector.receive(flight)
    flight[:] = bytes(len(flight))
    server.turn()
    pump(client, server)
    assert server.plaintext == b"before"
    data = bytearray(40000)
    client.connector.write(data)
    data[:] = b"x" * 40000
    server.plaintext.clear()
    pump(client, server)
    assert server.plaintext == bytes(40000)


def test_read_into_the_callers_buffer(pki: PKI) -> None:
    client, server = pki.connected()
    client.connector.write(bytes(range(200)) * 100)
    server.connector.receive(client.connector.data_to_send())
    got = b""
    sizes: list[int] = []
    buffer = bytearray(777)
    while server.connector.read_status is ReadStatus.MORE:
        count = server.connector.read_into(memoryview(buffer)[: 500 if len(sizes) % 2 else 777])
        sizes.append(count)
        got += buffer[:count]
    assert got == bytes(range(200)) * 100
    assert max(sizes) == 777
    assert server.connector.read_into(buffer) == 0
    assert server.connector.read_status is ReadStatus.NEED_INPUT


def test_send_into_the_callers_buffer(pki: PKI) -> None:
    client, server = pki.pair()
    client.connector.start()
    buffer = bytearray(100)
    while count := client.connector.send_into(buffer):
        server.connector.receive(bytes(buffer[:count]))
    server.turn()
    pump(client, server)
    assert client.complete
    client.connector.write(b"s")
    client.connector.write(bytes(50_000))
    client.connector.write(b"e")
    total = client.connector.bytes_to_send
    view = memoryview(buffer)[3:]
    while count := client.connector.send_into(view):
        total -= count
        assert client.connector.bytes_to_send == total
        server.feed(bytes(view[:count]))
    assert total == 0
    assert server.plaintext == b"s" + bytes(50_000) + b"e"


def test_half_close_both_ways(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"request")
    client.connector.close_write()
    client.connector.close_write()
    assert client.connector.write_side is WriteSide.CLOSED
    pump(client, server)
    assert server.plaintext == b"request"
    assert server.of_type(PeerClosed)
    assert server.connector.read_side is ReadSide.CLOSED
    assert server.connector.read_status is ReadStatus.CLOSED
    assert server.connector.read() == b""
    assert not server.connector.finished
    answer = bytes(8 << 20)
    server.connector.write(answer)
    server.connector.close_write()
    pump(client, server)
    assert client.plaintext == answer
    assert client.connector.finished
    assert server.connector.finished
    assert client.error is None
    client.eof()
    assert client.error is None


def test_close_write_before_the_handshake_is_complete(pki: PKI) -> None:
    client, server = pki.pair()
    client.connector.write(b"all I have to say")
    client.connector.close_write()
    assert client.connector.write_side.name == "CLOSING"
    with pytest.raises(ApiMisuse, match="after close_write"):
        client.connector.write(b"more")
    shake(client, server)
    assert client.connector.write_side is WriteSide.CLOSED
    assert server.plaintext == b"all I have to say"
    assert server.of_type(PeerClosed)


def test_truncation_is_told_from_close(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"half of the")
    server.connector.receive(client.connector.data_to_send())
    server.connector.receive_eof()
    server.connector.receive_eof()
    assert server.connector.failure is None
    assert server.connector.read() == b"half of the"
    for _ in range(2):
        with pytest.raises(TruncationError, match="without close_notify"):
            server.connector.read()
    assert server.connector.read_side is ReadSide.FAILED
    assert server.connector.read_status is ReadStatus.CLOSED
    assert server.connector.receive_window == 0


def test_bad_record_is_raised_after_the_good_bytes(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"good")
    good = client.connector.data_to_send()
    client.connector.write(b"evil")
    bad = bytearray(client.connector.data_to_send())
    bad[-1] ^= 1
    server.connector.receive(bytes(good) + bad)
    assert server.connector.read() == b"good"
    with pytest.raises(PeerMisbehaved, match=r"bad[ _]record[ _]mac"):
        server.connector.read()
    alert = server.connector.data_to_send()
    assert alert
    client.feed(alert)
    assert isinstance(client.error, PeerAlert)
    assert client.error.alert_received == 20
    assert "bad_record_mac" in str(client.error)


def test_window_counts_undecrypted_ciphertext(pki: PKI) -> None:
    client, server = pki.connected()
    full = server.connector.receive_window
    client.connector.write(bytes(200_000))
    data = client.connector.data_to_send()
    server.connector.receive(data[:full])
    assert server.connector.receive_window == 0
    with pytest.raises(ApiMisuse, match="receive_window is 0: read first"):
        server.connector.receive(b"x")
    assert server.connector.read(100_000)
    while server.connector.read_status is ReadStatus.MORE:
        server.connector.read()
    assert server.connector.receive_window == full


def test_receive_takes_any_bytes_like(pki: PKI) -> None:
    client, server = pki.connected()
    wraps: list[Any] = [bytes, bytearray, memoryview, lambda d: memoryview(bytearray(d)).cast("b"), lambda d: array.array("B", d)]
    for wrap in wraps:
        client.connector.write(b"abc")
        server.connector.receive(wrap(client.connector.data_to_send()))
        assert server.connector.read() == b"abc"
    server.connector.receive(b"")
    assert server.connector.read() == b""


def test_start_is_needed_once(pki: PKI) -> None:
    client, server = pki.pair()
    with pytest.raises(ApiMisuse, match=r"call start\(\)"):
        client.connector.receive(b"\x16")
    server.connector.start()
    client.connector.start()
    with pytest.raises(ApiMisuse, match="called once"):
        client.connector.start()
    pump(client, server)
    assert server.complete


def test_facts_are_unknown_before_the_handshake(pki: PKI) -> None:
    client, server = pki.pair()
    for side in (client, server):
        connector = side.connector
        for fact in ("version", "cipher", "cipher_bits", "group", "alpn_protocol", "resumed", "peer_certificate", "session"):
            assert getattr(connector, fact) is None
        assert connector.peer_chain == ()
        with pytest.raises(ApiMisuse, match="HandshakeCompleted"):
            connector.channel_binding()
        with pytest.raises(ApiMisuse, match="HandshakeCompleted"):
            connector.export_keying_material("EXPORTER-x", 16)
    assert client.connector.server_hostname == "localhost"
    assert server.connector.server_hostname is None


def test_facts_after_the_handshake(pki: PKI, version: str) -> None:
    options = {"alpn_protocols": ["h2", "http/1.1"], **VERSIONS[version]}
    client, server = pki.connected(
        client={"identity": pki.client}, server={"client_certificates": "required", "trust": pki.trust}, **options
    )
    assert client.connector.alpn_protocol == server.connector.alpn_protocol == "h2"
    assert client.connector.peer_certificate == pki.server.certificate
    assert server.connector.peer_certificate == pki.client.certificate
    assert client.connector.peer_chain == (pki.server.certificate, pki.trust.certificates[0])
    assert server.connector.peer_chain == (pki.client.certificate, pki.trust.certificates[0])
    assert server.connector.server_hostname == "localhost"
    assert client.connector.session is not None
    assert server.connector.session is None
    for arguments in (("EXPORTER-test", 32), ("EXPORTER-test", 48, b"context"), ("EXPORTER-other", 32)):
        assert client.connector.export_keying_material(*arguments) == server.connector.export_keying_material(*arguments)
    assert client.connector.channel_binding() == server.connector.channel_binding()
    assert len(client.connector.channel_binding()) == 32
    assert client.connector.channel_binding("tls-server-end-point") == server.connector.channel_binding("tls-server-end-point")
    with pytest.raises(ValueError, match="channel binding must be"):
        client.connector.channel_binding("tls-unique")
    for bad in ("", "ümlaut"):
        with pytest.raises(ValueError, match="label must be ASCII"):
            client.connector.export_keying_material(bad, 16)
    with pytest.raises(TypeError, match="label must be str"):
        client.connector.export_keying_material(b"x", 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length must be"):
        client.connector.export_keying_material("x", 0)


def test_statistics_count_every_byte(pki: PKI) -> None:
    client, server = pki.pair()
    wire = {"client": 0, "server": 0}
    client.connector.start()
    for _ in range(6):
        for name, sender, receiver in (("client", client, server), ("server", server, client)):
            data = sender.connector.data_to_send()
            wire[name] += len(data)
            receiver.feed(data)
        if client.complete and not client.connector.statistics.plaintext_written:
            client.connector.write(bytes(100_000))
            client.connector.write(b"x")
    for side, own, peer in ((client, "client", "server"), (server, "server", "client")):
        statistics = side.connector.statistics
        assert statistics.ciphertext_sent == wire[own]
        assert statistics.ciphertext_received == wire[peer]
    assert client.connector.statistics.plaintext_written == server.connector.statistics.plaintext_read == 100_001
    assert client.connector.statistics.records_written == 8
    assert server.connector.statistics.records_read >= 8


# -- time ------------------------------------------------------------------------------------------------------------------------------


def test_handshake_deadline(pki: PKI) -> None:
    client, server = pki.pair(limits=Limits(handshake_timeout=5))
    client.connector.start()
    assert client.connector.timer_changed
    assert client.connector.get_timer(100.0) == 105.0
    assert not client.connector.timer_changed
    client.connector.handle_timer(104.9)
    assert client.connector.failure is None
    assert client.connector.get_timer(104.9) == 105.0
    assert server.connector.get_timer(0.0) == 5.0
    client.connector.handle_timer(105.0)
    assert isinstance(client.connector.failure, HandshakeTimeout)
    assert isinstance(client.connector.failure, TimeoutError)
    assert client.connector.get_timer(105.0) is None
    with pytest.raises(HandshakeTimeout, match=r"longer than 5 s \(Limits.handshake_timeout\)"):
        client.connector.read()


def test_timers_stop_when_they_are_not_needed(pki: PKI) -> None:
    client, server = pki.pair()
    shake(client, server)
    for now in (0.0, 0.3, 2.0, 4.0, 6.0):
        for side in (client, server):
            side.connector.get_timer(now)
            side.connector.handle_timer(now)
        pump(client, server)
    assert client.connector.get_timer(10.0) is None
    assert server.connector.get_timer(10.0) is None
    client.connector.handle_timer(1e9)
    assert client.connector.failure is None


def test_flush_deadline_counts_from_the_last_progress(pki: PKI) -> None:
    client, _ = pki.connected()
    client.connector.write(bytes(100_000))
    client.connector.close()
    client.connector.close()
    assert client.connector.get_timer(0.0) is not None
    buffer = bytearray(10_000)
    assert client.connector.send_into(buffer) == 10_000
    assert client.connector.timer_changed
    client.connector.get_timer(2.0)
    client.connector.handle_timer(4.9)
    assert client.connector.failure is None
    client.connector.handle_timer(5.0)
    assert isinstance(client.connector.failure, CloseTimeout)
    assert "bytes for the peer are lost" in str(client.connector.failure)


def test_close_waits_for_the_peer_only_if_told_to(pki: PKI) -> None:
    client, server = pki.connected(limits=Limits(close_wait_timeout=2))
    client.connector.close()
    pump(client, server)
    assert not client.connector.finished
    due = client.connector.get_timer(10.0)
    assert due is not None
    client.connector.get_timer(10.0)
    client.connector.handle_timer(12.0)
    assert client.connector.finished
    client, server = pki.connected(limits=Limits(close_wait_timeout=2))
    client.connector.close()
    server.connector.close()
    pump(client, server)
    assert client.connector.finished
    assert server.connector.finished
    client, server = pki.connected()
    client.connector.close()
    assert not client.connector.finished
    client.connector.data_to_send()
    assert client.connector.finished


def test_close_before_anything_happened(pki: PKI) -> None:
    client, _ = pki.pair()
    client.connector.close()
    client.connector.close_write()
    assert client.connector.write_side is WriteSide.CLOSING
    client.connector.abort()
    assert isinstance(client.connector.failure, ConnectionAborted)
    assert client.connector.finished


# -- abort -----------------------------------------------------------------------------------------------------------------------------


def test_abort_tells_the_peer(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.abort()
    client.connector.abort()
    with pytest.raises(ConnectionAborted, match=r"abort\(\)"):
        client.connector.read()
    with pytest.raises(ConnectionAborted):
        client.connector.write(b"x")
    assert client.connector.failure is not None
    assert client.connector.failure.alert_sent is not None
    server.feed(client.connector.data_to_send())
    assert isinstance(server.error, PeerAlert)
    assert client.connector.finished
    client.connector.close_write()
    client.connector.close()
    client.connector.start()
    client.connector.receive_eof()


def test_abort_in_the_handshake(pki: PKI) -> None:
    client, server = pki.pair()
    client.connector.start()
    hello = client.connector.data_to_send()
    server.connector.receive(hello[:40])
    server.connector.abort()
    client.feed(server.connector.data_to_send())
    assert isinstance(client.error, PeerAlert)
    assert client.error.alert_received is Alert.HANDSHAKE_FAILURE
    client, server = pki.pair()
    client.connector.start()
    server.feed(client.connector.data_to_send())
    server.connector.data_to_send()
    server.connector.abort()
    assert server.connector.data_to_send()
    assert server.connector.handshake_state is HandshakeState.FAILED


def test_abort_after_close_notify_sends_nothing_more(pki: PKI) -> None:
    client, _ = pki.connected()
    client.connector.close_write()
    client.connector.data_to_send()
    client.connector.abort()
    assert not client.connector.data_to_send()


# -- identities on demand --------------------------------------------------------------------------------------------------------------


def test_identity_on_demand(pki: PKI, version: str) -> None:
    options = VERSIONS[version]
    client, server = pki.pair(server={"identities": None, "identity_on_demand": True}, alpn_protocols=["x"], **options)
    client.connector.start()
    with pytest.raises(ApiMisuse, match="no identity is needed"):
        server.connector.provide_identity(pki.server)
    server.feed(client.connector.data_to_send())
    (event,) = server.of_type(IdentityNeeded)
    assert event.server_name == "localhost"
    assert event.alpn_protocols == ("x",)
    assert event.signature_algorithms
    assert server.connector.handshake_state is HandshakeState.WAITING_FOR_IDENTITY
    assert server.connector.receive_window == 0
    with pytest.raises(ApiMisuse, match="provide_identity"):
        server.connector.receive(b"x")
    with pytest.raises(TypeError, match="identity must be an Identity"):
        server.connector.provide_identity("cert.pem")  # type: ignore[arg-type]
    server.connector.provide_identity(pki.server)
    with pytest.raises(ApiMisuse, match="no identity is needed"):
        server.connector.provide_identity(pki.server)
    pump(client, server)
    assert client.complete
    assert server.complete


def test_the_deadline_runs_while_an_identity_is_awaited(pki: PKI) -> None:
    client, server = pki.pair(server={"identities": None, "identity_on_demand": True})
    client.connector.start()
    server.connector.get_timer(0.0)
    server.feed(client.connector.data_to_send())
    server.connector.handle_timer(10.0)
    with pytest.raises(HandshakeTimeout):
        server.connector.read()
    with pytest.raises(ApiMisuse):
        server.connector.provide_identity(pki.server)


# -- events ----------------------------------------------------------------------------------------------------------------------------


def test_key_limit_is_reported_once(pki: PKI) -> None:
    client, server = pki.connected(limits=Limits(records_per_key=20))
    for _ in range(30):
        client.connector.write(b"x")
        pump(client, server)
    client.take_events()
    (event,) = client.of_type(KeyLimitReached)
    assert (event.direction, event.records) == ("write", 20)
    assert len(server.of_type(KeyLimitReached)) == 1
    assert server.of_type(KeyLimitReached)[0].direction == "read"
    client, server = pki.connected(limits=Limits(records_per_key=20), ciphersuites="TLS_CHACHA20_POLY1305_SHA256", **V13)
    for _ in range(30):
        client.connector.write(b"x")
        pump(client, server)
    client.take_events()
    assert not client.of_type(KeyLimitReached)


def test_tickets_are_announced(pki: PKI) -> None:
    client, server = pki.pair(**V13)
    shake(client, server)
    assert client.connector.session is None
    assert not client.of_type(SessionTicketReceived)
    server.connector.write(b"x")
    pump(client, server)
    assert len(client.of_type(SessionTicketReceived)) == 2
    assert client.connector.session is not None
    client, server = pki.pair(**V12)
    shake(client, server)
    assert len(client.of_type(SessionTicketReceived)) == 1
    assert client.connector.session is not None
    assert client.connector.next_event() is None


# -- wrong calls -----------------------------------------------------------------------------------------------------------------------


def test_wrong_arguments(pki: PKI) -> None:
    with pytest.raises(TypeError, match="context must be a ClientContext or a ServerContext, not NoneType"):
        Connector(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs server_hostname="):
        Connector(pki.client_context())
    with pytest.raises(ApiMisuse, match="are for clients"):
        Connector(pki.server_context(), server_hostname="localhost")
    with pytest.raises(TypeError, match="session must be a Session"):
        Connector(pki.client_context(), server_hostname="localhost", session=b"x")  # type: ignore[arg-type]
    client, server = pki.connected()
    fresh = Connector(pki.server_context())
    for connector in (client.connector, fresh):
        for call in (connector.receive, connector.write):
            with pytest.raises(TypeError, match="encode the text first"):
                call("text")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="bytes-like"):
                call(5)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="contiguous"):
                call(memoryview(b"abcdef")[::2])
        for into in (connector.read_into, connector.send_into):
            with pytest.raises(TypeError, match="buffer must be writable"):
                into(b"12345")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="at least one byte"):
                into(bytearray())
        for size in (0, -1, "5", 2.0, True):
            with pytest.raises(ValueError, match="at least 1"):
                connector.read(size)  # type: ignore[arg-type]
    server.connector.write(b"ok")
    client.feed(server.connector.data_to_send())
    assert client.plaintext == b"ok"


def test_wrong_buffer_while_there_is_something_to_read(pki: PKI) -> None:
    client, server = pki.connected()
    client.connector.write(b"abc")
    server.connector.receive(client.connector.data_to_send())
    with pytest.raises(TypeError, match="buffer must be writable"):
        server.connector.read_into(b"12345")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one byte"):
        server.connector.read_into(bytearray())
    assert server.connector.read() == b"abc"


def test_repr_says_what_state_it_is_in(pki: PKI) -> None:
    client, server = pki.pair()
    assert repr(client.connector) == "<Connector client localhost: not started, read open, write open>"
    assert repr(server.connector) == "<Connector server: not started, read open, write open>"
    shake(client, server)
    assert repr(server.connector) == "<Connector server localhost: completed, read open, write open>"
    server.connector.abort()
    assert "ConnectionAborted" in repr(server.connector)


def test_connection_without_verification(pki: PKI) -> None:
    client = Side(Connector(pki.client_context(trust=None, verify_peer=False)))
    server = Side(Connector(pki.server_context()))
    shake(client, server)
    assert client.complete
    assert client.connector.server_hostname is None
    assert server.connector.server_hostname is None
    assert client.connector.peer_chain[0] == pki.server.certificate


def test_a_name_with_a_trailing_dot_is_the_same_name(pki: PKI) -> None:
    """Some clients send SNI with it, against RFC 6066."""
    client, server = pki.pair(**V13)
    engine = client.connector._engine
    assert engine is not None
    engine._connection.set_tlsext_host_name(b"localhost.")
    shake(client, server)
    assert client.complete, (client.error, server.error)
    assert server.connector.server_hostname == "localhost"


def test_empty_records_are_passed_over_and_limited(pki: PKI) -> None:
    _client, server, updater = with_key_updater(pki)
    server.feed(updater.data(b"") + updater.data(b"one") + updater.data(b"") + updater.data(b"") + updater.data(b"two"))
    assert server.plaintext == b"onetwo"
    for _ in range(40):
        if server.connector.receive_window:
            server.feed(updater.data(b""))
    assert isinstance(server.error, FloodError)


def test_engine_twins_by_name() -> None:
    code = "from sslconnector import _engine; print(_engine.default_engine.name)"
    for name in _engine.ENGINES:
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SSLCONNECTOR_ENGINE": name}, capture_output=True, text=True)
        assert done.stdout.strip() == name
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "SSLCONNECTOR_ENGINE": "x"}, capture_output=True, text=True)
    assert "SSLCONNECTOR_ENGINE must be one of" in done.stderr
