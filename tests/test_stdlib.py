"""The ``ssl`` look-alike: what CPython's own tests (compliance) do not ask."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sslconnector import CertificateError, Limits, Session, TruncationError, stdlib

from .helpers import PKI, pem_chain, pem_key
from .strangers import stranger_context


def server_context(pki: PKI, **attributes: Any) -> stdlib.SSLContext:
    context = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem_chain(pki.server), pem_key(pki.server).decode())
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


def client_context(pki: PKI) -> stdlib.SSLContext:
    return stdlib.create_default_context(cadata=pki.ca_pem.decode())


class Pair:
    """Two ends of a socket pair, wrapped, with the handshake done in two threads."""

    def __init__(
        self, client: ssl.SSLContext, server: ssl.SSLContext, *, session: Any = None, name: str = "localhost", **options: Any
    ) -> None:
        first, second = socket.socketpair()
        for sock in (first, second):
            sock.settimeout(10)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(server.wrap_socket, second, server_side=True, **options)
            try:
                self.client = client.wrap_socket(first, server_hostname=name, session=session)
            except BaseException as error:
                first.close()
                self.server_error = future.exception()
                if self.server_error is None:
                    future.result().close()
                error.server_error = self.server_error  # type: ignore[attr-defined]
                raise
            try:
                self.server = future.result()
            except BaseException:
                self.client.close()
                raise

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def pair(pki: PKI) -> Iterator[Pair]:
    made = Pair(client_context(pki), server_context(pki))
    yield made
    made.close()


def test_types(pki: PKI, pair: Pair) -> None:
    assert isinstance(pair.client, ssl.SSLSocket)
    assert isinstance(pair.client.context, ssl.SSLContext)
    made = client_context(pki).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    assert isinstance(made, ssl.SSLObject)
    assert made.version() is None
    assert pair.client.version() == "TLSv1.3"
    assert pair.server.shared_ciphers()
    assert pair.client.get_channel_binding("tls-exporter") == pair.server.get_channel_binding("tls-exporter")
    with pytest.raises(ValueError, match="tls-unique"):
        pair.client.get_channel_binding()


@pytest.mark.parametrize("client_is_ours", [True, False])
def test_a_stranger_on_the_other_end(pki: PKI, client_is_ours: bool) -> None:
    client = client_context(pki) if client_is_ours else stranger_context(pki, server=False)
    server = stranger_context(pki, server=True) if client_is_ours else server_context(pki)
    pair = Pair(client, server)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(pair.client.sendall, b"x" * 300_000)
        got = b""
        while len(got) < 300_000:
            got += pair.server.recv(10_000)
        sending.result()
        ending = pool.submit(pair.client.unwrap)
        assert pair.server.recv(10) == b""
        plain = pair.server.unwrap()
        assert type(ending.result()) in (socket.socket, ssl.SSLSocket, stdlib.SSLSocket)
        plain.close()
    pair.close()


def test_no_more_is_read_than_a_record(pair: Pair) -> None:
    """``select`` sees what belongs to the next record, and ``pending`` what is left of this one."""
    pair.server.sendall(b"first record")
    pair.server.sendall(b"second")
    assert pair.client.recv(5) == b"first"
    assert pair.client.pending() == 7
    assert pair.client.recv(100) == b" record"
    assert pair.client.pending() == 0
    assert select.select([pair.client], [], [], 5)[0]
    assert pair.client.recv(100) == b"second"


def test_what_follows_unwrap_stays_on_the_socket(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(pair.server.unwrap)
        plain = pair.client.unwrap()
        other = ending.result()
    plain.send(b"in clear")
    assert other.recv(100) == b"in clear"
    plain.close()
    other.close()


def test_what_follows_unwrap_stays_in_the_bio(pki: PKI) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client_context(pki).wrap_bio(incoming, outgoing, server_hostname="localhost")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = stranger_context(pki, server=True).wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            there.write(outgoing.read())
            incoming.write(back.read())
    with pytest.raises(ssl.SSLWantReadError):
        theirs.unwrap()
    incoming.write(back.read() + b"in clear")
    ours.unwrap()
    assert incoming.read() == b"in clear"


def test_data_in_the_segment_of_finished_stays_in_the_bio(pki: PKI) -> None:
    """Event loops look at ``pending`` there to know that they have to read after the handshake (uvloop)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server_context(pki).wrap_bio(incoming, outgoing, server_side=True)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = stranger_context(pki, server=False).wrap_bio(there, back, server_hostname="localhost")
    for end, source, sink in ((theirs, back, incoming), (ours, outgoing, there)):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
        sink.write(source.read())
    theirs.do_handshake()
    theirs.write(b"at once")
    incoming.write(back.read())
    ours.do_handshake()
    assert incoming.pending
    assert ours.read(100) == b"at once"


