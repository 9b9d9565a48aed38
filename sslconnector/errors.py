"""Everything that can go wrong, sorted by who is to blame.

* :class:`PeerError`: what came (or did not come) from the other side. These are ``ConnectionError`` and ``ssl.SSLError`` too, so that code
  which catches ``OSError`` around network calls, or was written for the ``ssl`` module, keeps working.
* :class:`ConfigurationError`: what this side's configuration lacks. Also a ``ValueError``.
* :class:`ApiMisuse`: a call that was wrong at this point. Also a ``RuntimeError``. (An argument of the wrong type is a plain
  ``TypeError``, a value that no configuration could mean a plain ``ValueError``.)

Each message is one sentence that says what happened and, where the reader can do something about it, what to do.
"""

from __future__ import annotations

import enum
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "Alert",
    "ApiMisuse",
    "CallbackError",
    "CertificateError",
    "CloseTimeout",
    "ConfigurationError",
    "ConnectionAborted",
    "FloodError",
    "HandshakeInterrupted",
    "HandshakeTimeout",
    "IdentityError",
    "NegotiationError",
    "NotTLSError",
    "PeerAlert",
    "PeerError",
    "PeerMisbehaved",
    "SessionError",
    "TLSError",
    "TruncationError",
    "TrustError",
]


class Alert(enum.IntEnum):
    """Alert descriptions (RFC 8446 section 6, RFC 5246 section 7.2 and the IANA registry). Names are the registry's, in capitals."""

    CLOSE_NOTIFY = 0
    UNEXPECTED_MESSAGE = 10
    BAD_RECORD_MAC = 20
    DECRYPTION_FAILED = 21
    RECORD_OVERFLOW = 22
    DECOMPRESSION_FAILURE = 30
    HANDSHAKE_FAILURE = 40
    NO_CERTIFICATE = 41
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    CERTIFICATE_UNKNOWN = 46
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    ACCESS_DENIED = 49
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    EXPORT_RESTRICTION = 60
    PROTOCOL_VERSION = 70
    INSUFFICIENT_SECURITY = 71
    INTERNAL_ERROR = 80
    INAPPROPRIATE_FALLBACK = 86
    USER_CANCELED = 90
    NO_RENEGOTIATION = 100
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    CERTIFICATE_UNOBTAINABLE = 111
    UNRECOGNIZED_NAME = 112
    BAD_CERTIFICATE_STATUS_RESPONSE = 113
    BAD_CERTIFICATE_HASH_VALUE = 114
    UNKNOWN_PSK_IDENTITY = 115
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120

    @property
    def label(self) -> str:
        """The name as the RFCs spell it: ``unknown_ca``."""
        return self.name.lower()

    @classmethod
    def from_number(cls, number: int) -> Alert | int:
        """The alert with this number, or the bare number when the registry did not know it when this was written."""
        try:
            return cls(number)
        except ValueError:
            return number


def alert_label(alert: Alert | int) -> str:
    """How messages name an alert, known or not."""
    return alert.label if isinstance(alert, Alert) else f"alert {alert}"


