"""The stream may be cut, damaged or ended anywhere: the outcome depends on its bytes, never on how they come."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from sslconnector import (
    ConnectionAborted,
    HandshakeInterrupted,
    HandshakeState,
    Identity,
    IdentityError,
    PeerClosed,
    ReadSide,
    TLSError,
    TruncationError,
    _engine,
)

from .helpers import PKI, VERSIONS, Side, examples, pump, shake

_FAST = {"groups": "X25519:P-256"}
_CUTS: dict[str, Callable[[int], int]] = {"1": lambda _: 1, "5": lambda _: 5, "7": lambda _: 7, "whole": lambda size: size}


def _scenario(client: Side, server: Side, cut: Callable[[int], int] | None) -> None:
    """Early data, a handshake, both sides talking, half-close and close."""
    client.connector.write(b"early")
    client.connector.start()
    pump(client, server, cut)
    server.connector.write(b"s" * 20_000)
    client.connector.write(b"c" * 300)
    pump(client, server, cut)
    client.connector.close_write()
    pump(client, server, cut)
    server.connector.write(b"last")
    server.connector.close_write()
    pump(client, server, cut)


def _outcome(side: Side) -> tuple[Any, ...]:
    return (bytes(side.plaintext), side.events, type(side.error), str(side.error), side.connector.read_side, side.connector.write_side)


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize("cut", list(_CUTS))
def test_fixed_cuts(pki: PKI, version: str, cut: str) -> None:
    client, server = pki.pair(**VERSIONS[version])
    _scenario(client, server, _CUTS[cut])
    assert server.plaintext == b"early" + b"c" * 300
    assert client.plaintext == b"s" * 20_000 + b"last"
    assert client.of_type(PeerClosed)
    assert server.of_type(PeerClosed)
    reference = pki.pair(**VERSIONS[version])
    _scenario(*reference, None)
    assert _outcome(client) == _outcome(reference[0])
    assert _outcome(server) == _outcome(reference[1])


@given(seed=st.integers(0, 2**32), name=st.sampled_from(list(VERSIONS)), engine=st.sampled_from(list(_engine.ENGINES)))
@settings(max_examples=examples(60))
def test_random_cuts(pki: PKI, seed: int, name: str, engine: str) -> None:
    numbers = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "default_engine", _engine.ENGINES[engine])
        client, server = pki.pair(**VERSIONS[name], **_FAST)
        _scenario(client, server, lambda size: numbers.choice((1, 2, 3, 4, 5, 6, 50, 500, size)))
        reference = pki.pair(**VERSIONS[name], **_FAST)
        _scenario(*reference, None)
    assert _outcome(client) == _outcome(reference[0])
    assert _outcome(server) == _outcome(reference[1])


@given(
    data=st.data(),
    name=st.sampled_from(list(VERSIONS)),
    engine=st.sampled_from(list(_engine.ENGINES)),
    damaged=st.sampled_from(["client", "server"]),
)
@settings(max_examples=examples(300))
def test_flipped_bits_never_become_plaintext(pki: PKI, data: st.DataObject, name: str, engine: str, damaged: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_engine, "default_engine", _engine.ENGINES[engine])
        client, server = pki.pair(**VERSIONS[name], **_FAST)
        client.connector.write(b"client's data" * 5)
        server.connector.write(b"server's data" * 5)
        client.connector.start()
        target = data.draw(st.integers(0, 1600), "bit position")
        bit = 1 << data.draw(st.integers(0, 7), "bit")
        sent = 0
        for _ in range(8):
            for sender, receiver, label in ((client, server, "client"), (server, client, "server")):
                piece = bytearray(sender.connector.data_to_send())
                if label == damaged:
                    if sent <= target < sent + len(piece):
                        piece[target - sent] ^= bit
                    sent += len(piece)
                receiver.feed(piece)
        # Damage may also leave somebody waiting for the rest of a record that has become longer.
        for side in (client, server):
            side.eof()
    for side, expected in ((client, b"server's data" * 5), (server, b"client's data" * 5)):
        assert expected.startswith(side.plaintext)
        assert side.error is None or isinstance(side.error, TLSError)
    if target < sent:
        assert client.error is not None or server.error is not None


@pytest.mark.parametrize("receiver", ["client", "server"])
def test_the_wire_may_end_at_every_byte(pki: PKI, version: str, twin: str, receiver: str) -> None:
    step = 1 if twin == "direct" else 7
    position = 0
    lengths = set()
    while True:
        client, server = pki.pair(**VERSIONS[version], **_FAST)
        client.connector.write(b"ping")
        server.connector.write(b"pong")
        client.connector.start()
        side, other = (client, server) if receiver == "client" else (server, client)
        left = position
        for _ in range(8):
            for source, sink in ((client, server), (server, client)):
                piece = source.connector.data_to_send()
                if sink is side:
                    piece, left = piece[:left], left - len(piece[:left])
                sink.feed(piece)
            if other.complete and other.connector.write_side.value != "closed":
                other.connector.close_write()
        handshaken = side.complete
        side.eof()
        if side.error is None:
            assert side.connector.read_side is ReadSide.CLOSED
            break
        assert isinstance(side.error, TruncationError if handshaken else HandshakeInterrupted), (position, side.error)
        assert bytes(side.plaintext) in (b"", b"ping", b"pong")
        lengths.add(len(side.plaintext))
        position += step
    assert position > 300
    assert lengths == {0, 4}


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize("how", ["abort", "close", "close_write", "eof"])
def test_every_state_may_be_left(pki: PKI, version: str, how: str) -> None:
    """The connection is given up after each step of its life; nothing but a TLSError comes of it, and it comes to rest."""
    for step in range(8):
        for who in (0, 1):
            client, server = pki.pair(**VERSIONS[version], **_FAST)
            sides = (client, server)
            done = 0

            def leave(sides: tuple[Side, Side] = sides, who: int = who) -> None:
                side = sides[who]
                if how == "eof":
                    side.eof()
                else:
                    getattr(side.connector, how)()

            for move in range(10):
                if done == step:
                    leave()
                done += 1
                if move == 0:
                    client.connector.start() if client.connector.handshake_state is HandshakeState.NOT_STARTED else None
                    continue
                sender, receiver = sides if move % 2 else sides[::-1]
                receiver.feed(sender.connector.data_to_send())
                if move == 6 and client.connector.write_side.value == "open":
                    client.connector.write(b"data")
            pump(client, server)
            for side in sides:
                side.turn()
                assert side.error is None or isinstance(side.error, TLSError)
            if how == "abort":
                assert isinstance(sides[who].error, ConnectionAborted)


def test_garbage_is_refused(pki: PKI, twin: str) -> None:
    numbers = random.Random(5)
    for _ in range(300):
        garbage = bytes((22, 3, numbers.randrange(5))) + numbers.randbytes(numbers.randrange(1, 600))
        for side in pki.pair(**_FAST):
            side.connector.start()
            side.feed(garbage)
            side.eof()
            assert isinstance(side.error, TLSError)
            assert not side.plaintext


def test_garbage_after_the_handshake_is_refused(pki: PKI, twin: str) -> None:
    numbers = random.Random(6)
    for _ in range(40):
        client, server = pki.pair(**_FAST)
        shake(client, server)
        kind = numbers.choice((20, 21, 22, 23, 24, 99))
        size = numbers.randrange(0, 300)
        server.feed(bytes((kind, 3, 3)) + size.to_bytes(2, "big") + numbers.randbytes(size))
        server.eof()
        assert isinstance(server.error, TLSError)
        assert not server.plaintext


def test_damaged_certificates_are_refused_in_words(pki: PKI) -> None:
    """On TLS 1.2 the server's certificate comes in clear. OpenSSL and cryptography parse it each in its own way."""
    numbers = random.Random(7)
    for _ in range(examples(400)):
        client, server = pki.pair(**VERSIONS["TLSv1.2"], **_FAST)
        client.connector.start()
        server.feed(client.connector.data_to_send())
        flight = bytearray(server.connector.data_to_send())
        flight[numbers.randrange(80, len(flight))] ^= 1 << numbers.randrange(8)
        client.feed(flight)
        client.eof()
        assert isinstance(client.error, TLSError)
        assert str(client.error)
        assert not client.complete


def test_a_certificate_of_an_unknown_version_is_refused_in_words(pki: PKI) -> None:
    der = bytearray(pki.server.certificate.public_bytes(serialization.Encoding.DER))
    der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 6
    with pytest.raises(IdentityError, match="no readable certificate"):
        Identity.from_pem(bytes(der), b"")
