"""What is known about a connection once its handshake is complete."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from ._engine import Engine, EngineFailure
from .errors import ApiMisuse, PeerMisbehaved
from .identity import MALFORMED

__all__ = ["Facts"]


class Facts:
    """The facts, for :class:`~sslconnector.Connector` to inherit. They stay known after the connection's end."""

    __slots__ = ("_facts", "_is_client")

    #: the engine, from the completed handshake on
    _facts: Engine | None
    _is_client: bool

    def _established(self) -> Engine:
        if self._facts is None:
            raise ApiMisuse("known once the handshake is complete: wait for HandshakeCompleted")
        return self._facts

    @property
    def version(self) -> str | None:
        """``"TLSv1.2"`` or ``"TLSv1.3"``; None before the handshake is complete."""
        return None if self._facts is None else self._facts.version()

    @property
    def cipher(self) -> str | None:
        """The cipher suite, by OpenSSL's name; None before the handshake is complete."""
        return None if self._facts is None else self._facts.cipher()[0]

    @property
    def cipher_bits(self) -> int | None:
        """Secret bits of the cipher suite; None before the handshake is complete."""
        return None if self._facts is None else self._facts.cipher()[1]

    @property
    def group(self) -> str | None:
        """The key exchange group; None before the handshake is complete, or where there was none."""
        return None if self._facts is None else self._facts.group()

    @property
    def alpn_protocol(self) -> str | None:
        """The agreed application protocol; None before the handshake is complete, or without one."""
        return None if self._facts is None else self._facts.alpn_protocol()

    @property
    def resumed(self) -> bool | None:
        """Whether a session was resumed; None before the handshake is complete."""
        return None if self._facts is None else self._facts.resumed()

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's certificate; None before the handshake is complete, or when it showed none.

        :raises PeerMisbehaved: when cryptography's parser, stricter than OpenSSL's, does not take the certificate.
        """
        chain = self.peer_chain
        return chain[0] if chain else None

    @property
    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain, its own certificate first, up to the trust anchor where it was verified.

        :raises PeerMisbehaved: as ``peer_certificate``.
        """
        return self._certificates(Engine.peer_chain)

    @property
    def sent_chain(self) -> tuple[x509.Certificate, ...]:
        """What the peer sent, its own certificate first, verified or not; on a resumed connection what the session kept of it.

        :raises PeerMisbehaved: as ``peer_certificate``.
        """
        return self._certificates(Engine.sent_chain)

    def _certificates(self, which: Callable[[Engine], tuple[x509.Certificate, ...]]) -> tuple[x509.Certificate, ...]:
        try:
            return () if self._facts is None else which(self._facts)
        except MALFORMED as error:
            raise PeerMisbehaved(f"the peer's certificate is malformed: {error}") from None

    def export_keying_material(self, label: str, length: int, context: bytes | None = None) -> bytes:
        """Key material that both sides can compute and nobody else (RFC 5705, RFC 8446 section 7.5).

        :param label: ASCII, for instance ``"EXPORTER-my-protocol"``.
        :param length: bytes wanted, 1 to 65535.
        :raises ApiMisuse: before the handshake is complete.
        """
        engine = self._established()
        if not isinstance(label, str):
            raise TypeError(f"label must be str, not {type(label).__name__}")
        if not label or not label.isascii():
            raise ValueError(f"label must be ASCII and not empty, not {label!r}")
        if type(length) is not int or not 1 <= length <= 65535:
            raise ValueError(f"length must be a whole number from 1 to 65535, not {length!r}")
        try:
            return engine.export(label.encode(), length, None if context is None else bytes(context))
        except EngineFailure as failure:
            reasons = ", ".join(error.reason for error in failure.errors)
            raise ApiMisuse(f"OpenSSL exports no keying material here: {reasons or 'no reason given'}") from None

    def channel_binding(self, kind: str = "tls-exporter") -> bytes:
        """A value that ties an authentication above TLS to this connection.

        :param kind: ``"tls-exporter"`` (RFC 9266) or ``"tls-server-end-point"`` (RFC 5929 section 4). Not ``"tls-unique"``, which is
            undefined on TLS 1.3 and broken on 1.2.
        :raises ApiMisuse: before the handshake is complete, or on a TLS 1.2 connection without extended master secret.
        :raises ValueError: for another kind.
        """
        engine = self._established()
        if kind == "tls-exporter":
            if engine.version() == "TLSv1.2" and not engine.extended_master_secret():
                raise ApiMisuse("tls-exporter needs the extended master secret on TLS 1.2 (RFC 9266 section 4); the peer does not know it")
            return engine.export(b"EXPORTER-Channel-Binding", 32, b"")
        if kind == "tls-server-end-point":
            certificate = self.peer_certificate if self._is_client else engine.own_certificate()
            if certificate is None:
                raise ApiMisuse("the server showed no certificate")
            try:
                algorithm = certificate.signature_hash_algorithm
            except UnsupportedAlgorithm as error:
                raise ApiMisuse(f"no binding is defined for this certificate's signature: {error}") from None
            if algorithm is None or algorithm.name in ("md5", "sha1"):
                algorithm = hashes.SHA256()
            return certificate.fingerprint(algorithm)
        raise ValueError(f"channel binding must be 'tls-exporter' or 'tls-server-end-point', not {kind!r}")
