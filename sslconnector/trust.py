"""Whom this side believes: CA certificates and revocation lists."""

from __future__ import annotations

import logging
import os
import re
import ssl
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.utils import CryptographyDeprecationWarning

from .errors import TrustError
from .identity import MALFORMED, load_certificates, read_file

__all__ = ["TrustStore"]

_log = logging.getLogger(__name__)

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_CERTIFICATE_BLOCKS = (b"CERTIFICATE", b"TRUSTED CERTIFICATE", b"X509 CERTIFICATE")

# Where systems keep their CA bundle, in the order of Go's crypto/x509 (root_linux.go, root_bsd.go); the wheel's OpenSSL was built with
# paths that exist nowhere.
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/opt/homebrew/etc/openssl@3/cert.pem",
    "/usr/local/etc/openssl@3/cert.pem",
)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class TrustStore:
    """CA certificates (trust anchors), optional revocation lists, and how they are used.

    Made by one of the ``from_...`` methods or :meth:`system`; ``a | b`` holds what both hold. Immutable, shareable between threads and
    contexts; everything is read when the store is made, never later.

    :ivar certificates: the trust anchors.
    :ivar crls: certificate revocation lists. With at least one, every certificate of a peer's chain must be covered by a list
        (RFC 5280 section 6.3); a missing or outdated list is a refusal.
    :ivar partial_chain: whether an intermediate or even a peer's own certificate in the store ends the chain, as if it were a root.
    :ivar strict: whether certificates that break the rules of RFC 5280 are refused (OpenSSL's ``X509_STRICT``).
    :ivar crl_check: what the lists must cover: the whole chain, or only the peer's own certificate. None: the chain, if there are lists.
    """

    certificates: tuple[x509.Certificate, ...]
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    partial_chain: bool = False
    strict: bool = False
    crl_check: Literal["chain", "leaf"] | None = None

    def __post_init__(self) -> None:
        for certificate in self.certificates:
            if not isinstance(certificate, x509.Certificate):
                raise TypeError(f"a TrustStore holds cryptography's x509.Certificate objects, not {type(certificate).__name__}")
        for crl in self.crls:
            if not isinstance(crl, x509.CertificateRevocationList):
                raise TypeError(f"crls must hold cryptography's CertificateRevocationList objects, not {type(crl).__name__}")
        if self.crl_check not in ("chain", "leaf", None):
            raise ValueError(f"crl_check must be 'chain', 'leaf' or None, not {self.crl_check!r}")
        if not self.certificates:
            raise TrustError("a trust store needs at least one CA certificate; use TrustStore.system() for those of the system")

    def __repr__(self) -> str:
        return f"<TrustStore {len(self.certificates)} certificate(s), {len(self.crls)} CRL(s)>"

    def __or__(self, other: TrustStore) -> TrustStore:
        if not isinstance(other, TrustStore):
            return NotImplemented
        return TrustStore(
            self.certificates + other.certificates,
            self.crls + other.crls,
            self.partial_chain or other.partial_chain,
            self.strict or other.strict,
            self.crl_check or other.crl_check,
        )

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything that decides trust, 32 bytes: equal for stores that trust the same."""
        digest = hashes.Hash(hashes.SHA256())
        for item in sorted(certificate.fingerprint(hashes.SHA256()) for certificate in self.certificates):
            digest.update(item)
        for item in sorted(crl.fingerprint(hashes.SHA256()) for crl in self.crls):
            digest.update(item)
        digest.update(repr((self.partial_chain, self.strict, self.crl_check)).encode())
        return digest.finalize()

    @classmethod
    def nobody(cls) -> TrustStore:
        """A store without a certificate: every chain is refused. For code that fills in what a user has loaded, and the user loaded
        nothing."""
        made = object.__new__(cls)
        for field in fields(cls):
            object.__setattr__(made, field.name, () if field.name in ("certificates", "crls") else field.default)
        return made

    @classmethod
    def from_certificates(
        cls,
        certificates: Iterable[x509.Certificate],
        *,
        crls: Iterable[x509.CertificateRevocationList] = (),
        partial_chain: bool = False,
    ) -> TrustStore:
        """From cryptography's objects."""
        return cls(tuple(certificates), tuple(crls), partial_chain)

    @classmethod
    def from_bytes(cls, data: bytes | str, *, crls: bytes | str = b"", partial_chain: bool = False) -> TrustStore:
        """From PEM (one or many certificates; text is taken too) or one certificate in DER.

        :param crls: revocation lists, PEM or one in DER. Lists in the PEM text of ``data`` are taken as well.
        :raises TrustError: when nothing can be read.
        """
        raw = data.encode() if isinstance(data, str) else data
        if not isinstance(raw, bytes | bytearray | memoryview):
            raise TypeError(f"certificates must be bytes or PEM text, not {type(data).__name__}")
        raw = bytes(raw)
        lists = _load_crls(raw, "the trust store") if b"-----BEGIN X509 CRL-----" in raw else []
        if crls:
            lists += _load_crls(crls.encode() if isinstance(crls, str) else bytes(crls), "crls")
        return cls(tuple(load_certificates(raw, "the trust store", TrustError)), tuple(lists), partial_chain)

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], *, crl_file: str | PathLike[str] | None = None, partial_chain: bool = False
    ) -> TrustStore:
        """From a file: PEM with any number of certificates, or one in DER.

        :param crl_file: a file with revocation lists.
        :raises TrustError: when a file cannot be read.
        """
        data = read_file(path, "the CA file", TrustError)
        crls = b"" if crl_file is None else read_file(crl_file, "the CRL file", TrustError)
        try:
            return cls.from_bytes(data, crls=crls, partial_chain=partial_chain)
        except TrustError as error:
            raise TrustError(f"{error} in {str(path)!r}") from None

    @classmethod
    def from_folder(cls, path: str | PathLike[str], *, partial_chain: bool = False) -> TrustStore:
        """From every certificate and revocation list in the files of a folder; no ``c_rehash`` is needed. Other files are passed over.

        :raises TrustError: when the folder cannot be read or holds no certificate.
        """
        folder = Path(path)
        try:
            files = sorted(entry for entry in folder.iterdir() if entry.is_file())
        except NotADirectoryError:
            raise TrustError(f"{str(path)!r} is a file, not a folder; use TrustStore.from_file()") from None
        except OSError as reason:
            raise TrustError(f"the CA folder {str(path)!r} cannot be read: {reason.strerror}") from None
        certificates: dict[bytes, x509.Certificate] = {}
        crls: dict[bytes, x509.CertificateRevocationList] = {}
        for entry in files:
            try:
                data = entry.read_bytes()
            except OSError:
                continue
            for certificate in _readable_certificates(data):
                certificates[certificate.fingerprint(hashes.SHA256())] = certificate
            if b"-----BEGIN X509 CRL-----" in data:
                for crl in _load_crls(data, str(entry)):
                    crls[crl.fingerprint(hashes.SHA256())] = crl
        if not certificates:
            raise TrustError(f"the folder {str(path)!r} holds no CA certificate (PEM or DER)")
        return cls(tuple(certificates.values()), tuple(crls.values()), partial_chain)

    @classmethod
    def system(cls) -> TrustStore:
        """The system's CA certificates.

        ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` win, as they do for OpenSSL; then the paths of Python's own OpenSSL, then those of the
        usual systems; on Windows the ROOT and CA stores. macOS keeps its certificates where OpenSSL cannot see them: there, Homebrew's
        are used.

        :raises TrustError: when none are found.
        """
        if sys.platform == "win32":
            return cls(tuple(_windows_certificates()))
        file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if file:
            return cls(_bundle(read_file(file, "SSL_CERT_FILE", TrustError), file))
        if folder:
            return cls.from_folder(folder)
        python = ssl.get_default_verify_paths()
        for candidate in (python.openssl_cafile, *_SYSTEM_FILES):
            if candidate and Path(candidate).is_file():
                return cls(_bundle(Path(candidate).read_bytes(), candidate))
        if python.openssl_capath and Path(python.openssl_capath).is_dir():
            return cls.from_folder(python.openssl_capath)
        raise TrustError(
            "no CA certificates of the system were found; install the package ca-certificates, set SSL_CERT_FILE, or pass "
            "trust=TrustStore.from_file(certifi.where())"
        )


