"""What a connector tells its user apart from data: small frozen values, taken with ``Connector.next_event()``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Event",
    "HandshakeCompleted",
    "IdentityNeeded",
    "KeyLimitReached",
    "PeerClosed",
    "SessionTicketReceived",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class HandshakeCompleted(Event):
    """The handshake is complete: data may flow.

    On TLS 1.3 a client sees this before the server has looked at the client's certificate; a refusal arrives as an error of a later
    read (RFC 8446 section 4.4.2.4 leaves the client no earlier word).
    """

    #: ``"TLSv1.2"`` or ``"TLSv1.3"``
    version: str
    #: the cipher suite by OpenSSL's name
    cipher: str
    #: the key exchange group by OpenSSL's name, or None (RSA key exchange, some resumptions)
    group: str | None
    #: the application protocol that was agreed on, or None
    alpn_protocol: str | None
    #: the name that the client asked for (SNI), or None
    server_name: str | None
    #: whether an earlier session was resumed
    resumed: bool


@dataclass(frozen=True, slots=True)
class SessionTicketReceived(Event):
    """A client can now take ``Connector.session`` and resume with it later."""


@dataclass(frozen=True, slots=True)
class IdentityNeeded(Event):
    """A server's handshake waits for ``Connector.provide_identity()``; the handshake deadline keeps running.

    Seen only with ``ServerConfig(identity_on_demand=True)``.
    """

    #: the name that the client asked for (SNI, lower case), or None
    server_name: str | None
    #: the application protocols that the client offers, in its order
    alpn_protocols: tuple[str, ...]
    #: the TLS signature scheme numbers that the client accepts (RFC 8446 section 4.2.3)
    signature_algorithms: tuple[int, ...]
    #: the cipher suite numbers that the client offers, in its order
    cipher_suites: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerClosed(Event):
    """The peer sent close_notify: it writes no more. Writing to it goes on until ``close_write()`` (half-close)."""


@dataclass(frozen=True, slots=True)
class KeyLimitReached(Event):
    """So many records were protected with one AES-GCM key that its safety margin is used up (RFC 8446 section 5.5): reconnect soon.

    OpenSSL does not re-key by itself and offers no way to ask for it, hence the event (FAULTS F19).
    """

    #: which direction's key
    direction: Literal["read", "write"]
    #: how many records were counted
    records: int
