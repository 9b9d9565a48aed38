"""The ClientHello, read before there is a TLS object.

A server decides three things from it: which policy holds for the name the client asks for, which certificate to show, and whether to
ask the application for one. Deciding before the TLS object exists means that a policy is chosen once and cannot be changed by the
handshake (FAULTS F17), that no Python callback runs inside OpenSSL for it (F04), and that a peer which never finishes its ClientHello
costs the bytes it sent and nothing more (F11).

Reading is lenient: what does not parse is handed to OpenSSL as it came, which answers with the alert that the standard asks for.
"""

from __future__ import annotations

import struct
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
_WANTED = frozenset((_EXT_SERVER_NAME, _EXT_SIGNATURE_ALGORITHMS, _EXT_ALPN))
_extension = struct.Struct("!HH").unpack_from


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The parts of a ClientHello that choose a certificate."""

    #: SNI, lower case (RFC 6066 section 3), or None
    server_name: str | None = None
    #: ALPN (RFC 7301), in the client's order
    alpn_protocols: tuple[str, ...] = ()
    #: signature scheme numbers (RFC 8446 section 4.2.3)
    signature_algorithms: tuple[int, ...] = ()
    #: cipher suite numbers (RFC 8446 section 4.1.2), in the client's order
    cipher_suites: tuple[int, ...] = ()

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
                    return _parse(bytes(message[4 : self.size]))


def _key_kind(key: object) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "ec"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "ed448"


def _parse(body: bytes) -> ClientHello:
    try:
        return _parse_body(body)
    except (_Malformed, UnicodeDecodeError, struct.error):
        return ClientHello()


class _Malformed(Exception):
    pass


def _content(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Where the field at ``at`` begins and ends, whose length stands before it in ``prefix`` bytes (RFC 8446 section 3.4)."""
    begin = at + prefix
    end = begin + int.from_bytes(data[at:begin], "big")
    if end > len(data) or begin > len(data):
        raise _Malformed
    return begin, end


def _parse_body(body: bytes) -> ClientHello:
    _, at = _content(body, 2 + 32, 1)  # legacy_session_id, after legacy_version and random
    begin, at = _content(body, at, 2)
    suites: tuple[int, ...] = struct.unpack(f"!{(at - begin) // 2}H", body[begin : at - (at - begin) % 2])
    _, at = _content(body, at, 1)  # legacy_compression_methods
    if at == len(body):
        return ClientHello(cipher_suites=suites)
    at, end = _content(body, at, 2)
    found: dict[int, bytes] = {}
    while at < end:
        kind, size = _extension(body, at)
        at += 4
        if at + size > end:
            raise _Malformed
        if kind in _WANTED:
            found[kind] = body[at : at + size]
        at += size
    server_name: str | None = None
    alpn: list[str] = []
    schemes: tuple[int, ...] = ()
    if (content := found.get(_EXT_SERVER_NAME)) is not None:
        begin, end = _content(content, 0, 2)
        if content[begin : begin + 1] == b"\0":  # host_name
            begin, end = _content(content[:end], begin + 1, 2)
            server_name = content[begin:end].decode("ascii").removesuffix(".").lower()
        elif begin == end:
            raise _Malformed
    if (content := found.get(_EXT_ALPN)) is not None:
        at, end = _content(content, 0, 2)
        while at < end:
            begin, at = _content(content[:end], at, 1)
            alpn.append(content[begin:at].decode("utf-8", "backslashreplace"))
    if (content := found.get(_EXT_SIGNATURE_ALGORITHMS)) is not None:
        begin, end = _content(content, 0, 2)
        schemes = struct.unpack(f"!{(end - begin + 1) // 2}H", content[begin:end])
    return ClientHello(server_name, tuple(alpn), schemes, suites)
