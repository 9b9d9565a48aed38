"""The ClientHello reader: it agrees with real clients, and hands anything odd to OpenSSL."""

from __future__ import annotations

import ssl

from hypothesis import given
from hypothesis import strategies as st

from sslconnector import Connector, Identity, TLSError
from sslconnector.client_hello import ClientHello, ClientHelloReader

from .helpers import PKI, Side


def _hello(name: str | None = "www.example.org", alpn: list[str] | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def test_pythons_ssl() -> None:
    reader = ClientHelloReader()
    hello = reader.feed(_hello("WWW.example.org", ["h2", "http/1.1"]))
    assert hello is not None
    assert hello.server_name == "www.example.org"
    assert hello.alpn_protocols == ("h2", "http/1.1")
    assert 0x0403 in hello.signature_algorithms
    hello = ClientHelloReader().feed(_hello(None))
    assert hello is not None
    assert hello.server_name is None
    assert hello.alpn_protocols == ()


@given(st.data())
def test_any_cut(data: st.DataObject) -> None:
    stream = _hello() + b"more"
    reader = ClientHelloReader()
    position = 0
    hello = None
    while hello is None:
        step = data.draw(st.integers(1, 700))
        hello = reader.feed(stream[position : position + step])
        position += step
    assert hello.server_name == "www.example.org"
    assert stream.startswith(reader.received)
    assert reader.records == 1
    assert reader.size == len(_hello()) - 5


@given(st.integers(0, 600), st.integers(0, 255))
def test_a_damaged_hello_never_raises(position: int, value: int) -> None:
    stream = bytearray(_hello(alpn=["h2"]))
    stream[min(position, len(stream) - 1)] = value
    result = ClientHelloReader().feed(stream)
    assert result is None or isinstance(result, ClientHello)


@given(st.binary(max_size=200))
def test_garbage_never_raises(garbage: bytes) -> None:
    for start in (b"\x16\x03\x01" + len(garbage).to_bytes(2, "big"), b"\x16\x03\x01\x00\x04\x01\x00\x00\x64\x16\x03\x01", b""):
        result = ClientHelloReader().feed(start + garbage)
        assert result is None or isinstance(result, ClientHello)


def test_a_truncated_extension_is_openssls_to_refuse(pki: PKI) -> None:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0" + b"\0\4" + b"\0\0\xff\xff"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    stream = b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
    assert ClientHelloReader().feed(stream) == ClientHello()
    server = Side(Connector(pki.server_context()))
    server.feed(stream)
    assert isinstance(server.error, TLSError)
    assert server.connector.data_to_send()
    bare = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    message = b"\x01" + len(bare).to_bytes(3, "big") + bare
    assert ClientHelloReader().feed(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message) == ClientHello(cipher_suites=(4865,))


def test_which_keys_a_client_can_check(pki: PKI) -> None:
    identity: Identity = pki.server
    assert ClientHello().accepts(identity)
    assert ClientHello(signature_algorithms=(0x0403,)).accepts(identity)
    assert not ClientHello(signature_algorithms=(0x0804,)).accepts(identity)
