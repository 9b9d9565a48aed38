"""What many tests need: certificates, two connected sides, and the adapter loop over a wire of bytes."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Iterable
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import settings

from sslconnector import (
    ClientContext,
    Connector,
    Event,
    HandshakeState,
    Identity,
    Limits,
    ReadStatus,
    ServerContext,
    TLSError,
    TLSVersion,
    TrustStore,
)

V12: dict[str, Any] = {"maximum_version": TLSVersion.TLSv1_2}
V13: dict[str, Any] = {"minimum_version": TLSVersion.TLSv1_3}
VERSIONS = {"TLSv1.2": V12, "TLSv1.3": V13}


def examples(count: int) -> int:
    """How many examples an expensive property gets: ``count``, in a soak run twenty times as many."""
    return count * 20 if settings.get_current_profile_name() == "soak" else count


class PKI:
    """One CA, a server's identity for localhost, one for a client, and whatever else a test asks for."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.ca_pem = self.ca.cert_pem.bytes()
        self.trust = TrustStore.from_bytes(self.ca_pem)
        self.server_cert = self.ca.issue_cert("localhost", "127.0.0.1", "::1")
        self.server = self.identity(self.server_cert)
        self.client = self.identity(self.ca.issue_cert("client@example.org", common_name="a client"))
        self.other_ca = trustme.CA()
        self.other_trust = TrustStore.from_bytes(self.other_ca.cert_pem.bytes())

    @staticmethod
    def identity(leaf: trustme.LeafCert) -> Identity:
        return Identity.from_pem(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

    def issue(self, *names: str, **options: Any) -> Identity:
        return self.identity(self.ca.issue_cert(*names, **options))

    def issue_raw(
        self,
        *names: str,
        common_name: str = "raw",
        days: tuple[int, int] = (-1, 30),
        key: Any = None,
        usages: Iterable[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
    ) -> Identity:
        """A leaf with what trustme does not offer: any names, dates, key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        issuer_key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        issuer = x509.load_pem_x509_certificate(self.ca_pem)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)  # type: ignore[arg-type]
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        certificate = builder.sign(issuer_key, hashes.SHA256())  # type: ignore[arg-type]
        return Identity.from_objects(key, certificate)

    def crl(self, *revoked: Identity, days: int = 7) -> bytes:
        issuer_key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        issuer = x509.load_pem_x509_certificate(self.ca_pem)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(now - datetime.timedelta(days=30))
            .next_update(now + datetime.timedelta(days=days))
        )
        for identity in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(identity.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - datetime.timedelta(days=1)).build())
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]

    def client_context(self, **options: Any) -> ClientContext:
        options.setdefault("trust", self.trust)
        return ClientContext(**options)

    def server_context(self, **options: Any) -> ServerContext:
        options.setdefault("identities", self.server)
        return ServerContext(**options)

    def pair(self, server_hostname: str = "localhost", client: Any = None, server: Any = None, **common: Any) -> tuple[Side, Side]:
        """A client and a server that trust each other, not started."""
        first = Connector(self.client_context(**common, **(client or {})), server_hostname=server_hostname)
        return Side(first), Side(Connector(self.server_context(**common, **(server or {}))))

    def connected(self, **options: Any) -> tuple[Side, Side]:
        """The same with the handshake done, tickets delivered, and no events left."""
        client, server = self.pair(**options)
        shake(client, server)
        assert client.error is None, client.error
        assert server.error is None, server.error
        server.connector.write(b"!")
        pump(client, server)
        assert client.plaintext == b"!"
        client.plaintext.clear()
        client.events.clear()
        server.events.clear()
        return client, server


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem_key(identity: Identity, password: bytes | None = None) -> bytes:
    encryption: Any = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(identity.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


def pem_chain(identity: Identity) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in identity.chain)


class Side:
    """A connector with the one adapter loop around it, as docs/adapters has it."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.plaintext = bytearray()
        self.events: list[Event] = []
        self.error: TLSError | None = None
        self.on_event: Callable[[Event], None] | None = None

    def turn(self) -> None:
        connector = self.connector
        self.take_events()
        try:
            while connector.read_status is ReadStatus.MORE:
                self.plaintext += connector.read()
        except TLSError as error:
            self.error = self.error or error.with_traceback(None)
        self.take_events()

    def take_events(self) -> None:
        while self.connector.events_pending:
            event = self.connector.next_event()
            assert event is not None
            self.events.append(event)
            if self.on_event is not None:
                self.on_event(event)

    def feed(self, data: bytes | bytearray | memoryview, cut: Callable[[int], int] | None = None) -> None:
        """Gives ciphertext to the connector, within its window, cut as ``cut`` says; what it does not take any more is dropped."""
        position, view = 0, memoryview(data)
        while position < len(view):
            window = self.connector.receive_window
            if window == 0:
                self.turn()
                window = self.connector.receive_window
                if window == 0:
                    return
            size = min(window, len(view) - position)
            if cut is not None:
                size = max(1, min(size, cut(size)))
            self.connector.receive(view[position : position + size])
            position += size
            self.turn()

    def eof(self) -> None:
        self.connector.receive_eof()
        self.turn()

    def of_type(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def complete(self) -> bool:
        return self.connector.handshake_state is HandshakeState.COMPLETED


def pump(one: Side, other: Side, cut: Callable[[int], int] | None = None) -> None:
    """Carries bytes both ways until nothing moves."""
    for _ in range(10_000):
        moved = False
        for sender, receiver in ((one, other), (other, one)):
            data = sender.connector.data_to_send()
            if len(data):
                moved = True
                receiver.feed(data, cut)
        if not moved:
            return
    raise AssertionError("the two sides never come to rest")


def shake(client: Side, server: Side, cut: Callable[[int], int] | None = None) -> None:
    client.connector.start()
    pump(client, server, cut)


def _hkdf_expand_label(secret: bytes, label: bytes, length: int) -> bytes:
    full = b"tls13 " + label
    info = struct.pack("!HB", length, len(full)) + full + b"\0"
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=info).derive(secret)


class KeyUpdater:
    """Makes TLS 1.3 records from a traffic secret of the key log: OpenSSL answers KeyUpdates but cannot be asked to begin one."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._keys()

    def _keys(self) -> None:
        self.aead = AESGCM(_hkdf_expand_label(self.secret, b"key", 16))
        self.iv = int.from_bytes(_hkdf_expand_label(self.secret, b"iv", 12), "big")
        self.sequence = 0

    def record(self, content: bytes, kind: int) -> bytes:
        inner = content + bytes([kind])
        header = b"\x17\x03\x03" + struct.pack("!H", len(inner) + 16)
        nonce = (self.iv ^ self.sequence).to_bytes(12, "big")
        self.sequence += 1
        return header + self.aead.encrypt(nonce, inner, header)

    def key_update(self, request: bool = True) -> bytes:
        record = self.record(b"\x18\x00\x00\x01" + bytes([request]), 22)
        self.secret = _hkdf_expand_label(self.secret, b"traffic upd", 32)
        self._keys()
        return record

    def data(self, content: bytes) -> bytes:
        return self.record(content, 23)


def with_key_updater(pki: PKI, **limits: Any) -> tuple[Side, Side, KeyUpdater]:
    """A connection whose client's records can be made by hand from now on."""
    lines: list[bytes] = []
    client, server = pki.pair(
        client={"keylog": lines.append},
        server={"limits": Limits(**limits)},
        ciphersuites="TLS_AES_128_GCM_SHA256",
        **V13,
    )
    shake(client, server)
    (secret,) = [line.split()[2] for line in lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0 ")]
    return client, server, KeyUpdater(bytes.fromhex(secret.decode()))
