"""Who this side is: a private key and the certificate chain that goes with it. Key and chain, never policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from .errors import IdentityError

__all__ = ["Identity", "Password", "describe_certificate", "read_file"]

_log = logging.getLogger(__name__)

#: The password of an encrypted key, or a callable that returns it (called at most once, only when the key is encrypted).
Password: TypeAlias = "bytes | str | Callable[[], bytes | str] | None"

_PrivateKey = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
_PEM = b"-----BEGIN "
#: what cryptography raises for a certificate that it cannot parse
MALFORMED = (ValueError, x509.InvalidVersion)


def describe_certificate(certificate: x509.Certificate) -> str:
    """How messages name a certificate: its subject, or the names it is for where the subject is empty, and its serial number."""
    # cryptography parses the parts of a certificate when they are asked for, a peer can send anything, and a message must not fail: so
    # whatever is raised (ValueError, DuplicateExtension, a warning made an error, ...) means that it cannot be read.
    try:
        name = certificate.subject.rfc4514_string() or ", ".join(_dns_names(certificate)) or "no subject"
    except Exception:
        name = "unreadable subject"
    try:
        number = f"{certificate.serial_number:x}"
    except Exception:
        number = "unreadable"
    return f"{name!r} (serial {number})"


def read_file(path: str | PathLike[str], what: str, error: type[Exception]) -> bytes:
    """The content of a file that the configuration names; every way this fails is ``error``, in one sentence."""
    if not isinstance(path, str | PathLike):
        raise TypeError(f"the path of {what} must be str or a Path, not {type(path).__name__}: for bytes in memory use from_pem()")
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise error(f"{what} cannot be read: {str(path)!r} is a directory; name the file in it") from None
    except FileNotFoundError:
        raise error(f"{what} cannot be read: there is no file {str(path)!r}") from None
    except PermissionError:
        raise error(f"{what} cannot be read: no permission for {str(path)!r}; check its owner and mode") from None
    except (OSError, ValueError) as reason:
        raise error(f"{what} cannot be read from {str(path)!r}: {reason}") from None


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return extension.value.get_values_for_type(x509.DNSName)


def load_certificates(data: bytes, what: str, error: type[Exception]) -> list[x509.Certificate]:
    """All certificates in PEM text (other PEM blocks are passed over), or the one in DER bytes."""
    try:
        if _PEM in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except MALFORMED as reason:
        hint = "it is neither PEM (-----BEGIN CERTIFICATE-----) nor DER" if _PEM not in data else "a PEM block is damaged or missing"
        raise error(f"{what} holds no readable certificate: {hint} ({reason})") from None


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A private key with its certificate chain, checked to belong together.

    Made by one of the ``from_...`` methods. Immutable; may be shared by any number of contexts and threads.

    :ivar key: the private key, as cryptography's object. It is not shown by ``repr``.
    :ivar chain: the certificates as they are sent, the one that belongs to the key first.
    """

    key: Any
    chain: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.key, _PrivateKey):
            raise IdentityError(f"a private key must be RSA, EC, Ed25519 or Ed448, not {type(self.key).__name__}")
        if not self.chain:
            raise IdentityError("an identity needs at least the certificate that belongs to its key; the chain is empty")
        for certificate in self.chain:
            if not isinstance(certificate, x509.Certificate):
                raise TypeError(f"a chain must hold cryptography's x509.Certificate objects, not {type(certificate).__name__}")
        own = _public_bytes(self.key.public_key())
        for position, certificate in enumerate(self.chain):
            if _public_bytes(certificate.public_key()) == own:
                if position:
                    rest = self.chain[:position] + self.chain[position + 1 :]
                    object.__setattr__(self, "chain", (certificate, *rest))
                break
        else:
            raise IdentityError(
                f"the private key ({_describe_key(self.key)}) does not belong to the certificate "
                f"{describe_certificate(self.chain[0])}, whose key is {_describe_key(self.chain[0].public_key())}; "
                "pass the key that the certificate was issued for"
            )
        if self.certificate.not_valid_after_utc < datetime.now(UTC):
            _log.warning(
                "the certificate %s expired on %s; peers will refuse it",
                describe_certificate(self.certificate),
                self.certificate.not_valid_after_utc.date(),
            )

    def __repr__(self) -> str:
        return f"<Identity {describe_certificate(self.certificate)}, {len(self.chain)} certificate(s)>"

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate that belongs to the key."""
        return self.chain[0]

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The DNS names of the certificate (subjectAltName), as they stand there, wildcards included."""
        return tuple(_dns_names(self.certificate))

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate, 32 bytes."""
        return self.certificate.fingerprint(hashes.SHA256())

    @classmethod
    def from_objects(cls, key: Any, certificate: x509.Certificate, chain: Iterable[x509.Certificate] = ()) -> Identity:
        """From cryptography's objects.

        :raises IdentityError: when key and certificate do not belong together.
        """
        return cls(key, (certificate, *chain))

    @classmethod
    def from_pem(cls, certificates: bytes | str, key: bytes | str | None = None, *, password: Password = None) -> Identity:
        """From bytes in memory: PEM (text is taken too) or DER.

        :param certificates: the chain, in any order; may hold the key as well.
        :param key: the private key, when it is not in ``certificates``: PKCS#8 or the traditional forms.
        :param password: for an encrypted key: the password or a callable that returns it.
        :raises IdentityError: when something cannot be read, decrypted, or does not belong together.
        """
        chain_data = _as_bytes(certificates, "certificates")
        key_data = chain_data if key is None else _as_bytes(key, "key")
        return cls._load(chain_data, "the certificate chain", key_data, "the private key", password)

    @classmethod
    def from_files(
        cls, certificates: str | PathLike[str], key: str | PathLike[str] | None = None, *, password: Password = None
    ) -> Identity:
        """From files, PEM or DER; otherwise like :meth:`from_pem`."""
        chain_data = read_file(certificates, "the certificate chain", IdentityError)
        if key is None:
            return cls._load(chain_data, f"{str(certificates)!r}", chain_data, f"{str(certificates)!r}", password)
        key_data = read_file(key, "the private key", IdentityError)
        return cls._load(chain_data, f"{str(certificates)!r}", key_data, f"{str(key)!r}", password)

    @classmethod
    def from_pkcs12(cls, source: bytes | str | PathLike[str], *, password: Password = None) -> Identity:
        """From a PKCS#12 container (``.p12``, ``.pfx``): bytes, or the path of a file.

        :raises IdentityError: when it cannot be read, or holds no key or no certificate.
        """
        data = source if isinstance(source, bytes) else read_file(source, "the PKCS#12 file", IdentityError)
        try:
            key, certificate, others = pkcs12.load_key_and_certificates(data, _resolve(password))
        except ValueError as reason:
            raise IdentityError(f"the PKCS#12 data cannot be read: wrong password or damaged ({reason})") from None
        if key is None or certificate is None:
            raise IdentityError(f"the PKCS#12 data holds no {'private key' if key is None else 'certificate'}; both are needed")
        return cls(key, (certificate, *others))

    @classmethod
    def _load(cls, chain_data: bytes, chain_name: str, key_data: bytes, key_name: str, password: Password) -> Identity:
        chain = load_certificates(chain_data, chain_name, IdentityError)
        return cls(_load_key(key_data, key_name, password), tuple(chain))


def _as_bytes(data: bytes | str, name: str) -> bytes:
    if isinstance(data, str):
        if "-----BEGIN " not in data:
            raise IdentityError(f"{name} is text but no PEM; for a file's name use Identity.from_files()")
        return data.encode()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be bytes or PEM text, not {type(data).__name__}: for files use Identity.from_files()")
    return bytes(data)


def _resolve(password: Password) -> bytes | None:
    value = password() if callable(password) else password
    if isinstance(value, str):
        return value.encode()
    if value is not None and not isinstance(value, bytes):
        raise TypeError(f"a password must be bytes or str, not {type(value).__name__}")
    return value


def _load_key(data: bytes, name: str, password: Password) -> Any:
    load = serialization.load_pem_private_key if _PEM in data else serialization.load_der_private_key
    try:
        try:
            return load(data, None)
        except TypeError:  # cryptography's way to say that the key is encrypted
            if password is None:
                raise IdentityError(f"the private key in {name} is encrypted; pass password=") from None
            return load(data, _resolve(password))
    except ValueError as reason:
        if _PEM in data and b"PRIVATE KEY-----" not in data:
            raise IdentityError(f"{name} holds no private key; pass the key as a second argument") from None
        why = "wrong password or damaged" if password is not None else "not a PKCS#8 or traditional key, or damaged"
        raise IdentityError(f"the private key in {name} cannot be read: {why} ({reason})") from None


def _public_bytes(key: Any) -> bytes:
    encoding = serialization.Encoding.DER
    return bytes(key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))


def _describe_key(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        kind = f"RSA {key.key_size}"
    elif isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        kind = f"EC {key.curve.name}"
    else:
        kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey").lstrip("_")
    public = key.public_key() if hasattr(key, "public_key") else key
    digest = hashes.Hash(hashes.SHA256())
    digest.update(_public_bytes(public))
    return f"{kind}, SHA-256 {digest.finalize().hex()[:16]}"


def as_identities(value: Identity | Sequence[Identity] | None, field: str) -> tuple[Identity, ...]:
    """One identity, several or none, as a tuple; anything else is named in the error."""
    if value is None:
        return ()
    items = (value,) if isinstance(value, Identity) else tuple(value)
    for item in items:
        if not isinstance(item, Identity):
            raise TypeError(f"{field} must be an Identity or a list of them, not {type(item).__name__}; see Identity.from_files()")
    return items
