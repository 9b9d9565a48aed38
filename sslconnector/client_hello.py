"""The ClientHello, read before there is a TLS object.

A server decides three things from it: which policy holds for the name the client asks for, which certificate to show, and whether to
ask the application for one. Deciding before the TLS object exists means that a policy is chosen once and cannot be changed by the
handshake (FAULTS F17), that no Python callback runs inside OpenSSL for it (F04), and that a peer which never finishes its ClientHello
costs the bytes it sent and nothing more (F11).

Reading is lenient: what does not parse is handed to OpenSSL as it came, which answers with the alert that the standard asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from .identity import Identity
from .limits import MAX_RECORD, RECORD_HEADER

__all__ = ["ClientHello", "ClientHelloReader"]

_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
# Signature scheme numbers by kind of key (RFC 8446 section 4.2.3).
_SCHEMES: dict[str, frozenset[int]] = {
    "rsa": frozenset({0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806}),
    "ec": frozenset({0x0403, 0x0503, 0x0603}),
    "ed25519": frozenset({0x0807}),
    "ed448": frozenset({0x0808}),
}
_EXT_SERVER_NAME, _EXT_SIGNATURE_ALGORITHMS, _EXT_ALPN = 0, 13, 16


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The parts of a ClientHello that choose a certificate."""

    #: SNI, lower case (RFC 6066 section 3), or None
    server_name: str | None = None
    #: ALPN (RFC 7301), in the client's order
    alpn_protocols: tuple[str, ...] = ()
    #: signature scheme numbers (RFC 8446 section 4.2.3)
    signature_algorithms: tuple[int, ...] = ()

    def accepts(self, identity: Identity) -> bool:
        """Whether the client can check signatures of this identity's key. A client that says nothing is taken at anything."""
        if not self.signature_algorithms:
            return True
        return not _SCHEMES[_key_kind(identity.key)].isdisjoint(self.signature_algorithms)


class ClientHelloReader:
    """Collects the first handshake message of a stream.

    ``received`` is everything that came, to be fed to OpenSSL; ``size`` is the message's length in bytes as it declares itself, or what
    came of it while that is unknown; ``records`` is how many records it took so far.
    """

    __slots__ = ("_message", "_parsed", "received", "records", "size")

    def __init__(self) -> None:
        self.received = bytearray()
        self.size = 0
        self.records = 0
        self._message = bytearray()
        self._parsed = 0

    def feed(self, data: bytes | bytearray | memoryview) -> ClientHello | None:
        """Takes more of the stream. Returns the ClientHello when it is whole; an empty one when OpenSSL had better look at it itself;
        None while it is incomplete."""
        received = self.received
        received += data
        while True:
            start = self._parsed
            if len(received) < start + RECORD_HEADER:
                return None
            if received[start] != _HANDSHAKE_RECORD:
                return ClientHello()
            end = start + RECORD_HEADER + (received[start + 3] << 8 | received[start + 4])
            if end - start > MAX_RECORD:
                return ClientHello()
            if len(received) < end:
                return None
            self._message += received[start + RECORD_HEADER : end]
            self._parsed = end
            self.records += 1
            message = self._message
            if len(message) >= 4:
                if message[0] != _CLIENT_HELLO:
                    return ClientHello()
                self.size = 4 + int.from_bytes(message[1:4], "big")
                if len(message) >= self.size:
                    return _parse(memoryview(message)[4 : self.size])


def _key_kind(key: object) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "ec"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "ed448"


def _parse(body: memoryview) -> ClientHello:
    try:
        return _parse_body(_Reader(body))
    except (_Malformed, UnicodeDecodeError):
        return ClientHello()


class _Malformed(Exception):
    pass


class _Reader:
    """Length-prefixed fields (RFC 8446 section 3.4)."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def take(self, size: int) -> memoryview:
        if len(self.data) < size:
            raise _Malformed
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, prefix: int) -> _Reader:
        return _Reader(self.take(self.number(prefix)))


def _parse_body(hello: _Reader) -> ClientHello:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello.data:
        return ClientHello()
    server_name: str | None = None
    alpn: list[str] = []
    schemes: list[int] = []
    extensions = hello.vector(2)
    while extensions.data:
        kind = extensions.number(2)
        content = extensions.vector(2)
        if kind == _EXT_SERVER_NAME:
            names = content.vector(2)
            if names.number(1) == 0:  # host_name
                server_name = bytes(names.vector(2).data).decode("ascii").removesuffix(".").lower()
        elif kind == _EXT_ALPN:
            protocols = content.vector(2)
            while protocols.data:
                alpn.append(bytes(protocols.vector(1).data).decode("utf-8", "backslashreplace"))
        elif kind == _EXT_SIGNATURE_ALGORITHMS:
            listed = content.vector(2)
            while listed.data:
                schemes.append(listed.number(2))
    return ClientHello(server_name, tuple(alpn), tuple(schemes))
