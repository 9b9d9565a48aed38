"""What OpenSSL calls back into.

Few things, on purpose: identities and policies are chosen from the ClientHello before there is a TLS object. What is left tells the
engine which alerts passed, judges a certificate, and logs secrets. No exception leaves a callback: it is kept in the engine, the
handshake fails, and the application gets its original exception (FAULTS F04).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

from cryptography import x509
from OpenSSL.crypto import X509

from ..errors import Alert, ConfigurationError
from .binding import ffi, lib

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["engine_of", "info_callback", "keylog_callback", "register", "servername_callback", "verify_callback"]

_ALERT, _ALERT_READ, _ALERT_FATAL = lib.SSL_CB_ALERT, lib.SSL_CB_READ, 2
_VERIFY_REFUSED = lib.X509_V_ERR_APPLICATION_VERIFICATION
_STORE_INDEX = lib.SSL_get_ex_data_X509_STORE_CTX_idx()

# SSL * -> engine; weak, so that a connection's end is the end of its entry.
_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()


def _address(ssl: Any) -> int:
    return int(ffi.cast("uintptr_t", ssl))


def register(ssl: Any, engine: Engine) -> None:
    """From now on the callbacks find ``engine`` by its SSL object."""
    _engines[_address(ssl)] = engine


def engine_of(ssl: Any) -> Engine:
    """The engine of an SSL object."""
    return _engines[_address(ssl)]


@ffi.callback("void (*)(const SSL *, int, int)")  # type: ignore[untyped-decorator,unused-ignore]
def info_callback(ssl: Any, where: int, value: int) -> None:
    # Called some twenty times a handshake; all but alerts are passed over.
    if where & _ALERT and value >> 8 == _ALERT_FATAL:
        engine = _engines.get(_address(ssl))
        if engine is not None:
            alert = Alert.from_number(value & 0xFF)
            if where & _ALERT_READ:
                engine.alert_received = alert
            else:
                engine.alert_sent = alert


@ffi.callback("int (*)(SSL *, int *, void *)")  # type: ignore[untyped-decorator,unused-ignore]
def servername_callback(_ssl: Any, _alert: Any, _argument: Any) -> int:
    # Says yes: the name was looked up already. With the yes OpenSSL binds sessions to the name (RFC 6066 section 3).
    return 0


def _verify(ok: int, store: Any) -> int:
    engine = engine_of(lib.X509_STORE_CTX_get_ex_data(store, _STORE_INDEX))
    depth = lib.X509_STORE_CTX_get_error_depth(store)
    hook = engine.verify_hook
    if ok and (depth or hook is None):
        return 1
    certificates = _chain(store)
    chain = tuple(certificate for certificate in certificates if certificate is not None)
    if hook is not None and ok:
        # Depth 0 comes last: the chain and the host name are fine. Now the application may refuse (F18). It is not asked about a
        # chain that it could see only a part of.
        try:
            if len(chain) == len(certificates) and hook(chain) is not False:
                return 1
        except BaseException as error:
            engine.callback_error = error
        lib.X509_STORE_CTX_set_error(store, _VERIFY_REFUSED)
        engine.verify_failure = (0, 0, chain[0] if chain else None, chain)
        return 0
    current = lib.X509_STORE_CTX_get_current_cert(store)
    certificate = None if current == ffi.NULL else _to_cryptography(current)
    engine.verify_failure = (lib.X509_STORE_CTX_get_error(store), depth, certificate, chain)
    return 0


verify_callback = ffi.callback("int (*)(int, X509_STORE_CTX *)", _verify, error=0)


def _chain(store: Any) -> list[x509.Certificate | None]:
    stack = lib.X509_STORE_CTX_get1_chain(store)
    if stack == ffi.NULL:
        return []
    certificates = []
    for position in range(lib.sk_X509_num(stack)):
        certificate = lib.sk_X509_value(stack, position)
        certificates.append(_to_cryptography(certificate))
        lib.X509_free(certificate)
    lib.sk_X509_free(stack)
    return certificates


def _to_cryptography(certificate: Any) -> x509.Certificate | None:
    """The certificate as cryptography's object; None where its stricter parser does not take what OpenSSL took."""
    lib.X509_up_ref(certificate)
    try:
        return X509._from_raw_x509_ptr(certificate).to_cryptography()
    except Exception:  # of several kinds, and a warning that is made an error; none may leave a callback
        return None


def keylog_callback(sink: str | PathLike[str] | Callable[[bytes], None]) -> Any:
    """The cffi callback that hands key log lines to a callable or appends them to a file."""
    write = sink if callable(sink) else _file_sink(sink)

    def log(ssl: Any, line: Any) -> None:
        try:
            write(ffi.string(line))
        except BaseException as error:
            engine = _engines.get(_address(ssl))
            if engine is not None:
                engine.callback_error = error

    return ffi.callback("void (*)(const SSL *, const char *)", log)


def _file_sink(path: str | PathLike[str]) -> Callable[[bytes], None]:
    def write(line: bytes) -> None:
        # Opened for each line: nothing to close, right after a fork, whole lines also when several processes share the file.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    try:
        write(b"")
    except OSError as error:
        raise ConfigurationError(f"the key log {str(path)!r} cannot be written: {error.strerror}") from None
    return lambda line: write(line + b"\n")
