"""An ``ssl.SSLContext`` whose connections are ours.

The ``ssl`` module's own context below it keeps what is set and checks it, with its own errors; from that a configuration of ours is made
when a connection is wrapped, and kept until something is set anew.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from ..config import TLSVersion
from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import ConfigurationError, IdentityError, TrustError
from ..identity import Identity
from ..limits import Limits
from ..session import Session
from ..ssl_object import certificate_as_dict
from ..trust import TrustStore, read_bundle
from .connection import BioConnection, SocketConnection
from .socket import SSLSocket

__all__ = ["SSLContext", "create_default_context"]

_OLD_VERSIONS = (ssl.TLSVersion.SSLv3, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
_OLD_PROTOCOLS = tuple(getattr(ssl, name, None) for name in ("PROTOCOL_SSLv2", "PROTOCOL_SSLv3", "PROTOCOL_TLSv1", "PROTOCOL_TLSv1_1"))


def _names(*names: str) -> int:
    return sum({int(getattr(ssl, name, 0)) for name in names})


# What is done, what is always so here, and what changes nothing here.
_OPTIONS = int(ssl.OP_ALL) | _names(
    *("OP_NO_SSLv2", "OP_NO_SSLv3", "OP_NO_TLSv1", "OP_NO_TLSv1_1", "OP_NO_TLSv1_2", "OP_NO_TLSv1_3", "OP_NO_TICKET"),
    *("OP_CIPHER_SERVER_PREFERENCE", "OP_SINGLE_DH_USE", "OP_SINGLE_ECDH_USE", "OP_NO_COMPRESSION", "OP_NO_RENEGOTIATION"),
    *("OP_ENABLE_MIDDLEBOX_COMPAT", "OP_IGNORE_UNEXPECTED_EOF"),
)
_VERIFY_FLAGS = _names("VERIFY_CRL_CHECK_LEAF", "VERIFY_X509_STRICT", "VERIFY_X509_TRUSTED_FIRST", "VERIFY_X509_PARTIAL_CHAIN") | int(
    ssl.VERIFY_CRL_CHECK_CHAIN
)
# Handshakes have the time that asyncio gives them; tickets leave at once, as OpenSSL sends them: over BIOs nobody would call later.
_LIMITS = Limits(handshake_timeout=60.0, ticket_delay=0.0)


@cache
def _asking() -> ServerContext:
    """Waits for the ClientHello, and then for who knows which context holds."""
    return ServerContext(identity_on_demand=True)


# The part in C of the ssl module's context. Its part in Python looks itself up by name and calls itself without end where a program has
# put another class (ours, say) in its place.
_Native: Any = ssl.SSLContext.__mro__[1]


class SSLContext(ssl.SSLContext):
    """Takes what ``ssl.SSLContext`` takes; TLS 1.2 and newer.

    ``load_cert_chain`` takes PEM text or bytes and an :class:`sslconnector.Identity` as well as paths. Settings may change at any time and
    hold from the next connection on; another ``load_cert_chain`` leaves session tickets valid.
    """

    sslsocket_class = SSLSocket
    protocol: Any

    # Limits of the connections; set another :class:`sslconnector.Limits` to change them.
    limits: Limits

    _lock: threading.Lock
    # By kind of key, as in OpenSSL: one of each may be loaded.
    _identities: dict[str, Identity]
    _certificates: dict[bytes, x509.Certificate]
    _crls: list[x509.CertificateRevocationList]
    _system_trust: tuple[x509.Certificate, ...]
    _alpn: tuple[str, ...]
    _ciphers: str | None
    _groups: str | None
    _made: dict[bool, tuple[Any, Any]]

    def __new__(cls, protocol: int | None = None, *args: Any, **kwargs: Any) -> SSLContext:
        if protocol in _OLD_PROTOCOLS and protocol is not None:
            raise ValueError(
                f"{protocol!r} is not offered: TLS 1.2 and newer are (RFC 8996); use PROTOCOL_TLS_CLIENT or PROTOCOL_TLS_SERVER"
            )
        self: SSLContext = super().__new__(cls, protocol, *args, **kwargs)  # type: ignore[arg-type]
        self.limits = _LIMITS
        self._lock = threading.Lock()
        self._identities, self._certificates, self._crls = {}, {}, []
        self._system_trust, self._alpn = (), ()
        self._ciphers = self._groups = None
        self._made = {}
        return self

    # -- what is loaded ------------------------------------------------------------------------------------------------------------

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        """The certificate chain and private key to show.

        :param certfile: a path, as in ``ssl``; or PEM as text or bytes; or an :class:`sslconnector.Identity`.
        :param keyfile: a path or PEM, when the key is not in ``certfile``.
        :param password: for an encrypted key: str, bytes, bytearray, or a callable that returns it.
        :raises ssl.SSLError: when they cannot be used.
        """
        if not isinstance(certfile, Identity):
            password = _ask_once(password)
            if not _is_pem(certfile) and not _is_pem(keyfile):
                super().load_cert_chain(certfile, keyfile, password)
        try:
            if isinstance(certfile, Identity):
                identity = certfile
            else:
                chain = _content(certfile)
                identity = Identity.from_pem(chain, chain if keyfile is None else _content(keyfile), password=password)
        except IdentityError as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL] {error}") from error
        with self._lock:
            self._identities[type(identity.key).__name__] = identity

    def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        """CA certificates and revocation lists to believe, as in ``ssl``; of ``capath``, every file is read at once."""
        super().load_verify_locations(cafile, capath, cadata)
        if cafile is not None:
            self._believe(Path(os.fsdecode(cafile)).read_bytes())
        if capath is not None:
            for entry in sorted(Path(os.fsdecode(capath)).iterdir()):
                if entry.is_file():
                    self._believe(entry.read_bytes())
        if isinstance(cadata, str):
            self._believe(cadata.encode("ascii"))
        elif cadata is not None:
            for der in _der_values(bytes(cadata)):
                self._believe(der)

    def _believe(self, data: bytes) -> None:
        try:
            certificates, crls = read_bundle(data)
        except TrustError as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"[X509] {error}") from error
        with self._lock:
            for certificate in certificates:
                self._certificates[certificate.public_bytes(Encoding.DER)] = certificate
            self._crls.extend(crl for crl in crls if crl not in self._crls)

    def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        """The system's CA certificates, as :meth:`sslconnector.TrustStore.system` finds them."""
        if not isinstance(purpose, ssl._ASN1Object):
            raise TypeError(purpose)
        self.set_default_verify_paths()

    def set_default_verify_paths(self) -> None:
        # Now: when a connection is made, an event loop may be running that must not wait for files.
        with suppress(TrustError):  # as in ssl: nobody is believed then
            self._system_trust = TrustStore.system().certificates

    def _trust(self) -> TrustStore:
        flags = int(self.verify_flags)
        certificates = (*self._certificates.values(), *self._system_trust)
        crl_check = "chain" if flags & ssl.VERIFY_CRL_CHECK_CHAIN == ssl.VERIFY_CRL_CHECK_CHAIN else None
        if crl_check is None and flags & ssl.VERIFY_CRL_CHECK_LEAF:
            crl_check = "leaf"
        if not certificates:
            return TrustStore.nobody()
        return TrustStore(
            certificates,
            tuple(self._crls) if crl_check else (),
            partial_chain=bool(flags & _names("VERIFY_X509_PARTIAL_CHAIN")),
            strict=bool(flags & ssl.VERIFY_X509_STRICT),
            crl_check=crl_check,  # type: ignore[arg-type]
        )

    def get_ca_certs(self, binary_form: bool = False) -> Any:
        """The CA certificates that are believed."""
        authorities = [certificate for certificate in self._trust().certificates if _is_ca(certificate)]
        if binary_form:
            return [certificate.public_bytes(Encoding.DER) for certificate in authorities]
        return [certificate_as_dict(certificate) for certificate in authorities]

    def cert_store_stats(self) -> dict[str, int]:
        certificates = self._trust().certificates
        return {"x509": len(certificates), "crl": len(self._crls), "x509_ca": sum(map(_is_ca, certificates))}

    # -- what is set ---------------------------------------------------------------------------------------------------------------

    @property  # type: ignore[override]
    def minimum_version(self) -> ssl.TLSVersion:
        return ssl.TLSVersion(_Native.minimum_version.__get__(self))

    @minimum_version.setter
    def minimum_version(self, value: ssl.TLSVersion) -> None:
        if value in _OLD_VERSIONS:
            warnings.warn(f"minimum_version stays TLSv1_2: {ssl.TLSVersion(value).name} is not offered (RFC 8996)", stacklevel=2)
            value = ssl.TLSVersion.TLSv1_2
        _Native.minimum_version.__set__(self, value)

    @property  # type: ignore[override]
    def maximum_version(self) -> ssl.TLSVersion:
        return ssl.TLSVersion(_Native.maximum_version.__get__(self))

    @maximum_version.setter
    def maximum_version(self, value: ssl.TLSVersion) -> None:
        if value in _OLD_VERSIONS:
            raise ValueError(
                f"maximum_version must be TLSv1_2 or newer, not {ssl.TLSVersion(value).name}: nothing older is offered (RFC 8996)"
            )
        _Native.maximum_version.__set__(self, value)

    @property
    def options(self) -> ssl.Options:
        return ssl.Options(_Native.options.__get__(self))

    @options.setter
    def options(self, value: int) -> None:
        # What is no set of options at all is for the ssl module to refuse.
        if isinstance(value, int) and 0 < value < 1 << 64 and (unknown := value & ~(int(self.options) | _OPTIONS)):
            raise ValueError(f"options {ssl.Options(unknown)!r} cannot be set here: see docs/stdlib")
        _Native.options.__set__(self, value)

    @property
    def verify_flags(self) -> ssl.VerifyFlags:
        return ssl.VerifyFlags(_Native.verify_flags.__get__(self))

    @verify_flags.setter
    def verify_flags(self, value: int) -> None:
        if isinstance(value, int) and (unknown := value & ~_VERIFY_FLAGS):
            raise ValueError(f"verify_flags {ssl.VerifyFlags(unknown)!r} cannot be set here: see docs/stdlib")
        _Native.verify_flags.__set__(self, value)

    @property
    def verify_mode(self) -> ssl.VerifyMode:
        return ssl.VerifyMode(_Native.verify_mode.__get__(self))

    @verify_mode.setter
    def verify_mode(self, value: int) -> None:
        _Native.verify_mode.__set__(self, value)

    @property
    def hostname_checks_common_name(self) -> bool:
        """False: a name in a certificate's subject was never meant for this (RFC 6125 section 6.4.4, RFC 9525)."""
        return False

    @hostname_checks_common_name.setter
    def hostname_checks_common_name(self, value: bool) -> None:
        if value:
            raise ValueError("hostname_checks_common_name cannot be True: certificates are checked by subjectAltName alone (RFC 9525)")

    @property
    def num_tickets(self) -> int:
        """2, or 0 with ``OP_NO_TICKET``: pyOpenSSL's binding cannot choose another number."""
        return 0 if self.options & ssl.OP_NO_TICKET else 2

    @num_tickets.setter
    def num_tickets(self, value: int) -> None:
        if value != self.num_tickets:
            raise ValueError(
                f"num_tickets stays {self.num_tickets}: pyOpenSSL's binding has no function to choose; OP_NO_TICKET makes them none"
            )

    @property
    def security_level(self) -> int:  # type: ignore[override]
        found = re.search(r"@SECLEVEL=(\d)", self._ciphers or "")
        return int(found.group(1)) if found else 2

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        protocols = tuple(dict.fromkeys(alpn_protocols))
        super().set_alpn_protocols(protocols)
        self._alpn = protocols

    def set_ciphers(self, cipherlist: str) -> None:
        """For TLS 1.2, as in ``ssl``. (What the ``ssl`` module forbids by default is not a part of it.)"""
        super().set_ciphers(cipherlist)
        _attempt("ciphers", lambda context: context.set_cipher_list(cipherlist.encode()))
        self._ciphers = cipherlist

    def get_ciphers(self) -> Any:
        """The cipher suites that are offered, the preferred one first, as far as Python's own OpenSSL can describe them."""
        described = {entry["name"]: entry for entry in super().get_ciphers()}
        context = SSL.Context(SSL.TLS_METHOD)
        if self._ciphers is not None:
            context.set_cipher_list(self._ciphers.encode())
        return [described[name] for name in SSL.Connection(context).get_cipher_list() if name in described]

    def set_ecdh_curve(self, name: str) -> None:
        """The only group for the key exchange."""
        super().set_ecdh_curve(name)
        groups = os.fsdecode(name)
        ClientContext(groups=groups, verify_peer=False)
        self._groups = groups

    def load_dh_params(self, path: Any) -> None:
        raise NotImplementedError("load_dh_params() is not offered: ECDHE needs no parameters")

    def set_npn_protocols(self, npn_protocols: Iterable[str]) -> None:
        raise NotImplementedError("NPN is long gone; use set_alpn_protocols()")

    def set_psk_client_callback(self, callback: Any) -> None:
        raise NotImplementedError("pre-shared keys are not offered yet")

    def set_psk_server_callback(self, callback: Any, identity_hint: str | None = None) -> None:
        raise NotImplementedError("pre-shared keys are not offered yet")

    def session_stats(self) -> dict[str, int]:
        raise NotImplementedError("session_stats() is not offered: servers keep no sessions, tickets are stateless")

    # -- our contexts --------------------------------------------------------------------------------------------------------------

    def client_context(self) -> ClientContext:
        """What the settings say now, for a client."""
        verify = self.verify_mode != ssl.CERT_NONE
        settings = self._settings()
        identity = next(iter(self._identities.values()), None)
        made: ClientContext = self._make(
            False,
            (settings, verify, self.check_hostname, identity),
            lambda: ClientContext(
                **settings,
                trust=self._trust() if verify else None,
                identity=identity,
                verify_peer=verify,
                verify_hostname=verify and self.check_hostname,
            ),
        )
        return made

    def server_context(self) -> ServerContext | None:
        """What the settings say now, for a server; None without a certificate."""
        identities = tuple(self._identities.values())
        if not identities:
            return None
        demand = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}[self.verify_mode]
        settings = self._settings()
        tickets = not self.options & ssl.OP_NO_TICKET
        made: ServerContext = self._make(
            True,
            (settings, demand, tickets),
            lambda: ServerContext(
                **settings,
                identities=identities,
                client_certificates=demand,
                trust=None if demand == "none" else self._trust(),
                alpn_mismatch="ignore",
                session_tickets=tickets,
            ),
        )
        with self._lock:
            if made.shown != identities:
                made.reload_identities(identities)
        return made

    def _settings(self) -> dict[str, Any]:
        options = int(self.options)
        lowest, highest = TLSVersion.TLSv1_2, TLSVersion.TLSv1_3
        if self.minimum_version == ssl.TLSVersion.TLSv1_3 or options & ssl.OP_NO_TLSv1_2:
            lowest = TLSVersion.TLSv1_3
        if self.maximum_version == ssl.TLSVersion.TLSv1_2 or options & ssl.OP_NO_TLSv1_3 or self.protocol == ssl.PROTOCOL_TLSv1_2:
            highest = TLSVersion.TLSv1_2
        return {
            "minimum_version": lowest,
            "maximum_version": highest,
            "ciphers": self._ciphers,
            "groups": self._groups,
            "alpn_protocols": self._alpn,
            "keylog": self.keylog_filename,
            "post_handshake_auth": bool(self.post_handshake_auth),
            "limits": self.limits,
        }

    def _make(self, server: bool, settings: Any, make: Callable[[], Any]) -> Any:
        key = (settings, len(self._certificates), len(self._crls), bool(self._system_trust), self.verify_flags)
        with self._lock:
            known = self._made.get(server)
            if known is None or known[0] != key:
                try:
                    known = self._made[server] = (key, make())
                except ConfigurationError as error:
                    raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL] {error}") from error
            return known[1]

    # -- connections ---------------------------------------------------------------------------------------------------------------

    def connector_for(self, server_side: bool, server_hostname: str | None, session: Session | None = None) -> Connector:
        """A fresh connector as the settings say it now."""
        if server_side:
            if self.protocol == ssl.PROTOCOL_TLS_CLIENT:
                raise ssl.SSLError("Cannot create a server socket with a PROTOCOL_TLS_CLIENT context")
            # What is wrong with the settings shows now.
            self.server_context()
            return Connector(_asking(), limits=self.limits)
        if self.protocol == ssl.PROTOCOL_TLS_SERVER:
            raise ssl.SSLError("Cannot create a client socket with a PROTOCOL_TLS_SERVER context")
        if session is not None and not isinstance(session, Session):
            raise TypeError(f"session must be a sslconnector.Session, as .session gives them here, not {type(session).__name__}")
        if self.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        if server_hostname and "\0" in server_hostname:
            raise TypeError("server_hostname must not contain a null character")
        return Connector(self.client_context(), server_hostname=server_hostname or None, session=session, limits=self.limits)

    # What the ssl module's two classes call to get the object inside them.

    def _wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str | None = None,
        *,
        owner: Any = None,
        session: Session | None = None,
    ) -> BioConnection:
        for bio in (incoming, outgoing):
            if not isinstance(bio, ssl.MemoryBIO):
                raise TypeError(f"incoming and outgoing must be ssl.MemoryBIO, not {type(bio).__name__}")
        connector = self.connector_for(server_side, server_hostname, session)
        return BioConnection(self, connector, owner, server_hostname, incoming, outgoing)

    def _wrap_socket(
        self, sock: Any, server_side: bool, server_hostname: str | None = None, *, owner: Any = None, session: Session | None = None
    ) -> SocketConnection:
        return SocketConnection(self, self.connector_for(server_side, server_hostname, session), sock, server_hostname)