# Programs make one client context after another, and the system's bundle takes tens of milliseconds to read.
@lru_cache(maxsize=2)
def _bundle(data: bytes, path: str) -> tuple[x509.Certificate, ...]:
    certificates = _readable_certificates(data)
    if not certificates:
        raise TrustError(f"{path!r} should hold the system's CA certificates and holds none that can be read")
    return tuple(certificates)


def _readable_certificates(data: bytes) -> list[x509.Certificate]:
    """What can be read of a bundle that others maintain: one malformed root must not cost all the others."""
    blocks = [match.group(0) for match in _BLOCK.finditer(data) if match.group(1) in _CERTIFICATE_BLOCKS]
    certificates = []
    with warnings.catch_warnings():
        # cryptography warns of roots that break a rule of RFC 5280 (a serial number of 0). They are not ours to mend.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for block in blocks:
            try:
                certificates.append(x509.load_pem_x509_certificate(block))
            except MALFORMED as reason:
                _log.info("a certificate of a trust bundle was passed over: %s", reason)
        if not blocks:
            try:
                certificates.append(x509.load_der_x509_certificate(data))
            except MALFORMED:
                pass
    return certificates


def read_bundle(data: bytes) -> tuple[list[x509.Certificate], list[x509.CertificateRevocationList]]:
    """The certificates and revocation lists in PEM text, or one of either in DER. What cannot be read is passed over.

    :raises TrustError: when a revocation list is damaged.
    """
    crls = _load_crls(data, "the file") if b"-----BEGIN X509 CRL-----" in data else []
    return _readable_certificates(data), crls


def _windows_certificates() -> Iterable[x509.Certificate]:  # pragma: no cover - Windows only
    server_authentication = "1.3.6.1.5.5.7.3.1"
    for store in ("ROOT", "CA"):
        for der, encoding, purposes in ssl.enum_certificates(store):  # type: ignore[attr-defined,unused-ignore]
            if encoding == "x509_asn" and (purposes is True or server_authentication in purposes):
                try:
                    yield x509.load_der_x509_certificate(der)
                except MALFORMED as reason:
                    _log.info("a certificate of Windows' store %s was passed over: %s", store, reason)


def _load_crls(data: bytes, what: str) -> list[x509.CertificateRevocationList]:
    try:
        if b"-----BEGIN " not in data:
            return [x509.load_der_x509_crl(data)]
        blocks = [match.group(0) for match in _BLOCK.finditer(data) if match.group(1) == b"X509 CRL"]
        if not blocks:
            raise ValueError("no X509 CRL block")
        return [x509.load_pem_x509_crl(block) for block in blocks]
    except ValueError as reason:
        raise TrustError(f"{what} holds no readable revocation list ({reason})") from None
