"""The faults that TLS layers have had, row by row; docs/faults tells each story. Rows of adapters are tested with their adapter."""

from __future__ import annotations

import gc
import struct
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from OpenSSL import SSL

from sslconnector import (
    Alert,
    ApiMisuse,
    CallbackError,
    CertificateError,
    ClientConfig,
    CloseTimeout,
    ConfigurationError,
    Connector,
    FloodError,
    HandshakeInterrupted,
    HandshakeState,
    HandshakeTimeout,
    Limits,
    NotTLSError,
    PeerAlert,
    PeerClosed,
    PeerMisbehaved,
    ReadStatus,
    ServerConfig,
    ServerContext,
    TruncationError,
    WriteSide,
    _engine,
)
from sslconnector._engine.binding import ffi, lib

from .helpers import PKI, V12, V13, VERSIONS, Side, pump, shake, with_key_updater

pytestmark = pytest.mark.usefixtures("twin")


# -- security --------------------------------------------------------------------------------------------------------------------------


def test_F01_bytes_left_over_at_an_upgrade_are_ciphertext(pki: PKI) -> None:
    """What was read together with the STARTTLS command goes into receive(): in clear it is refused, never delivered."""
    client, server = pki.pair()
    client.connector.start()
    client.connector.data_to_send()
    server.feed(b"EHLO injected\r\n")
    assert isinstance(server.error, NotTLSError)
    assert server.plaintext == b""
    assert server.connector.trailing_data() == b"EHLO injected\r\n"
    # A ClientHello that came with the command is taken as such.
    client, server = pki.pair()
    shake(client, server)
    assert server.complete


def test_F02_no_byte_before_the_handshake_is_complete(pki: PKI, version: str) -> None:
    client, server = pki.pair(**VERSIONS[version])
    client.connector.start()
    hello = bytes(client.connector.data_to_send())
    record = b"\x17\x03\x03\x00\x05hello"
    for stream in (hello + record, hello[:50], record):
        fresh = Side(Connector(server.connector.context))
        fresh.feed(stream)
        assert fresh.connector.read_status in (ReadStatus.NEED_INPUT, ReadStatus.CLOSED)
        fresh.eof()
        assert fresh.plaintext == b""
        assert isinstance(fresh.error, HandshakeInterrupted | PeerMisbehaved | NotTLSError)
    fresh = Side(Connector(server.connector.context))
    fresh.eof()
    assert isinstance(fresh.error, HandshakeInterrupted)


def test_F03_the_host_name_is_checked(pki: PKI) -> None:
    with pytest.raises(ValueError, match="needs server_hostname"):
        Connector(pki.client_context())
    for name in ("example.org", "localhost.localdomain", "127.0.0.2", "::2"):
        client, server = pki.pair(server_hostname=name)
        shake(client, server)
        assert isinstance(client.error, CertificateError)
        assert name in str(client.error)
        assert not client.complete
    for name in ("localhost", "LOCALHOST", "localhost.", "127.0.0.1", "::1", "0:0::1"):
        client, server = pki.pair(server_hostname=name)
        shake(client, server)
        assert client.complete, client.error
    # The common name counts for nothing (RFC 9525 section 2).
    client, server = pki.pair(server={"identities": pki.issue_raw(common_name="localhost")})
    shake(client, server)
    assert isinstance(client.error, CertificateError)


def test_F03_wildcards(pki: PKI) -> None:
    wildcard = pki.issue_raw("*.example.org")
    partial = pki.issue_raw("w*.example.org")
    for identity, name, good in (
        (wildcard, "www.example.org", True),
        (wildcard, "a.b.example.org", False),
        (wildcard, "example.org", False),
        (partial, "www.example.org", False),
    ):
        client, server = pki.pair(server_hostname=name, server={"identities": identity})
        shake(client, server)
        assert client.complete is good, (name, client.error)


