"""SSL_CTX objects made from a configuration: everything that connections share.

A server has one *front* for each policy and one context for each identity. The front keeps the ticket keys; ``SSL_set_SSL_CTX`` before
the handshake switches to an identity's context, which brings key and chain with it, but not the verify mode, the groups or the ticket
keys. Everything else is set on both alike, because OpenSSL looks it up now in one, now in the other.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

from OpenSSL import SSL, crypto

from ..config import ClientConfig, ServerConfig
from ..errors import ConfigurationError, IdentityError
from ..identity import Identity, describe_certificate
from ..trust import TrustStore
from .binding import clear_errors, ffi, lib, take_errors
from .callbacks import info_callback, keylog_callback, servername_callback, verify_callback

__all__ = ["EngineContext", "client_context", "server_context"]

_ALPN_CALLBACK = "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"

_VERIFY_POST_HANDSHAKE = 8  # SSL_VERIFY_POST_HANDSHAKE, which the binding has no name for
_OK, _ALERT_FATAL, _NOACK = 0, 2, 3  # SSL_TLSEXT_ERR_...


class EngineContext:
    """A pyOpenSSL Context and what must live as long as it (cffi callbacks, the strings they hand out)."""

    __slots__ = ("_keep", "context")

    def __init__(self, context: SSL.Context) -> None:
        self.context = context
        self._keep: list[Any] = []

    def keep(self, *objects: Any) -> None:
        """Ties the lives of ``objects`` to this context."""
        self._keep.extend(objects)


def client_context(config: ClientConfig, trust: TrustStore | None) -> EngineContext:
    """One context for all connections of a client configuration; ``trust`` is None when nothing is verified."""
    made = EngineContext(SSL.Context(SSL.TLS_CLIENT_METHOD))
    _common(made, config)
    context = made.context
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # sessions are taken and offered one by one (F13, F31)
    if trust is not None:
        _set_trust(context, trust)
        lib.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, verify_callback)
    if config.alpn_protocols:
        context.set_alpn_protos([name.encode() for name in config.alpn_protocols])
    if config.identity is not None:
        _set_identity(context, config.identity)
    return made


def server_context(config: ServerConfig, identity: Identity | None, session_id_context: bytes) -> EngineContext:
    """A front (``identity`` None) or the context of one identity under the same policy."""
    made = EngineContext(SSL.Context(SSL.TLS_SERVER_METHOD))
    _common(made, config)
    context = made.context
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    # Stateless tickets only: a cache on the server can be filled by anybody (F13), and a worker's cache is not its neighbour's.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if not config.session_tickets:
        context.set_options(SSL.OP_NO_TICKET)
    context.set_session_id(session_id_context)
    lib.SSL_CTX_set_tlsext_servername_callback(context._context, servername_callback)
    if config.trust is not None:
        _set_trust(context, config.trust)
        for authority in config.trust.certificates:
            context.add_client_ca(authority)
        mode = SSL.VERIFY_PEER
        if config.client_certificates == "required":
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        if config.post_handshake_auth:
            mode |= _VERIFY_POST_HANDSHAKE
        lib.SSL_CTX_set_verify(context._context, mode, verify_callback)
    if config.alpn_protocols:
        _set_alpn_choice(made, config.alpn_protocols, config.alpn_mismatch == "refuse")
    if identity is not None:
        _set_identity(context, identity)
    return made


def _common(made: EngineContext, config: ClientConfig | ServerConfig) -> None:
    context = made.context
    raw = context._context
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)  # F07
    # One SSL_write takes everything or nothing (F24); idle connections give their record buffers back (F34).
    context.clear_mode(lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_min_proto_version(config.minimum_version)
    context.set_max_proto_version(config.maximum_version)
    context.set_verify_depth(config.verify_depth)
    level = "" if config.security_level is None else f":@SECLEVEL={config.security_level}"
    if config.ciphers is not None or level:
        ciphers = (config.ciphers or "DEFAULT") + level
        _checked("ciphers", ciphers, lambda: lib.SSL_CTX_set_cipher_list(raw, ciphers.encode()))
    for name, value, function in (
        ("ciphersuites", config.ciphersuites, lib.SSL_CTX_set_ciphersuites),
        ("groups", config.groups, lib.SSL_CTX_set1_curves_list),
        ("signature_algorithms", config.signature_algorithms, lib.SSL_CTX_set1_sigalgs_list),
    ):
        if value is not None:
            _checked(name, value, lambda function=function, value=value: function(raw, value.encode()))
    if config.post_handshake_auth:
        lib.SSL_CTX_set_post_handshake_auth(raw, 1)
    lib.SSL_CTX_set_info_callback(raw, info_callback)
    if config.keylog is not None:
        callback = keylog_callback(config.keylog)
        made.keep(callback)
        lib.SSL_CTX_set_keylog_callback(raw, callback)


def _checked(name: str, value: str, call: Any) -> None:
    clear_errors()
    if call() != 1:
        reasons = ", ".join(error.reason for error in take_errors())
        raise ConfigurationError(f"OpenSSL does not know or not allow {name}={value!r}{f' ({reasons})' if reasons else ''}")


def _set_identity(context: SSL.Context, identity: Identity) -> None:
    clear_errors()
    try:
        context.use_certificate(identity.certificate)
        for certificate in identity.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(identity.key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error) as error:
        take_errors()
        reasons = ", ".join(entry[2] for entry in (error.args[0] if error.args else ()))
        raise IdentityError(f"OpenSSL does not take the certificate {describe_certificate(identity.certificate)}: {reasons}") from None


def _set_trust(context: SSL.Context, trust: TrustStore) -> None:
    store = _store(trust)
    lib.X509_STORE_up_ref(store._store)
    lib.SSL_CTX_set_cert_store(context._context, store._store)


# A store of all the system's certificates costs 0.3 MiB and some milliseconds: contexts with the same trust share it.
_stores: weakref.WeakKeyDictionary[TrustStore, crypto.X509Store] = weakref.WeakKeyDictionary()
_stores_lock = threading.Lock()


def _store(trust: TrustStore) -> crypto.X509Store:
    with _stores_lock:
        store = _stores.get(trust)
        if store is None:
            clear_errors()
            store = crypto.X509Store()
            for certificate in trust.certificates:
                store.add_cert(crypto.X509.from_cryptography(certificate))
            flags = 0
            for crl in trust.crls:
                store.add_crl(crl)
            if trust.crl_check == "leaf":
                flags = crypto.X509StoreFlags.CRL_CHECK
            elif trust.crl_check == "chain" or trust.crls:
                flags = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL
            if trust.partial_chain:
                flags |= crypto.X509StoreFlags.PARTIAL_CHAIN
            if trust.strict:
                flags |= crypto.X509StoreFlags.X509_STRICT
            if flags:
                store.set_flags(flags)
            _stores[trust] = store
        return store


def _set_alpn_choice(made: EngineContext, protocols: Sequence[str], refuse: bool) -> None:
    """The server's preference decides (RFC 7301 section 3.2). OpenSSL keeps a pointer to the answer, so the strings stay with us."""
    names = [name.encode() for name in protocols]
    strings = [ffi.new("unsigned char[]", name) for name in names]

    def choose(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _argument: Any) -> int:
        wire = bytes(ffi.buffer(offered, length))
        client = set()
        position = 0
        while position < length:
            end = position + 1 + wire[position]
            client.add(wire[position + 1 : end])
            position = end
        for name, string in zip(names, strings, strict=True):
            if name in client:
                out[0] = string
                out_length[0] = len(name)
                return _OK
        return _ALERT_FATAL if refuse else _NOACK

    callback = ffi.callback(_ALPN_CALLBACK, choose, error=_ALERT_FATAL)
    made.keep(callback, strings)
    lib.SSL_CTX_set_alpn_select_cb(made.context._context, callback, ffi.NULL)