def create_default_context(
    purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH, *, cafile: Any = None, capath: Any = None, cadata: Any = None
) -> SSLContext:
    """As ``ssl.create_default_context``: a context with that function's choices (``SSLKEYLOGFILE`` included), served by us.

    :param purpose: whom this context looks at: ``SERVER_AUTH`` for clients, ``CLIENT_AUTH`` for servers.
    """
    if not isinstance(purpose, ssl._ASN1Object):
        raise TypeError(purpose)
    if purpose == ssl.Purpose.SERVER_AUTH:
        context = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    elif purpose == ssl.Purpose.CLIENT_AUTH:
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    else:
        raise ValueError(purpose)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if cafile or capath or cadata:
        context.load_verify_locations(cafile, capath, cadata)
    elif context.verify_mode != ssl.CERT_NONE:
        context.load_default_certs(purpose)
    if (keylog := os.environ.get("SSLKEYLOGFILE")) and hasattr(context, "keylog_filename"):
        context.keylog_filename = keylog
    return context


def _is_pem(value: object) -> bool:
    marker = "-----BEGIN "
    return marker in value if isinstance(value, str) else isinstance(value, bytes | bytearray) and marker.encode() in value


def _content(value: Any) -> bytes:
    if _is_pem(value):
        return value.encode() if isinstance(value, str) else bytes(value)
    return Path(os.fsdecode(value)).read_bytes()


def _ask_once(password: Any) -> Any:
    """A callable is called by the ``ssl`` module and by us; whoever types the password does it once."""
    if isinstance(password, bytearray):
        return bytes(password)
    if not callable(password):
        return password
    answers: list[Any] = []

    def ask() -> Any:
        if not answers:
            answer = password()
            answers.append(bytes(answer) if isinstance(answer, bytearray) else answer)
        return answers[0]

    return ask


def _der_values(data: bytes) -> Iterable[bytes]:
    """The values of a row of DER encodings."""
    while len(data) > 1:
        size, header = data[1], 2
        if size & 0x80:
            header += size & 0x7F
            size = int.from_bytes(data[2:header], "big")
        yield data[: header + size]
        data = data[header + size :]


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        # X509_check_ca(): of version 1, and issued by itself.
        return certificate.version is x509.Version.v1 and certificate.issuer == certificate.subject
    except ValueError:
        return False


def _attempt(name: str, call: Callable[[SSL.Context], Any]) -> None:
    try:
        call(SSL.Context(SSL.TLS_METHOD))
    except SSL.Error:
        raise ssl.SSLError(f"the {name} that the ssl module took are none to OpenSSL {SSL.SSLeay_version(SSL.SSLEAY_VERSION)!r}") from None
