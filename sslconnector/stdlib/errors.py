"""Our errors in the words of the ``ssl`` module: its classes, numbers, ``reason`` and the form of its messages, which programs look for.

Our own error, with all that it knows, is the ``__cause__``.
"""

from __future__ import annotations

import ssl
from typing import TypeVar

from ..errors import (
    Alert,
    CertificateError,
    HandshakeInterrupted,
    HandshakeTimeout,
    NotTLSError,
    PeerAlert,
    TLSError,
    TruncationError,
)

__all__ = ["as_ssl_error", "ssl_error", "want_read", "want_write", "zero_return"]

# How OpenSSL's names of received alerts begin, by the protocol version that brought the alert.
_SSL3_ALERTS = frozenset({10, 20, 30, 40, 41, 42, 43, 44, 45, 46, 47})
_TLS13_ALERTS = frozenset({Alert.MISSING_EXTENSION, Alert.CERTIFICATE_REQUIRED})
_WITHOUT_ALERT = frozenset({110, 111, 112, 113, 114})  # "TLSV1_UNRECOGNIZED_NAME"


_Kind = TypeVar("_Kind", bound=ssl.SSLError)


def ssl_error(reason: str, text: str) -> ssl.SSLError:
    """An error as the ``ssl`` module makes it."""
    return _with_reason(ssl.SSLError, ssl.SSL_ERROR_SSL, reason, f"{reason.lower().replace('_', ' ')}: {text}")


def _with_reason(kind: type[_Kind], number: int, reason: str, text: str) -> _Kind:
    error = kind(number, f"[SSL: {reason}] {text}")
    error.reason, error.library = reason, "SSL"
    return error


def want_read() -> ssl.SSLWantReadError:
    """There is nothing to read yet."""
    return ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)")


def want_write() -> ssl.SSLWantWriteError:
    """The wire does not take everything now."""
    return ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")


def zero_return() -> ssl.SSLZeroReturnError:
    """Both sides have ended."""
    return ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "TLS/SSL connection has been closed (EOF)")


def as_ssl_error(error: TLSError) -> OSError:
    """The ``ssl`` module's error for ours."""
    made: OSError
    if isinstance(error, CertificateError) and error.code:
        text = f"certificate verify failed: {error.verify_message} ({error})"
        made = _with_reason(ssl.SSLCertVerificationError, ssl.SSL_ERROR_SSL, "CERTIFICATE_VERIFY_FAILED", text)
        made.verify_code, made.verify_message = error.code, error.verify_message
    elif isinstance(error, TruncationError | HandshakeInterrupted):
        text = f"EOF occurred in violation of protocol ({error})"
        made = _with_reason(ssl.SSLEOFError, ssl.SSL_ERROR_EOF, "UNEXPECTED_EOF_WHILE_READING", text)
    elif isinstance(error, HandshakeTimeout):
        made = TimeoutError(f"The handshake operation timed out ({error})")
    elif isinstance(error, PeerAlert) and error.alert_received is not None:
        made = ssl_error(_alert_name(error.alert_received), str(error))
    elif isinstance(error, NotTLSError):
        made = ssl_error("HTTP_REQUEST" if error.data[:5] in _HTTP_METHODS else "WRONG_VERSION_NUMBER", str(error))
    elif error.reason:
        made = ssl_error(str(error.reason).upper().replace(" ", "_"), str(error))
    else:
        made = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL] {error}")
    made.__cause__ = error.with_traceback(None)
    return made


_HTTP_METHODS = frozenset({b"GET /", b"POST ", b"HEAD ", b"PUT /", b"PUT h", b"CONNE", b"OPTIO", b"DELET", b"PATCH"})


def _alert_name(alert: int) -> str:
    name = alert.name if isinstance(alert, Alert) else str(alert)
    if alert in _SSL3_ALERTS:
        return f"SSLV3_ALERT_{name}"
    if alert in _TLS13_ALERTS:
        return f"TLSV13_ALERT_{name}"
    if alert in _WITHOUT_ALERT:
        return f"TLSV1_{name}"
    return f"TLSV1_ALERT_{name}"