@pytest.mark.parametrize("where", ["client hook", "server hook", "keylog"])
def test_F04_an_exception_in_a_callback_refuses_the_handshake(pki: PKI, where: str, version: str) -> None:
    def explode(_: Any) -> None:
        raise ZeroDivisionError("the original")

    client_options: dict[str, Any] = {"identity": pki.client}
    server_options: dict[str, Any] = {"client_certificates": "required", "trust": pki.trust}
    if where == "client hook":
        client_options["verify_hook"] = explode
    elif where == "server hook":
        server_options["verify_hook"] = explode
    else:
        server_options["keylog"] = explode
    client, server = pki.pair(client=client_options, server=server_options, **VERSIONS[version])
    shake(client, server)
    failed, other = (client, server) if where == "client hook" else (server, client)
    assert isinstance(failed.error, CallbackError)
    assert isinstance(failed.error.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError('the original')" in str(failed.error)
    assert not failed.complete
    assert isinstance(other.error, PeerAlert)


def test_F05_truncation_is_an_error_of_its_own(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"all there is?")
    server.feed(client.connector.data_to_send())
    server.eof()
    assert server.plaintext == b"all there is?"
    assert isinstance(server.error, TruncationError)
    # Not after close_notify.
    client, server = pki.connected(**VERSIONS[version])
    client.connector.close_write()
    pump(client, server)
    server.eof()
    assert server.error is None
    # Also in the middle of a record.
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"cut")
    server.feed(client.connector.data_to_send()[:-1])
    server.eof()
    assert server.plaintext == b""
    assert isinstance(server.error, TruncationError)


