"""The way into OpenSSL: the cffi binding that pyOpenSSL itself calls, and its error queue.

``lib`` and ``ffi`` are private to pyOpenSSL and cryptography, so everything used of them is named here and checked at import: a version
that moved something fails with one sentence and not in the middle of a handshake.

OpenSSL keeps a queue of errors for each thread. A call that fails adds to it; ``SSL_get_error`` looks at it even when its entries are
somebody else's, so one connection's leftovers fail another's call (FAULTS F16). Hence two rules: the queue is emptied before every call
that may look at it, and taken over completely after every call that failed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import OpenSSL
from OpenSSL import SSL

__all__ = ["OpenSSLError", "clear_errors", "ffi", "lib", "openssl_version", "take_errors"]

_MINIMUM = (26, 0)  # CVE-2026-27448: before, an exception in a callback let the handshake go on (FAULTS F04)

if tuple(int(part) for part in OpenSSL.__version__.split(".")[:2]) < _MINIMUM:
    raise ImportError(
        f"sslconnector needs pyOpenSSL {_MINIMUM[0]}.{_MINIMUM[1]} or newer (CVE-2026-27448), found {OpenSSL.__version__}; "
        "run: pip install -U pyopenssl"
    )

try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib
except ImportError as error:  # pragma: no cover - a future pyOpenSSL
    raise ImportError(
        f"pyOpenSSL {OpenSSL.__version__} keeps its binding elsewhere; install a version that sslconnector was tested with"
    ) from error

lib: Any = _lib
ffi: Any = _ffi

_NEEDED = [
    "BIO_get_mem_data",
    "BIO_new",
    "BIO_read",
    "BIO_s_mem",
    "BIO_write",
    "ERR_clear_error",
    "ERR_get_error",
    "ERR_lib_error_string",
    "ERR_peek_error",
    "ERR_reason_error_string",
    "SSL_CTX_set1_curves_list",
    "SSL_CTX_set1_sigalgs_list",
    "SSL_CTX_set_alpn_select_cb",
    "SSL_CTX_set_cert_store",
    "SSL_CTX_set_info_callback",
    "SSL_CTX_set_keylog_callback",
    "SSL_CTX_set_tlsext_servername_callback",
    "SSL_CTX_set_verify",
    "SSL_SESSION_free",
    "SSL_clear_mode",
    "SSL_do_handshake",
    "SSL_export_keying_material",
    "SSL_get0_group_name",
    "SSL_get0_param",
    "SSL_get1_session",
    "SSL_get_ex_data_X509_STORE_CTX_idx",
    "SSL_get_extms_support",
    "SSL_get_peer_certificate",
    "SSL_get_session",
    "SSL_get_shutdown",
    "SSL_pending",
    "SSL_read",
    "SSL_session_reused",
    "SSL_set_bio",
    "SSL_set_session",
    "SSL_shutdown",
    "SSL_want_read",
    "SSL_write",
    "X509_STORE_CTX_get1_chain",
    "X509_STORE_CTX_get_current_cert",
    "X509_STORE_CTX_get_error",
    "X509_STORE_CTX_get_error_depth",
    "X509_STORE_CTX_get_ex_data",
    "X509_STORE_CTX_set_error",
    "X509_STORE_up_ref",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_verify_cert_error_string",
    "d2i_SSL_SESSION",
    "i2d_SSL_SESSION",
]

_missing = [name for name in _NEEDED if not hasattr(lib, name)]
if _missing:  # pragma: no cover - a future cryptography
    raise ImportError(
        f"the OpenSSL binding of the installed cryptography lacks {', '.join(_missing)}; install a version that sslconnector was "
        "tested with"
    )


class OpenSSLError(NamedTuple):
    """One entry of the error queue."""

    library: str
    reason: str


def clear_errors() -> None:
    """Empties this thread's error queue. Looking first is twice as fast as clearing an empty queue."""
    if lib.ERR_peek_error():
        lib.ERR_clear_error()


def take_errors() -> list[OpenSSLError]:
    """Takes all entries of this thread's error queue, the oldest first."""
    errors = []
    while code := lib.ERR_get_error():
        reason = lib.ERR_reason_error_string(code)
        library = lib.ERR_lib_error_string(code)
        errors.append(
            OpenSSLError(
                ffi.string(library).decode() if library else "",
                ffi.string(reason).decode() if reason else f"error {code:#x}",
            )
        )
    return errors


def openssl_version() -> str:
    """The version of the OpenSSL that is used, in its own words."""
    return SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()
