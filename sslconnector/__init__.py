"""An asynchronous TLS connector between OpenSSL and any transport: ciphertext in, plaintext out, no socket inside."""

from ._engine import openssl_version
from ._version import version
from .config import ClientConfig, ServerConfig, TLSVersion, keylog_from_environment
from .connector import Connector
from .context import ClientContext, ServerContext
from .errors import (
    Alert,
    ApiMisuse,
    CallbackError,
    CertificateError,
    CloseTimeout,
    ConfigurationError,
    ConnectionAborted,
    FloodError,
    HandshakeInterrupted,
    HandshakeTimeout,
    IdentityError,
    NegotiationError,
    NotTLSError,
    PeerAlert,
    PeerError,
    PeerMisbehaved,
    SessionError,
    TLSError,
    TruncationError,
    TrustError,
)
from .events import Event, HandshakeCompleted, IdentityNeeded, KeyLimitReached, PeerClosed, SessionTicketReceived
from .identity import Identity
from .limits import Limits
from .session import Session
from .states import HandshakeState, ReadSide, ReadStatus, Statistics, WriteSide
from .trust import TrustStore

__version__ = version

__all__ = [
    "Alert",
    "ApiMisuse",
    "CallbackError",
    "CertificateError",
    "ClientConfig",
    "ClientContext",
    "CloseTimeout",
    "ConfigurationError",
    "ConnectionAborted",
    "Connector",
    "Event",
    "FloodError",
    "HandshakeCompleted",
    "HandshakeInterrupted",
    "HandshakeState",
    "HandshakeTimeout",
    "Identity",
    "IdentityError",
    "IdentityNeeded",
    "KeyLimitReached",
    "Limits",
    "NegotiationError",
    "NotTLSError",
    "PeerAlert",
    "PeerClosed",
    "PeerError",
    "PeerMisbehaved",
    "ReadSide",
    "ReadStatus",
    "ServerConfig",
    "ServerContext",
    "Session",
    "SessionError",
    "SessionTicketReceived",
    "Statistics",
    "TLSError",
    "TLSVersion",
    "TruncationError",
    "TrustError",
    "TrustStore",
    "WriteSide",
    "keylog_from_environment",
    "openssl_version",
]