def test_F05_a_cut(pki: PKI) -> None:
    for suppress in (True, False):
        pair = Pair(client_context(pki), server_context(pki), suppress_ragged_eofs=suppress)
        plain = socket.socket(fileno=pair.client.detach())
        plain.close()
        if suppress:
            assert pair.server.recv(10) == b""
        else:
            with pytest.raises(ssl.SSLEOFError) as caught:
                pair.server.recv(10)
            assert isinstance(caught.value.__cause__, TruncationError)
        pair.server.close()


def test_close_and_half_close(pki: PKI) -> None:
    pair = Pair(client_context(pki), server_context(pki), suppress_ragged_eofs=False)
    pair.client.sendall(b"request")
    pair.client.shutdown(socket.SHUT_WR)
    assert pair.server.recv(100) == b"request"
    assert pair.server.recv(100) == b""
    pair.server.sendall(b"answer")
    pair.server.close()
    with pair.client.makefile("rb") as file:
        assert file.read() == b"answer"
    pair.client.close()


def test_a_non_blocking_send_is_finished_by_repeating_it(pki: PKI, pair: Pair) -> None:
    pair.client.settimeout(0)
    pair.server.settimeout(0)
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.recv(1)
    data = bytes(range(256)) * 8000
    position, got = 0, b""
    while len(got) < len(data):
        if position < len(data):
            try:
                position += pair.client.send(memoryview(data)[position:])
            except ssl.SSLWantWriteError:
                pass
        try:
            got += pair.server.recv(65536)
        except ssl.SSLWantReadError:
            pass
    assert got == data


def test_a_send_that_timed_out_goes_on_when_it_is_repeated(pki: PKI, pair: Pair) -> None:
    data = bytes(range(256)) * 40_000
    pair.client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="write"):
        pair.client.send(data)
    with pytest.raises(ssl.SSLError, match="BAD_WRITE_RETRY"):
        pair.client.send(b"something else")
    pair.client.settimeout(10)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(pair.client.send, data)
        got = bytearray()
        while len(got) < len(data):
            got += pair.server.recv(100_000)
        assert sending.result() == len(data)
    assert got == data


def test_what_is_known(pki: PKI) -> None:
    pair = Pair(client_context(pki), server_context(pki))
    inner: Any = pair.client._sslobj  # type: ignore[attr-defined]
    server: Any = pair.server._sslobj  # type: ignore[attr-defined]
    assert inner.owner in (None, pair.client)
    assert inner.server_hostname == "localhost"
    assert not inner.server_side
    assert server.server_side
    assert pair.client.compression() is None
    name, version, bits = pair.client.cipher() or ("", "", 0)
    assert (name, version, bits) in (pair.server.shared_ciphers() or [])
    assert pair.client.shared_ciphers() is None
    chain, sent = inner.get_verified_chain(), inner.get_unverified_chain()
    assert sent[0].public_bytes(2) == pair.client.getpeercert(True)
    assert ssl.PEM_cert_to_DER_cert(chain[0].public_bytes(1)) == pair.client.getpeercert(True)
    assert chain[0] == sent[0]
    assert len({*chain, *sent}) == 2
    assert pair.client.get_channel_binding("tls-exporter") == pair.server.get_channel_binding("tls-exporter")
    pair.server.sendall(b"x")
    assert pair.client.recv(10) == b"x"
    with pytest.raises(ValueError, match="after handshake"):
        pair.client.session = pair.client.session
    with pytest.raises(ValueError, match="server-side"):
        pair.server.session = pair.client.session
    with pytest.raises(TypeError, match="Session"):
        pair.client.session = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="SSLContext"):
        pair.client.context = ssl.create_default_context()
    with pytest.raises(ValueError, match="negative"):
        inner.read(-1)
    assert pair.client.recv(0) == b""
    assert pair.client.recv_into(bytearray(0)) == 0
    pair.close()