def test_F06_channel_binding_is_the_exporter(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    assert client.connector.channel_binding() == server.connector.channel_binding()
    assert client.connector.channel_binding() == client.connector.export_keying_material("EXPORTER-Channel-Binding", 32, b"")
    with pytest.raises(ValueError, match="tls-exporter"):
        client.connector.channel_binding("tls-unique")


def test_F06_no_binding_without_extended_master_secret(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = pki.connected(**V12)
    monkeypatch.setattr(_engine.Engine, "extended_master_secret", lambda self: False)
    with pytest.raises(ApiMisuse, match="extended master secret"):
        client.connector.channel_binding()


def test_F07_renegotiation_is_refused(pki: PKI) -> None:
    server = Side(Connector(pki.server_context(**V12)))
    peer = _RawPeer(SSL.TLS_CLIENT_METHOD, maximum=SSL.TLS1_2_VERSION)
    peer.shake(server)
    peer.connection.renegotiate()
    with pytest.raises((SSL.Error, SSL.WantReadError)):
        peer.connection.do_handshake()
    server.feed(peer.take())
    server.connector.write(b"still here")
    peer.give(server.connector.data_to_send())
    try:
        assert peer.connection.recv(100) == b"still here"
    except SSL.Error:
        pass  # the peer takes the refusal as fatal, which is its right
    assert server.plaintext == b""


class _RawPeer:
    """A peer on pyOpenSSL that can do what a connector never would."""

    def __init__(self, method: int, maximum: int = SSL.TLS1_3_VERSION, pki: PKI | None = None) -> None:
        context = SSL.Context(method)
        context.set_max_proto_version(maximum)
        if pki is not None:
            context.use_certificate(pki.server.certificate)
            context.use_privatekey(pki.server.key)
        self.connection = SSL.Connection(context)
        if method == SSL.TLS_CLIENT_METHOD:
            self.connection.set_connect_state()
            self.connection.set_tlsext_host_name(b"localhost")
        else:
            self.connection.set_accept_state()

    def take(self) -> bytes:
        data = b""
        while True:
            try:
                data += self.connection.bio_read(65536)
            except SSL.WantReadError:
                return data

    def give(self, data: bytes | memoryview) -> None:
        if len(data):
            self.connection.bio_write(bytes(data))

    def shake(self, side: Side) -> None:
        if side.connector._is_client:
            side.connector.start()
        for _ in range(6):
            try:
                self.connection.do_handshake()
            except SSL.WantReadError:
                pass
            side.feed(self.take())
            self.give(side.connector.data_to_send())
        assert side.complete, side.error
        lib.ERR_clear_error()


def test_F08_a_flood_of_key_updates_ends_the_connection(pki: PKI) -> None:
    _client, server, updater = with_key_updater(pki)
    sent = 0
    tracemalloc.start()
    try:
        for _ in range(400_000):
            # The attacker does not read the answers.
            record = updater.key_update()
            if server.connector.receive_window < len(record):
                server.turn()
                if server.error is not None:
                    break
            server.connector.receive(record)
            sent += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(server.error, FloodError)
    assert server.error.limit == "useless_records"
    assert server.error.alert_sent is Alert.UNEXPECTED_MESSAGE
    assert sent < 4000
    assert peak < 1_000_000
    assert server.connector.bytes_to_send < 34 * 30 + 700
    assert server.connector.statistics.records_read == 33


def test_F08_data_between_key_updates_does_not_help_against_unsent_answers(pki: PKI) -> None:
    """A peer that mixes data into its flood and never reads: reading stops, the output stays bounded."""
    _client, server, updater = with_key_updater(pki, unsent_replies=50)
    for _ in range(49):
        server.feed(updater.key_update() + updater.data(b"x"))
    assert server.connector.receive_window > 0
    server.feed(updater.key_update() + updater.data(b"x"))
    assert server.connector.receive_window == 0
    assert server.error is None
    assert server.plaintext == b"x" * 50
    server.connector.data_to_send()
    assert server.connector.receive_window > 0
    server.feed(updater.data(b"y"))
    assert server.plaintext == b"x" * 50 + b"y"


def test_F08_honest_key_updates_are_answered(pki: PKI) -> None:
    _client, server, updater = with_key_updater(pki)
    for number in range(100):
        server.feed(updater.key_update() + updater.data(b"%d " % number))
        server.connector.data_to_send()
    assert server.plaintext == b"".join(b"%d " % number for number in range(100))
    assert server.error is None
    # The answer is owed before the next application data (RFC 8446 section 4.6.3).
    server.feed(updater.key_update())
    server.connector.write(b"x")
    assert server.connector.bytes_to_send > 27
    server.connector.data_to_send()
    # What is written counts as well: a peer that only listens may update its keys.
    for _ in range(100):
        server.feed(updater.key_update())
        server.connector.write(b"x")
        server.connector.data_to_send()
    assert server.error is None


def test_F09_openssl_is_asked_once_for_each_whole_record(pki: PKI, twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if twin != "direct":
        pytest.skip("counts the direct twin's calls")
    client, server = pki.connected()
    calls = _count_calls(monkeypatch, "_SSL_read")
    client.connector.write(b"x" * 1000)
    for byte in bytes(client.connector.data_to_send()):
        server.connector.receive(bytes([byte]))
        while server.connector.read_status is ReadStatus.MORE:
            server.plaintext += server.connector.read()
    assert server.plaintext == b"x" * 1000
    assert calls == [1]
    for _ in range(50):
        client.connector.write(b"tiny")
    server.feed(client.connector.data_to_send())
    assert calls == [51]


def _count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    from sslconnector._engine import direct

    function = getattr(direct, name)
    calls = [0]

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return function(*arguments)

    monkeypatch.setattr(direct, name, counted)
    return calls


def test_F09_a_turn_has_a_budget_of_records(pki: PKI) -> None:
    client, server = pki.connected(limits=Limits(records_per_read=10))
    for _ in range(25):
        client.connector.write(b"x")
    server.connector.receive(client.connector.data_to_send())
    assert [len(server.connector.read()) for _ in range(3)] == [10, 10, 5]
    assert server.connector.read_status is ReadStatus.NEED_INPUT


def _client_hello(size: int) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    padding = size - 4 - len(body) - 2 - 4
    message = body + struct.pack("!HHH", padding + 4, 21, padding) + bytes(padding)
    return b"\x01" + len(message).to_bytes(3, "big") + message


def _in_records(message: bytes, size: int) -> bytes:
    return b"".join(
        b"\x16\x03\x01" + struct.pack("!H", len(message[i : i + size])) + message[i : i + size] for i in range(0, len(message), size)
    )


def test_F10_a_huge_client_hello_is_refused(pki: PKI) -> None:
    for cut in (None, lambda _: 100):
        server = Side(Connector(pki.server_context()))
        server.feed(_in_records(b"\x01" + (70_000).to_bytes(3, "big") + bytes(70_000), 16384), cut)
        assert isinstance(server.error, FloodError)
        assert server.error.limit == "client_hello"
        assert server.connector.data_to_send() == b"\x15\x03\x03\x00\x02\x02\x2f"
        assert server.connector._engine is None
    server = Side(Connector(pki.server_context(limits=Limits(client_hello=1000))))
    server.feed(b"\x16\x03\x01\x00\x04" + b"\x01\x00\x09\x00")
    assert isinstance(server.error, FloodError), "the declared length is enough"
    server = Side(Connector(pki.server_context()))
    server.feed(b"\x16\x03\x01\xff\xff\x01")
    server.feed(b"\0" * 100)
    assert isinstance(server.error, PeerMisbehaved)


def test_F10_a_client_hello_in_thousands_of_records_is_refused(pki: PKI) -> None:
    server = Side(Connector(pki.server_context()))
    server.feed(_in_records(_client_hello(400), 3))
    assert isinstance(server.error, FloodError)
    assert server.error.limit == "client_hello_records"
    # In a reasonable number it is fine; even real stacks cut it.
    client, server = pki.pair()
    client.connector.start()
    hello = client.connector.data_to_send()[5:]
    server.feed(_in_records(bytes(hello), len(hello) // 20))
    pump(client, server)
    assert server.complete


def test_F10_a_whole_handshake_is_limited(pki: PKI) -> None:
    identity = pki.client
    options = {"client_certificates": "required", "trust": pki.trust}
    for limits, field in ((Limits(handshake_bytes=600), "handshake_bytes"), (Limits(handshake_records=3), "handshake_records")):
        client, server = pki.pair(client={"identity": identity}, server={**options, "limits": limits}, groups="X25519", **V13)
        client.connector.start()
        server.feed(client.connector.data_to_send())
        client.feed(server.connector.data_to_send())
        flight = bytes(client.connector.data_to_send())
        if field == "handshake_records":
            # An encrypted flight cannot be cut into more records from outside; dummy change_cipher_spec records can come before it.
            flight = b"\x14\x03\x03\x00\x01\x01" * 4 + flight
        server.feed(flight[:-1])
        assert isinstance(server.error, FloodError), server.error
        assert server.error.limit == field


def test_F11_a_silent_client_costs_no_tls_object(pki: PKI) -> None:
    server = Side(Connector(pki.server_context()))
    assert server.connector._engine is None
    server.feed(b"\x16\x03\x01\x02\x00\x01")
    assert server.connector._engine is None
    assert server.connector.get_timer(50.0) == 60.0


def test_F11_bytes_do_not_extend_the_deadline(pki: PKI) -> None:
    client, server = pki.pair()
    client.connector.start()
    hello = client.connector.data_to_send()
    now = 1000.0
    for byte in bytes(hello[:-1]):
        assert server.connector.get_timer(now) == 1010.0
        server.connector.receive(bytes([byte]))
        now += 0.001
    server.connector.handle_timer(1010.0)
    with pytest.raises(HandshakeTimeout):
        server.connector.read()


def test_F12_close_notify_in_the_handshake_comes_to_rest(pki: PKI) -> None:
    alert = b"\x15\x03\x03\x00\x02\x01\x00"
    for repeat in (1, 50):
        server = Side(Connector(pki.server_context()))
        server.feed(alert * repeat)
        server.eof()
        assert server.error is not None
        client, server = pki.pair()
        client.connector.start()
        client.connector.data_to_send()
        client.feed(alert * repeat)
        client.eof()
        assert client.error is not None
        client, server = pki.pair()
        client.connector.start()
        server.feed(bytes(client.connector.data_to_send()) + alert * repeat)
        server.connector.data_to_send()
        server.eof()
        assert server.error is not None


def test_F13_nothing_is_cached_on_the_server_and_alpn_lists_are_checked(pki: PKI) -> None:
    context = pki.server_context()
    for made in (context._default.front, context._default._shown[0][0][1]):
        assert made.context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    assert pki.client_context().engine_context.context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    for bad in ([""], ["x" * 256], ["a", "a"]):
        with pytest.raises(ConfigurationError, match=r"ALPN|twice"):
            ClientConfig(alpn_protocols=bad)
    with pytest.raises(TypeError):
        ServerConfig(identities=pki.server, alpn_protocols="h2")


def test_F16_somebody_elses_errors_do_not_fail_our_calls(pki: PKI, version: str) -> None:
    def litter() -> None:
        lib.ERR_put_error(20, 0, 0x123, ffi.NULL, 0)
        assert lib.ERR_peek_error()

    def clean() -> None:
        lib.ERR_clear_error()

    client, server = pki.pair(**VERSIONS[version])
    litter()
    client.connector.start()
    for _ in range(5):
        for sender, receiver in ((client, server), (server, client)):
            data = sender.connector.data_to_send()
            if len(data):
                litter()
                try:
                    receiver.connector.receive(data)
                finally:
                    clean()
                receiver.turn()
    assert client.complete
    assert server.complete
    litter()
    client.connector.write(b"fine")
    server.connector.receive(client.connector.data_to_send())
    litter()
    assert server.connector.read() == b"fine"
    litter()
    client.connector.close_write()
    server.connector.receive(client.connector.data_to_send())
    litter()
    assert server.connector.read() == b""
    assert server.connector.failure is None
    # A real failure is told with its own reason, not with what lay there.
    client, server = pki.connected(**VERSIONS[version])
    server.connector.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    litter()
    with pytest.raises(PeerMisbehaved, match=r"bad[ _]record[ _]mac"):
        server.connector.read()


def test_F17_a_session_does_not_carry_over_to_another_policy(pki: PKI, version: str) -> None:
    """A session made where no client certificate is needed must not open a host that needs one."""
    strict = ServerConfig(identities=pki.issue("strict.example"), client_certificates="required", trust=pki.trust, **VERSIONS[version])
    server_context = pki.server_context(identities=pki.issue("open.example"), hosts={"strict.example": strict}, **VERSIONS[version])
    client_context = pki.client_context(verify_hostname=False, **VERSIONS[version])

    def connect(name: str, session: Any) -> tuple[Side, Side]:
        client = Side(Connector(client_context, server_hostname=name, session=session))
        server = Side(Connector(server_context))
        shake(client, server)
        server.connector.write(b"x") if server.complete else None
        pump(client, server)
        return client, server

    client, server = connect("open.example", None)
    session = client.connector.session
    assert session is not None
    client, server = connect("open.example", session)
    assert server.connector.resumed
    session = client.connector.session
    assert session is not None
    # An attacker is not bound to what our Session checks.
    object.__setattr__(session, "server_hostname", "strict.example")
    client, server = connect("strict.example", session)
    assert not server.complete
    assert isinstance(server.error, CertificateError)
    assert "client sent no certificate" in str(server.error)
    assert server.plaintext == b""


def test_F17_the_policy_is_that_of_the_first_client_hello(pki: PKI) -> None:
    """After a HelloRetryRequest the second ClientHello cannot move to another host."""
    client, server = pki.pair(client={"groups": "X25519:P-256"}, server={"groups": "P-256"}, **V13)
    client.connector.start()
    server.feed(client.connector.data_to_send())
    client.feed(server.connector.data_to_send())
    second = bytes(client.connector.data_to_send())
    server.feed(second.replace(b"localhost", b"localhosT"))
    client.feed(server.connector.data_to_send())
    server.feed(client.connector.data_to_send())
    assert not server.complete


def test_F18_a_hook_can_refuse_and_never_accept(pki: PKI, version: str) -> None:
    seen: list[Any] = []

    def accept(chain: Any) -> bool:
        seen.append(chain)
        return True

    client, server = pki.pair(client={"verify_hook": accept}, **VERSIONS[version])
    shake(client, server)
    assert client.complete
    assert seen == [(pki.server.certificate, pki.trust.certificates[0])]
    seen.clear()
    for options, name in (({"trust": pki.other_trust}, "localhost"), ({}, "example.org")):
        client, server = pki.pair(name, client={"verify_hook": accept, **options}, **VERSIONS[version])
        shake(client, server)
        assert isinstance(client.error, CertificateError)
        assert seen == []
    client, server = pki.pair(client={"verify_hook": lambda chain: False}, **VERSIONS[version])
    shake(client, server)
    assert isinstance(client.error, CertificateError)
    assert "verify hook refused" in str(client.error)
    assert client.error.certificate == pki.server.certificate
    assert isinstance(server.error, PeerAlert)


def test_F19_the_aead_limit_is_that_of_the_standard() -> None:
    assert Limits().records_per_key == int(2**24.5)


# -- the pump --------------------------------------------------------------------------------------------------------------------------


def test_F20_half_close_loses_nothing(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.write(b"request")
    client.connector.close_write()
    pump(client, server)
    assert server.of_type(PeerClosed)
    answer = b"a" * (8 << 20)
    server.connector.write(answer)
    server.connector.close_write()
    pump(client, server)
    assert client.plaintext == answer
    assert client.of_type(PeerClosed)


def test_F20_key_updates_after_our_close_notify(pki: PKI) -> None:
    """The peer goes on writing after our half-close and updates its keys meanwhile; no answer is possible, the data still counts."""
    _client, server, updater = with_key_updater(pki)
    server.connector.close_write()
    server.connector.data_to_send()
    server.feed(updater.data(b"one ") + updater.key_update(request=False) + updater.data(b"two "))
    server.feed(updater.key_update(request=True) + updater.data(b"three"))
    assert server.plaintext == b"one two three"
    assert server.error is None


def test_F24_all_or_nothing_and_nothing_mutable_is_kept(pki: PKI) -> None:
    client, server = pki.connected()
    for size in (10, 16384, 100_000):
        data = bytearray(size)
        client.connector.write(data)
        data += b"x"  # not pinned either: it can be resized
        data[:] = b"\xff" * len(data)
        pump(client, server)
        assert server.plaintext == bytes(size)
        server.plaintext.clear()


def test_F25_callbacks_may_write_and_close(pki: PKI) -> None:
    client, server = pki.pair()

    def hook(_: Any) -> None:
        client.connector.write(b"from within")
        client.connector.close_write()
        with pytest.raises(ApiMisuse, match="must not overlap"):
            client.connector.read()
        with pytest.raises(ApiMisuse, match="must not overlap"):
            client.connector.receive(b"x")

    client = Side(Connector(pki.client_context(verify_hook=hook), server_hostname="localhost"))
    shake(client, server)
    assert server.plaintext == b"from within"
    assert client.connector.write_side is WriteSide.CLOSED
    client = Side(Connector(pki.client_context(verify_hook=lambda _: client.connector.abort()), server_hostname="localhost"))
    _, server = pki.pair()
    shake(client, server)
    assert client.connector.failure is not None
    assert isinstance(server.error, PeerAlert)
    client = Side(Connector(pki.client_context(verify_hook=lambda _: client.connector.close()), server_hostname="localhost"))
    _, server = pki.pair()
    shake(client, server)
    assert client.connector.finished


def test_F25_another_thread_is_told_off(pki: PKI) -> None:
    errors: list[BaseException] = []

    def intrude() -> None:
        for call in (
            lambda: client.connector.write(b"x"),
            client.connector.close_write,
            client.connector.read,
            client.connector.data_to_send,
            lambda: client.connector.read_into(bytearray(5)),
            lambda: client.connector.send_into(bytearray(5)),
            lambda: client.connector.handle_timer(0.0),
            client.connector.abort,
            client.connector.close,
        ):
            try:
                call()
            except BaseException as error:
                errors.append(error)

    def hook(_: Any) -> None:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    client = Side(Connector(pki.client_context(verify_hook=hook), server_hostname="localhost"))
    _, server = pki.pair()
    shake(client, server)
    assert len(errors) == 9
    assert all(isinstance(error, ApiMisuse) and "must not overlap" in str(error) for error in errors)
    assert client.complete


def test_F25_many_threads_at_once_get_misuse_and_no_corruption(pki: PKI) -> None:
    client, _server = pki.connected()
    connector = client.connector
    stop = threading.Event()
    unexpected: list[BaseException] = []
    misuse = 0

    def hammer(call: Callable[[], Any]) -> None:
        nonlocal misuse
        while not stop.is_set():
            try:
                call()
            except ApiMisuse:
                misuse += 1
            except BaseException as error:
                unexpected.append(error)
                return

    calls: list[Callable[[], Any]] = [
        lambda: connector.write(b"x"),
        lambda: connector.write(bytes(20_000)),
        connector.data_to_send,
        lambda: connector.send_into(bytearray(1000)),
        connector.read,
        lambda: connector.bytes_to_send,
        lambda: connector.finished,
        connector.release_memory,
        lambda: connector.handle_timer(0.0),
        lambda: connector.peer_chain,
        lambda: connector.session,
    ]
    threads = [threading.Thread(target=hammer, args=(call,)) for call in calls]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        stop.wait(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert unexpected == []
    assert misuse > 0
    connector.data_to_send()
    assert connector.failure is None
    connector.abort()
    assert connector.data_to_send()


def test_F27_close_flushes_everything_or_says_so(pki: PKI) -> None:
    client, server = pki.connected()
    client.connector.write(b"z" * 500_000)
    client.connector.close()
    assert not client.connector.finished
    pump(client, server)
    assert server.plaintext == b"z" * 500_000
    assert client.connector.finished
    client, server = pki.connected()
    client.connector.write(b"z")
    client.connector.close()
    client.connector.get_timer(0.0)
    client.connector.handle_timer(3.0)
    assert isinstance(client.connector.failure, CloseTimeout)
    with pytest.raises(CloseTimeout):
        client.connector.write(b"more")


def test_F28_nothing_stays_alive(pki: PKI) -> None:
    gc.collect()
    gc.disable()
    try:
        references: list[weakref.ref[Any]] = []
        for number in range(50):
            client, server = pki.pair(server_hostname="localhost" if number % 3 else "example.org")
            shake(client, server)
            if number % 4 == 1:
                server.eof()
            if number % 4 == 2:
                client.connector.abort()
            for side in (client, server):
                references.append(weakref.ref(side.connector))
                if side.connector._engine is not None:
                    references.append(weakref.ref(side.connector._engine))
            del client, server, side
        # Without the garbage collector: there are no cycles.
        assert [reference() for reference in references if reference() is not None] == []
    finally:
        gc.enable()


def test_F28_the_same_error_raised_again_is_another_instance(pki: PKI) -> None:
    _client, server = pki.connected()
    server.connector.receive_eof()
    seen = []
    for _ in range(3):
        with pytest.raises(TruncationError) as caught:
            server.connector.read()
        seen.append(caught.value)
    assert len({id(error) for error in seen}) == 3
    assert server.connector.failure is not None
    assert server.connector.failure.__traceback__ is None


def test_F29_the_alert_is_in_the_output_before_the_error_is_raised(pki: PKI, version: str) -> None:
    client, server = pki.pair(client={"trust": pki.other_trust}, **VERSIONS[version])
    client.connector.start()
    server.feed(client.connector.data_to_send())
    client.connector.receive(server.connector.data_to_send())
    assert client.connector.bytes_to_send > 0
    assert client.connector.read_status is ReadStatus.MORE
    with pytest.raises(CertificateError) as caught:
        client.connector.read()
    assert caught.value.alert_sent is Alert.UNKNOWN_CA
    server.feed(client.connector.data_to_send())
    assert isinstance(server.error, PeerAlert)
    assert server.error.alert_received is Alert.UNKNOWN_CA
    assert "unknown_ca" in str(server.error)
    assert "trust store" in str(server.error)


def test_F30_tickets_are_held_back(pki: PKI) -> None:
    def half_done() -> tuple[Side, Side]:
        client, server = pki.pair(**V13)
        client.connector.start()
        server.feed(client.connector.data_to_send())
        client.feed(server.connector.data_to_send())
        server.feed(client.connector.data_to_send())
        assert server.complete
        assert server.connector.bytes_to_send == 0
        assert not server.connector.data_to_send()
        assert server.connector.send_into(bytearray(10)) == 0
        assert server.connector._engine is not None
        assert server.connector._engine.output_pending() > 300
        return client, server

    client, server = half_done()
    server.connector.write(b"x")
    assert server.connector.bytes_to_send > 300
    client, server = half_done()
    client.connector.write(b"x")
    server.feed(client.connector.data_to_send())
    assert server.connector.bytes_to_send > 300
    client, server = half_done()
    server.connector.close_write()
    assert server.connector.bytes_to_send > 300
    client, server = half_done()
    client.connector.close_write()
    server.feed(client.connector.data_to_send())
    assert server.connector.bytes_to_send > 300
    client, server = half_done()
    # The memory's deadline comes first; it finds something in the buffers.
    assert server.connector.get_timer(5.0) == 5.1
    server.connector.handle_timer(5.1)
    assert server.connector.bytes_to_send == 0
    assert server.connector.get_timer(5.15) == 5.25
    server.connector.handle_timer(5.25)
    assert server.connector.bytes_to_send > 300
    client.feed(server.connector.data_to_send())
    assert client.connector.session is not None
    client, server = half_done()
    server.connector.write(bytes(50_000))
    pump(client, server)
    assert client.plaintext == bytes(50_000)


def test_F31_a_session_outlives_its_connection(pki: PKI, version: str) -> None:
    client_context, server_context = pki.client_context(**VERSIONS[version]), pki.server_context(**VERSIONS[version])
    client, server = Side(Connector(client_context, server_hostname="localhost")), Side(Connector(server_context))
    shake(client, server)
    server.connector.write(b"x")
    pump(client, server)
    session = client.connector.session
    # Dropped without any shutdown.
    del client, server
    gc.collect()
    for _ in range(2):
        client = Side(Connector(client_context, server_hostname="localhost", session=session))
        server = Side(Connector(server_context))
        shake(client, server)
        assert client.connector.resumed
        assert server.connector.resumed
        del client, server


def test_F32_what_openssl_still_holds_is_announced(pki: PKI) -> None:
    client, server = pki.connected()
    client.connector.write(bytes(1000))
    server.connector.receive(client.connector.data_to_send())
    small = bytearray(300)
    for expected in (ReadStatus.MORE, ReadStatus.MORE, ReadStatus.MORE, ReadStatus.NEED_INPUT):
        assert server.connector.read_into(small) in (300, 100)
        assert server.connector.read_status is expected


def test_F33_closing_does_not_wait_for_a_peer_that_says_nothing(pki: PKI) -> None:
    client, _ = pki.connected()
    client.connector.close()
    client.connector.data_to_send()
    assert client.connector.finished
    assert Limits().close_flush_timeout == 3
    assert Limits().close_wait_timeout == 0


def test_F34_an_idle_connection_gives_its_memory_back(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    for side in (client, server):
        side.connector.get_timer(0.0)
        side.connector.handle_timer(1.0)
        side.connector.get_timer(1.0)
        side.connector.handle_timer(2.0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    engine = server.connector._engine
    assert engine is not None
    idle = (engine._rbio, engine._wbio)
    data = bytes(1 << 20)
    client.connector.write(data)
    pump(client, server)
    server.connector.write(server.plaintext)
    server.plaintext.clear()
    pump(client, server)
    assert client.plaintext == data
    client.plaintext = bytearray()
    server.plaintext = bytearray()
    del data
    due = server.connector.get_timer(10.0)
    assert due == 10.1
    # Traffic in the meantime puts it off.
    client.connector.write(b"x")
    pump(client, server)
    server.connector.handle_timer(11.0)
    assert (engine._rbio, engine._wbio) == idle
    assert server.connector.get_timer(11.0) == 11.1
    server.connector.handle_timer(12.0)
    assert engine._rbio not in idle
    assert engine._wbio not in idle
    assert (engine._connection._into_ssl, engine._connection._from_ssl) == (engine._rbio, engine._wbio)
    client.connector.release_memory()
    server.plaintext = bytearray()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 4096
    assert server.connector.get_timer(12.0) is None
    # And all goes on.
    client.connector.write(b"again" * 1000)
    pump(client, server)
    assert server.plaintext == b"again" * 1000


def test_F34_memory_is_not_given_back_under_data(pki: PKI) -> None:
    client, server = pki.connected()
    client.connector.write(b"a" * 5000)
    data = client.connector.data_to_send()
    server.connector.receive(data[:3000])
    assert not server.connector.release_memory()
    server.connector.receive(data[3000:])
    assert not server.connector.release_memory()
    assert server.connector.read() == b"a" * 5000
    server.connector.write(b"b")
    assert not server.connector.release_memory()
    server.connector.data_to_send()
    assert server.connector.release_memory()
    assert not Connector(pki.server_context()).release_memory()


def test_F35_no_bytes_are_no_end(pki: PKI) -> None:
    client, server = pki.connected()
    for _ in range(3):
        client.connector.write(b"")
        client.connector.write(bytearray())
    assert client.connector.bytes_to_send == 0
    server.connector.receive(b"")
    client.connector.write(b"then something")
    pump(client, server)
    assert server.plaintext == b"then something"
    client, server = pki.pair()
    client.connector.write(b"")
    assert client.connector.bytes_queued == 0


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH greeting"),
        (b"PROXY TCP4 1.2.3.4", "PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n", "PROXY protocol"),
        (b"\0\0\0\0\0", "something else"),
        (b"\x80\x2e\x01\x03\x01", "SSL 2"),
    ],
)
@pytest.mark.parametrize("cut", [None, lambda _: 1])
def test_F36_what_is_not_tls_is_named(pki: PKI, first: bytes, words: str, cut: Any) -> None:
    server = Side(Connector(pki.server_context()))
    server.feed(first, cut)
    assert isinstance(server.error, NotTLSError)
    assert words in str(server.error)
    assert first.startswith(server.error.data)
    assert server.connector.trailing_data() == server.error.data
    assert server.connector.handshake_state is HandshakeState.FAILED
    assert not server.connector.data_to_send()


def test_F36_a_client_that_meets_plain_http(pki: PKI) -> None:
    client, _ = pki.pair()
    client.connector.start()
    client.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(client.error, NotTLSError)
    assert "the server does not speak TLS" in str(client.error)
    assert "HTTP response" in str(client.error)


def test_trailing_data_belongs_to_somebody_else(pki: PKI, version: str) -> None:
    client, server = pki.connected(**VERSIONS[version])
    client.connector.close_write()
    server.connector.receive(bytes(client.connector.data_to_send()) + b"plain text after TLS")
    server.turn()
    assert server.of_type(PeerClosed)
    assert server.connector.trailing_data() == b"plain text after TLS"
    assert server.connector.receive_window == 0


def test_context_is_needed(pki: PKI) -> None:
    with pytest.raises(TypeError, match="config must be a ServerConfig"):
        ServerContext(ClientConfig())  # type: ignore[arg-type]
