"""What a connection may do: two frozen dataclasses, one for each role. Safe as they are; every field says what it changes."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Literal, TypeAlias

from cryptography import x509

from .errors import ConfigurationError
from .hostname import normalise_pattern
from .identity import Identity, as_identities
from .limits import Limits
from .trust import TrustStore

__all__ = ["ClientConfig", "KeyLog", "ServerConfig", "TLSVersion", "VerifyHook", "keylog_from_environment"]


class TLSVersion(enum.IntEnum):
    """Protocol versions, by their number on the wire. Nothing older is offered (RFC 8996)."""

    TLSv1_2 = 0x0303
    TLSv1_3 = 0x0304


#: Where secrets of connections are logged for analysis with Wireshark (NSS key log format): a file's path (appended to), or a callable
#: that gets each line as bytes without the line's end.
KeyLog: TypeAlias = "str | PathLike[str] | Callable[[bytes], None] | None"

#: Called with the peer's chain, its own certificate first, once OpenSSL has accepted it. May refuse (raise, or return False), never
#: accept what OpenSSL refused (FAULTS F18). Runs inside the handshake: keep it short. Not called when a session is resumed.
VerifyHook: TypeAlias = "Callable[[tuple[x509.Certificate, ...]], bool | None] | None"


def keylog_from_environment() -> str | None:
    """The path in ``SSLKEYLOGFILE``, or None; for ``keylog=``. The variable alone has no effect: secrets are written on request only."""
    return os.environ.get("SSLKEYLOGFILE") or None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Config:
    #: Lowest and highest protocol version.
    minimum_version: TLSVersion = TLSVersion.TLSv1_2
    maximum_version: TLSVersion = TLSVersion.TLSv1_3
    #: Cipher list for TLS 1.2 in OpenSSL's syntax; None for OpenSSL's default.
    ciphers: str | None = None
    #: Cipher suites for TLS 1.3, colon-separated; None for OpenSSL's default.
    ciphersuites: str | None = None
    #: Key exchange groups in order of preference, colon-separated, for instance ``"X25519:P-256"``; None for OpenSSL's default, which
    #: begins with the hybrid post-quantum group. (A hybrid group costs 6 KiB more for each idle connection.)
    groups: str | None = None
    #: Signature algorithms, colon-separated, in OpenSSL's syntax; None for OpenSSL's default.
    signature_algorithms: str | None = None
    #: OpenSSL's security level, 0 to 5; None for OpenSSL's default (2: at least 112 bits, RSA from 2048).
    security_level: int | None = None
    #: Application protocols (RFC 7301), the preferred one first.
    alpn_protocols: Sequence[str] = ()
    #: See :data:`VerifyHook`.
    verify_hook: VerifyHook = None
    #: Most certificates between the peer's own and the trust anchor.
    verify_depth: int = 10
    #: TLS 1.3: whether a client answers when it is asked for its certificate after the handshake; whether a server asks then, on
    #: ``Connector.request_client_certificate()``, instead of in the handshake (RFC 8446 section 4.6.2). On TLS 1.2 a server that has this
    #: set still asks in the handshake.
    post_handshake_auth: bool = False
    #: See :data:`KeyLog`.
    keylog: KeyLog = None
    #: See :class:`Limits`.
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("minimum_version", "maximum_version"):
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, TLSVersion(value))
            except ValueError:
                raise ConfigurationError(f"{name} must be TLSVersion.TLSv1_2 or TLSVersion.TLSv1_3, not {value!r}") from None
        if self.minimum_version > self.maximum_version:
            raise ConfigurationError("minimum_version is above maximum_version; no version is left")
        for name in ("ciphers", "ciphersuites", "groups", "signature_algorithms"):
            _check_text(name, getattr(self, name))
        level = self.security_level
        if level is not None and (isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 5):
            raise ConfigurationError(f"security_level must be a whole number from 0 to 5, not {level!r}")
        if isinstance(self.verify_depth, bool) or not isinstance(self.verify_depth, int) or not 0 <= self.verify_depth <= 100:
            raise ConfigurationError(f"verify_depth must be a whole number from 0 to 100, not {self.verify_depth!r}")
        if self.verify_hook is not None and not callable(self.verify_hook):
            raise TypeError(f"verify_hook must be callable, not {type(self.verify_hook).__name__}")
        if self.keylog is not None and not callable(self.keylog) and not isinstance(self.keylog, str | PathLike):
            raise TypeError(f"keylog must be a path or a callable, not {type(self.keylog).__name__}")
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits must be a Limits object, not {type(self.limits).__name__}")
        object.__setattr__(self, "alpn_protocols", _check_alpn(self.alpn_protocols))


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} must be str (names separated by colons), not {type(value).__name__}")
    if not value or not value.isascii() or "\0" in value:
        raise ConfigurationError(f"{name} must be ASCII names separated by colons, or None for OpenSSL's default, not {value!r}")


def _check_alpn(protocols: object) -> tuple[str, ...]:
    if isinstance(protocols, str | bytes) or not isinstance(protocols, Sequence):
        raise TypeError(f"alpn_protocols must be a list of str such as ['h2', 'http/1.1'], not {protocols!r}")
    size = 0
    for name in protocols:
        if not isinstance(name, str):
            raise TypeError(f"alpn_protocols must hold str, not {type(name).__name__}: {name!r}")
        if not 1 <= len(name.encode()) <= 255:
            raise ConfigurationError(f"an ALPN protocol name must have 1 to 255 bytes (RFC 7301 section 3.1), not {name!r}")
        size += 1 + len(name.encode())
    if size > 65535:
        raise ConfigurationError("alpn_protocols is longer than the extension can hold (65,535 bytes)")
    if len(set(protocols)) != len(protocols):
        raise ConfigurationError(f"alpn_protocols names a protocol twice: {list(protocols)!r}")
    return tuple(protocols)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientConfig(_Config):
    """How a client connects. As it stands: TLS 1.2 or 1.3, the system's CA certificates, the host name checked."""

    #: Whom to believe; None for the system's CA certificates.
    trust: TrustStore | None = None
    #: The client's own certificate, for servers that ask for one.
    identity: Identity | None = None
    #: False takes any certificate, or none: no protection against anybody in between. For tests.
    verify_peer: bool = True
    #: False takes any name in a certificate that is trusted otherwise. For private CAs that name nothing.
    verify_hostname: bool = True

    def __post_init__(self) -> None:
        # "super()" has no cell in a slotted dataclass.
        _Config.__post_init__(self)
        if self.trust is not None and not isinstance(self.trust, TrustStore):
            raise TypeError(f"trust must be a TrustStore, not {type(self.trust).__name__}; see TrustStore.from_file()")
        if self.identity is not None and not isinstance(self.identity, Identity):
            raise TypeError(f"identity must be an Identity, not {type(self.identity).__name__}; see Identity.from_files()")
        if not self.verify_peer and self.verify_hook is not None:
            raise ConfigurationError("verify_hook is not called without verify_peer; a hook can refuse a verified chain, never accept one")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServerConfig(_Config):
    """How a server answers. As it stands: TLS 1.2 or 1.3, session tickets, no client certificates."""

    #: Key and chain to show. Of several, the first whose certificate names what the client asks for (SNI) and whose key the client can
    #: check; the first of all serves clients that ask for nothing known.
    identities: Identity | Sequence[Identity] | None = None
    #: True asks the application for an identity on every connection: ``IdentityNeeded`` events, answered with ``provide_identity()``.
    identity_on_demand: bool = False
    #: What to do when the client asks for a name that no identity carries: serve it with the first, or refuse with the alert
    #: unrecognized_name (RFC 6066 section 3).
    unknown_name: Literal["first", "refuse"] = "first"
    #: Names (wildcards included) that have a policy of their own: each is served as its own ``ServerConfig`` says, and no session
    #: made under one policy is resumed under another (FAULTS F17). ``limits`` are those of the outer one.
    hosts: Mapping[str, ServerConfig] = field(default_factory=dict)
    #: Whether clients are asked for a certificate, and whether they may go without.
    client_certificates: Literal["none", "optional", "required"] = "none"
    #: Whose client certificates to believe. Needed unless ``client_certificates`` is "none"; the system's CAs are no sensible default.
    trust: TrustStore | None = None
    #: When client and server have no application protocol in common: refuse with no_application_protocol, as RFC 7301 section 3.2
    #: asks for, or go on without.
    alpn_mismatch: Literal["refuse", "ignore"] = "refuse"
    #: Whether sessions can be resumed (stateless tickets; nothing is stored on the server). On TLS 1.3 OpenSSL sends two tickets even
    #: when this is False; they are worthless then.
    session_tickets: bool = True

    def __post_init__(self) -> None:
        _Config.__post_init__(self)
        object.__setattr__(self, "identities", as_identities(self.identities, "identities"))
        if not isinstance(self.hosts, Mapping):
            raise TypeError(f"hosts must be a mapping from names to ServerConfig objects, not {type(self.hosts).__name__}")
        if not self.identities and not self.identity_on_demand:
            raise ConfigurationError(
                "a server needs a certificate: pass identities=Identity.from_files('cert.pem', 'key.pem'), or identity_on_demand=True"
            )
        if self.identities and self.identity_on_demand:
            raise ConfigurationError("pass identities or identity_on_demand=True, not both: on demand, every connection asks")
        for name, allowed in (
            ("unknown_name", ("first", "refuse")),
            ("client_certificates", ("none", "optional", "required")),
            ("alpn_mismatch", ("refuse", "ignore")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {getattr(self, name)!r}")
        if self.trust is not None and not isinstance(self.trust, TrustStore):
            raise TypeError(f"trust must be a TrustStore, not {type(self.trust).__name__}; see TrustStore.from_file()")
        if self.client_certificates != "none" and self.trust is None:
            raise ConfigurationError(f"client_certificates={self.client_certificates!r} needs trust=: the CAs that issue them")
        if self.client_certificates == "none" and (self.trust is not None or self.verify_hook is not None):
            raise ConfigurationError("trust and verify_hook have no effect without client_certificates='optional' or 'required'")
        normalised: dict[str, ServerConfig] = {}
        for pattern, config in self.hosts.items():
            if not isinstance(pattern, str):
                raise TypeError(f"the keys of hosts must be names (str), not {type(pattern).__name__}")
            if not isinstance(config, ServerConfig):
                raise TypeError(f"hosts[{pattern!r}] must be a ServerConfig, not {type(config).__name__}")
            if config.hosts:
                raise ConfigurationError(f"hosts[{pattern!r}] has hosts of its own; names are looked up once, at the outermost config")
            normalised[normalise_pattern(pattern)] = config
        object.__setattr__(self, "hosts", normalised)