def test_before_the_handshake(pki: PKI) -> None:
    bio: Any = client_context(pki).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    assert bio.version() is None
    assert bio.get_channel_binding("tls-exporter") is None
    assert bio.session is None
    with pytest.raises(ValueError, match="handshake not done"):
        bio.getpeercert()
    other = client_context(pki)
    bio.context = other
    assert bio.context is other
    with pytest.raises(ssl.SSLWantReadError):
        bio.do_handshake()


def test_a_blocking_send_takes_all(pki: PKI, pair: Pair) -> None:
    """As OpenSSL's without partial writes; programs count on it."""
    data = bytes(range(256)) * 8000
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(pair.client.send, data)
        got = b""
        while len(got) < len(data):
            got += pair.server.recv(100_000)
        assert sending.result() == len(data)
    assert got == data


@pytest.mark.parametrize("what", ["socket", "bio"])
def test_an_error_keeps_neither_the_buffer_nor_itself(pki: PKI, what: str) -> None:
    pair = Pair(client_context(pki), server_context(pki))
    data, room = bytearray(100), bytearray(100)
    if what == "socket":
        pair.server.settimeout(0)
        writer: Any = pair.client
        reader: Any = pair.server
        socket.socket.shutdown(pair.client, socket.SHUT_WR)
    else:
        writer = reader = client_context(pki).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    gc.collect()
    gc.disable()
    try:
        kept: list[BaseException] = []
        calls: list[Any] = [lambda: reader.read(100, room)]
        if what == "socket":
            # Once the wire is shut, OpenSSL is not to blame: the error is the socket's own.
            calls = [lambda: [writer.send(data) for _ in range(2)], lambda: reader.read(100, room), lambda: reader.read(100, room)]
        for call in calls:
            try:
                call()
            except OSError as error:
                kept.append(error)
        assert kept
        data.append(1)
        room.append(1)
        # In no cycle: dropping the list drops them.
        kinds, identities = tuple({type(error) for error in kept}), {id(error) for error in kept}
        kept.clear()
        assert not [thing for thing in gc.get_objects() if isinstance(thing, kinds) and id(thing) in identities]
    finally:
        gc.enable()
        pair.close()


def test_reading_on_after_unwrap_was_begun(pki: PKI, pair: Pair) -> None:
    """What the peer sent before it heard of the end can be read; then comes ``SSLZeroReturnError``, as from ``ssl``."""
    for end in (pair.client, pair.server):
        end.settimeout(0.05)
    pair.server.sendall(b"under way")
    with pytest.raises(ssl.SSLError):
        pair.client.unwrap()
    assert pair.client.recv(100) == b"under way"
    with pytest.raises(TimeoutError):
        pair.client.unwrap()
    assert pair.server.recv(100) == b""
    pair.server.unwrap()
    with pytest.raises(ssl.SSLZeroReturnError):
        pair.client.recv(100)


