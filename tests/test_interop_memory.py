"""Against Python's own ssl, in memory: another OpenSSL, driven by other people's code."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from sslconnector import Connector, PeerClosed, ReadSide, TruncationError

from .helpers import PKI, VERSIONS, Side

pytestmark = pytest.mark.usefixtures("twin")


class _Stranger:
    """An ssl.SSLObject with its BIOs."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.plaintext = bytearray()
        self.closed = False

    def exchange(self, side: Side) -> None:
        for _ in range(50):
            try:
                self.object.do_handshake()
                while data := self.object.read(1 << 16):
                    self.plaintext += data
                self.closed = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.closed = True
            data = self.outgoing.read()
            side.feed(data)
            answer = side.connector.data_to_send()
            if not data and not len(answer):
                return
            self.incoming.write(bytes(answer))


def _version(context: ssl.SSLContext, version: str) -> ssl.SSLContext:
    number = ssl.TLSVersion.TLSv1_2 if version == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = number
    return context


@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("role", ["client", "server"])
def test_everything_once(pki: PKI, version: str, role: str) -> None:
    if role == "client":
        context = _version(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version)
        pki.server_cert.configure_cert(context)
        context.set_alpn_protocols(["x"])
        stranger = _Stranger(context, server_side=True)
        side = Side(Connector(pki.client_context(alpn_protocols=["y", "x"]), server_hostname="localhost"))
        side.connector.start()
    else:
        context = _version(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version)
        pki.ca.configure_trust(context)
        context.set_alpn_protocols(["y", "x"])
        stranger = _Stranger(context, server_hostname="localhost")
        side = Side(Connector(pki.server_context(alpn_protocols=["x"])))
    stranger.exchange(side)
    stranger.exchange(side)
    assert side.complete, side.error
    assert side.connector.version == stranger.object.version() == version
    assert side.connector.alpn_protocol == stranger.object.selected_alpn_protocol() == "x"
    cipher = stranger.object.cipher()
    assert cipher is not None
    assert side.connector.cipher == cipher[0]
    for size in (1, 1000, 16384, 16385, 300_000):
        stranger.object.write(bytes(size))
        stranger.exchange(side)
        assert len(side.plaintext) == size
        side.plaintext.clear()
        side.connector.write(bytes(size))
        stranger.exchange(side)
        assert len(stranger.plaintext) == size
        stranger.plaintext.clear()
    if role == "server" and version == "TLSv1.3":
        assert stranger.object.session is not None
        assert stranger.object.session.has_ticket
    side.connector.close_write()
    stranger.exchange(side)
    assert stranger.closed
    try:
        stranger.object.unwrap()
    except ssl.SSLWantReadError:
        pass
    side.feed(stranger.outgoing.read())
    assert side.of_type(PeerClosed)
    assert side.connector.read_side is ReadSide.CLOSED
    assert side.connector.finished


@pytest.mark.parametrize("version", list(VERSIONS))
def test_their_session_is_resumed(pki: PKI, version: str) -> None:
    context = _version(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version)
    pki.ca.configure_trust(context)
    server_context = pki.server_context()
    stranger = _Stranger(context, server_hostname="localhost")
    side = Side(Connector(server_context))
    stranger.exchange(side)
    side.connector.write(b"x")
    stranger.exchange(side)
    session = stranger.object.session
    again = _Stranger(context, server_hostname="localhost", session=session)
    side = Side(Connector(server_context))
    again.exchange(side)
    assert again.object.session_reused
    assert side.connector.resumed


def test_their_truncation_is_noticed(pki: PKI) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pki.ca.configure_trust(context)
    stranger = _Stranger(context, server_hostname="localhost")
    side = Side(Connector(pki.server_context()))
    stranger.exchange(side)
    stranger.object.write(b"some of it")
    side.feed(stranger.outgoing.read())
    side.eof()
    assert side.plaintext == b"some of it"
    assert isinstance(side.error, TruncationError)


def test_channel_binding_agrees(pki: PKI) -> None:
    """Python's ssl offers only tls-unique; the end point binding is the hash of a certificate both can see."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pki.ca.configure_trust(context)
    stranger = _Stranger(context, server_hostname="localhost")
    side = Side(Connector(pki.server_context()))
    stranger.exchange(side)
    import hashlib

    der = stranger.object.getpeercert(binary_form=True)
    assert der is not None
    assert side.connector.channel_binding("tls-server-end-point") == hashlib.sha256(der).digest()