class TLSError(Exception):
    """Base of every error of this library.

    :ivar reason: OpenSSL's own words for it (``"certificate verify failed"``), or None where OpenSSL was not asked.
    :ivar alert_sent: the fatal alert that lies in the outgoing bytes because of this, or None.
    :ivar alert_received: the fatal alert that the peer sent, or None.
    """

    # A str or None; ssl.SSLError, which some of the classes derive from, declares it otherwise.
    reason: Any = None
    alert_sent: Alert | int | None = None
    alert_received: Alert | int | None = None

    def __init__(
        self,
        message: str = "",
        *,
        reason: str | None = None,
        alert_sent: Alert | int | None = None,
        alert_received: Alert | int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.alert_sent = alert_sent
        self.alert_received = alert_received

    def __str__(self) -> str:
        # ssl.SSLError has a form of its own.
        return str(self.args[0]) if self.args else ""

    def again(self) -> TLSError:
        """A copy that can be raised anew.

        A connector keeps the first error and reports it at every later call. Raising one instance again and again would tie all the
        callers' frames to its traceback (FAULTS F28), so each raise takes a copy; ``__cause__`` and the fields are kept.
        """
        copy = type(self).__new__(type(self), *self.args)
        copy.args = self.args
        copy.__dict__.update(self.__dict__)
        copy.__cause__ = self.__cause__
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle and copy would call __init__ with the positional arguments alone; the fields travel as state.
        return (type(self), self.args, self.__dict__)


# -- the peer ----------------------------------------------------------------------------------------------------------------------


class PeerError(TLSError, ssl.SSLError, ConnectionError):
    """The other side, or the wire to it, is the reason."""

    # ssl.SSLError has it, for OpenSSL's name of the place that failed.
    library: str = "SSL"


class PeerMisbehaved(PeerError):
    """The peer broke the protocol: a record that does not decrypt, a message out of place, a value out of range."""


class FloodError(PeerMisbehaved):
    """The peer went over one of the limits of :class:`sslconnector.Limits`.

    :ivar limit: the name of the field of ``Limits``.
    """

    def __init__(self, message: str = "", *, limit: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.limit = limit


class PeerAlert(PeerError):
    """The peer ended the connection with a fatal alert: see ``alert_received``."""


class NegotiationError(PeerError):
    """The two sides have nothing in common: protocol version, cipher suite, group, signature algorithm or application protocol."""


class CertificateError(PeerError, ssl.SSLCertVerificationError):
    """The peer's certificate was refused.

    :ivar code: OpenSSL's verification code (``X509_V_ERR_...``), 0 when a verify hook refused it.
    :ivar depth: the place of the refused certificate in the chain; 0 is the peer's own.
    :ivar certificate: the refused certificate, or None when the peer sent none.
    :ivar chain: the chain as it was built, the peer's own certificate first.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: int = 0,
        depth: int = 0,
        certificate: x509.Certificate | None = None,
        chain: tuple[x509.Certificate, ...] = (),
        verify_message: str = "",
        **fields: Any,
    ) -> None:
        super().__init__(message, **fields)
        self.code = code
        self.depth = depth
        self.certificate = certificate
        self.chain = chain
        # The ssl module's names.
        self.verify_code = code
        self.verify_message = verify_message or message


class TruncationError(PeerError, ssl.SSLEOFError, ConnectionResetError):
    """The wire ended without close_notify: what was read may be only a part of what the peer wrote (RFC 8446 section 6.1).

    A ``ConnectionResetError`` too: whether somebody cuts a connection with a FIN or with a RST, what is missing is the same.
    """


class HandshakeInterrupted(PeerError, ConnectionResetError):
    """The wire ended before the handshake was complete. (A ``ConnectionResetError`` too, because asyncio raises that.)"""


class NotTLSError(PeerError):
    """What came is not TLS.

    :ivar data: the first bytes, as they came.
    """

    def __init__(self, message: str = "", *, data: bytes = b"", **fields: Any) -> None:
        super().__init__(message, **fields)
        self.data = data


class HandshakeTimeout(PeerError, TimeoutError, ConnectionAbortedError):
    """The handshake was not complete within ``Limits.handshake_timeout``. (A ``ConnectionAbortedError`` too: asyncio raises that.)"""


class CloseTimeout(PeerError, TimeoutError):
    """The outgoing bytes could not be handed over within ``Limits.close_flush_timeout``: data written before the close may be lost."""


# -- this side ---------------------------------------------------------------------------------------------------------------------


class ConnectionAborted(TLSError, ConnectionAbortedError):
    """This side gave the connection up with ``abort()``."""


class CallbackError(TLSError):
    """A callback of the application (verify hook, key log) raised; the original exception is ``__cause__``."""


class ConfigurationError(TLSError, ValueError):
    """The configuration lacks something or contradicts itself."""


class IdentityError(ConfigurationError):
    """A private key or certificate chain cannot be used."""


class TrustError(ConfigurationError):
    """A trust store cannot be used."""


class SessionError(ConfigurationError):
    """A session cannot be offered: damaged, or made under another host name, trust store or client certificate."""


class ApiMisuse(TLSError, RuntimeError):
    """The call is not allowed now; the message says which call would be."""