def test_no_file_is_read_when_a_connection_is_made(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop would wait for it."""
    context = stdlib.create_default_context()
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} is read"))
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")


def test_time_outs(pki: PKI, pair: Pair) -> None:
    pair.client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        pair.client.recv(1)
    with pytest.raises(TimeoutError, match="timed out"):
        while True:
            pair.client.sendall(bytes(1 << 20))


def test_refused_certificates(pki: PKI) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        Pair(client_context(pki), server_context(pki), name="other.example")
    assert caught.value.verify_code == 62
    assert caught.value.verify_message == "Hostname mismatch, certificate is not valid for 'other.example'."
    assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
    assert isinstance(caught.value.__cause__, CertificateError)
    assert isinstance(caught.value.server_error, ssl.SSLError)  # type: ignore[attr-defined]
    assert "ALERT_BAD_CERTIFICATE" in str(caught.value.server_error)  # type: ignore[attr-defined]
    nobody = stdlib.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert nobody.cert_store_stats() == {"x509": 0, "crl": 0, "x509_ca": 0}
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        Pair(nobody, server_context(pki))


def test_no_certificate_loaded(pki: PKI) -> None:
    with pytest.raises(ssl.SSLError, match="SSLV3_ALERT_HANDSHAKE_FAILURE") as caught:
        Pair(client_context(pki), stdlib.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert "load_cert_chain" in str(caught.value.server_error)  # type: ignore[attr-defined]


def test_sni_callback(pki: PKI, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    other = stdlib.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(pki.issue("other.example"))
    context = server_context(pki)

    def choose(sock: Any, name: str | None, called: Any) -> int | None:
        seen.append((type(sock), name, called is context))
        if name == "refused.example":
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if name == "broken.example":
            raise KeyError(name)
        if name == "odd.example":
            return "text"  # type: ignore[return-value]
        if name == "other.example":
            sock.context = other
        return None

    context.sni_callback = choose
    for name in ("localhost", "other.example"):
        pair = Pair(client_context(pki), context, name=name)
        assert ("DNS", name) in pair.client.getpeercert()["subjectAltName"]  # type: ignore[index]
        pair.close()
    assert seen == [(stdlib.SSLSocket, "localhost", True), (stdlib.SSLSocket, "other.example", True)]
    for name, alert in (("refused", "UNRECOGNIZED_NAME"), ("broken", "HANDSHAKE_FAILURE"), ("odd", "INTERNAL_ERROR")):
        with pytest.raises(ssl.SSLError, match=alert):
            Pair(client_context(pki), context, name=f"{name}.example")
    assert [type(report.exc_value) for report in reported] == [KeyError, TypeError]


def test_F17_another_context_brings_its_verification(pki: PKI) -> None:
    """OpenSSL would take over the certificate and leave the rest."""
    strict = server_context(pki, verify_mode=ssl.CERT_REQUIRED)
    strict.load_verify_locations(cadata=pki.ca_pem.decode())
    context = server_context(pki)

    def choose(sock: Any, name: str | None, called: Any) -> None:
        sock.context = strict

    context.sni_callback = choose  # type: ignore[assignment]
    client = client_context(pki)
    with pytest.raises(ssl.SSLError):
        pair = Pair(client, context)
        pair.client.recv(1)
    client.load_cert_chain(pki.client)
    pair = Pair(client, context)
    assert pair.server.getpeercert()
    pair.close()


def test_sessions_and_renewed_certificates(pki: PKI) -> None:
    client, server = client_context(pki), server_context(pki)
    first = Pair(client, server)
    first.server.sendall(b"x")
    assert first.client.recv(1) == b"x"
    session = first.client.session
    assert isinstance(session, Session)
    first.close()
    server.load_cert_chain(pki.issue("localhost"))
    second = Pair(client, server, session=session)
    assert second.client.session_reused
    assert second.server.session_reused
    second.close()
    with pytest.raises(TypeError, match=r"sslconnector\.Session"):
        client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost", session=object())  # type: ignore[arg-type]


def test_a_client_certificate_after_the_handshake(pki: PKI) -> None:
    server = server_context(pki, verify_mode=ssl.CERT_REQUIRED, post_handshake_auth=True)
    server.load_verify_locations(cadata=pki.ca_pem.decode())
    client = stranger_context(pki, server=False, client_certificate=pki.ca.issue_cert("client@example.org"))
    client.post_handshake_auth = True
    pair = Pair(client, server)
    assert pair.server.getpeercert() is None
    pair.server.verify_client_post_handshake()
    pair.server.sendall(b"x")
    assert pair.client.recv(1) == b"x"
    pair.client.sendall(b"y")
    assert pair.server.recv(1) == b"y"
    assert pair.server.getpeercert()
    pair.close()


def test_settings(pki: PKI) -> None:
    context = client_context(pki)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ciphers("ECDHE+AESGCM")
    context.set_ecdh_curve("prime256v1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    server = server_context(pki)
    server.set_alpn_protocols(["http/1.1"])
    pair = Pair(context, server)
    assert pair.client.selected_alpn_protocol() == "http/1.1"
    assert pair.client.version() == "TLSv1.2"
    assert (pair.client.cipher() or "")[0].startswith("ECDHE")
    pair.close()
    assert {entry["name"] for entry in context.get_ciphers()} >= {"ECDHE-RSA-AES256-GCM-SHA384"}
    assert context.security_level == 2
    assert context.num_tickets == 0
    context.limits = Limits(handshake_timeout=1)
    assert context.client_context().config.limits.handshake_timeout == 1


def test_what_is_not_offered_says_so(pki: PKI) -> None:
    context = client_context(pki)
    for attribute, value in (
        ("maximum_version", ssl.TLSVersion.TLSv1_1),
        ("hostname_checks_common_name", True),
        ("num_tickets", 5),
        ("options", context.options | 0x4),
        ("verify_flags", ssl.VERIFY_ALLOW_PROXY_CERTS),
    ):
        with pytest.raises(ValueError, match=attribute):
            setattr(context, attribute, value)
    with pytest.warns(UserWarning, match="stays TLSv1_2"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    for call in (
        lambda: context.load_dh_params("x"),
        lambda: context.set_npn_protocols(["x"]),
        lambda: context.set_psk_client_callback(None),
        lambda: context.set_psk_server_callback(None),
        context.session_stats,
    ):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(ValueError, match="RFC 8996"):
        stdlib.SSLContext(ssl.PROTOCOL_TLSv1)
    with pytest.raises(ssl.SSLError, match="Cannot create a server socket"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ValueError, match="check_hostname requires"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())


def test_bad_input(pki: PKI, tmp_path: Any) -> None:
    context = stdlib.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(FileNotFoundError):
        context.load_cert_chain(tmp_path / "nothing.pem")
    with pytest.raises(ssl.SSLError, match="does not belong|do not|not"):
        context.load_cert_chain(pem_chain(pki.server), pem_key(pki.client))
    asked: list[int] = []
    (tmp_path / "cert.pem").write_bytes(pem_chain(pki.server))
    (tmp_path / "key.pem").write_bytes(pem_key(pki.server, b"secret"))

    def ask() -> bytearray:
        asked.append(1)
        return bytearray(b"secret")

    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem", ask)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem", bytearray(b"secret"))
    assert asked == [1]
    folder = tmp_path / "capath"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(pki.ca_pem)
    client = stdlib.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(capath=folder)
    assert len(client.get_ca_certs()) == len(client.get_ca_certs(True)) == 1
    with pytest.raises(TypeError):
        stdlib.create_default_context("x")  # type: ignore[arg-type]


def test_revocation_flags(pki: PKI) -> None:
    good, bad = pki.issue_raw("localhost"), pki.issue_raw("localhost")
    client = client_context(pki)
    client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    server = stdlib.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(good)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
        Pair(client, server)
    client.load_verify_locations(cadata=(pki.ca_pem + pki.crl(bad)).decode())
    Pair(client, server).close()
    server.load_cert_chain(bad)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        Pair(client, server)


def test_over_a_stranger_in_memory_with_garbage(pki: PKI) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server_context(pki).wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        ours.do_handshake()
