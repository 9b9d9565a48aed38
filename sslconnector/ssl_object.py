"""What programs written for the ``ssl`` module ask a connection, answered from a connector.

The names and the forms are those of ``ssl.SSLObject`` and ``ssl.SSLSocket``; what the connector offers beyond them is on the connector.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from .connector import Connector
from .context import ClientContext, ServerContext
from .identity import MALFORMED
from .session import Session

__all__ = ["SSLObject", "certificate_as_dict"]


class SSLObject:
    """The questions of ``ssl.SSLObject``; a base for sockets, and by itself what ``get_extra_info("ssl_object")`` gives."""

    def __init__(self, connector: Connector) -> None:
        #: The connection; everything that is known about it can be asked here.
        self.connector = connector

    @property
    def context(self) -> ClientContext | ServerContext:
        """The context that the connection was made with."""
        return self.connector.context

    @property
    def server_side(self) -> bool:
        """Whether this is the server."""
        return isinstance(self.connector.context, ServerContext)

    @property
    def server_hostname(self) -> str | None:
        """The server's name: what the client connects to, or what it asked the server for (SNI)."""
        return self.connector.server_hostname

    @property
    def session(self) -> Session | None:
        """A client's session to resume with later, or None while there is none."""
        return self.connector.session

    @property
    def session_reused(self) -> bool | None:
        """Whether a session was resumed; None before the handshake is complete."""
        return self.connector.resumed

    def version(self) -> str | None:
        """``"TLSv1.2"`` or ``"TLSv1.3"``; None before the handshake is complete."""
        return self.connector.version

    def cipher(self) -> tuple[str, str, int] | None:
        """Name of the cipher suite, protocol that defines it, secret bits; None before the handshake is complete."""
        connector = self.connector
        if connector.cipher is None or connector.version is None:
            return None
        return connector.cipher, connector.version, connector.cipher_bits or 0

    def compression(self) -> None:
        """None: there is no compression."""

    def selected_alpn_protocol(self) -> str | None:
        """The agreed application protocol, or None."""
        return self.connector.alpn_protocol

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """The peer's certificate: as DER, or in the dictionary form of ``ssl.SSLSocket.getpeercert``.

        :returns: None when the peer showed none; an empty dictionary when it was not verified.
        :raises PeerMisbehaved: when cryptography's parser, stricter than OpenSSL's, does not take the certificate.
        """
        certificate = self.connector.peer_certificate
        if certificate is None:
            return None
        if binary_form:
            return certificate.public_bytes(Encoding.DER)
        context = self.connector.context
        if isinstance(context, ClientContext) and not context.config.verify_peer:
            return {}
        return certificate_as_dict(certificate)

    def get_verified_chain(self) -> list[bytes]:
        """The peer's chain up to the trust anchor, as DER, its own certificate first (as ``ssl`` has it from Python 3.13 on)."""
        return [certificate.public_bytes(Encoding.DER) for certificate in self.connector.peer_chain]

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes:
        """A value that ties an authentication to this connection; see :meth:`Connector.channel_binding`.

        :raises ValueError: for ``"tls-unique"``, the ``ssl`` module's default: broken on TLS 1.2, undefined on 1.3 (FAULTS F06).
        """
        return self.connector.channel_binding(cb_type)


# -- the dictionary form -----------------------------------------------------------------------------------------------------------

# OpenSSL's long names of what stands in names; other attributes appear as their number, like there.
_ATTRIBUTES = {
    "2.5.4.3": "commonName",
    "2.5.4.4": "surname",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "countryName",
    "2.5.4.7": "localityName",
    "2.5.4.8": "stateOrProvinceName",
    "2.5.4.9": "streetAddress",
    "2.5.4.10": "organizationName",
    "2.5.4.11": "organizationalUnitName",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.16": "postalAddress",
    "2.5.4.17": "postalCode",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "givenName",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "userId",
    "0.9.2342.19200300.100.1.25": "domainComponent",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.3.6.1.4.1.311.60.2.1.1": "jurisdictionLocalityName",
    "1.3.6.1.4.1.311.60.2.1.2": "jurisdictionStateOrProvinceName",
    "1.3.6.1.4.1.311.60.2.1.3": "jurisdictionCountryName",
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def certificate_as_dict(certificate: x509.Certificate) -> dict[str, Any]:
    """A certificate in the form of ``ssl.SSLSocket.getpeercert()``.

    Extensions that cannot be parsed are left out, as by the ``ssl`` module.
    """
    number = f"{abs(certificate.serial_number):X}"
    result: dict[str, Any] = {
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        "version": certificate.version.value + 1,
        "serialNumber": ("-" if certificate.serial_number < 0 else "") + number.zfill(len(number) + len(number) % 2),
        "notBefore": _time(certificate.not_valid_before_utc),
        "notAfter": _time(certificate.not_valid_after_utc),
    }
    try:
        extensions = certificate.extensions
    except (*MALFORMED, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return result
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            result["subjectAltName"] = tuple(_general_name(name) for name in value)
        elif isinstance(value, x509.AuthorityInformationAccess):
            for key, method in (("OCSP", AuthorityInformationAccessOID.OCSP), ("caIssuers", AuthorityInformationAccessOID.CA_ISSUERS)):
                if found := _locations(description.access_location for description in value if description.access_method == method):
                    result[key] = found
        elif isinstance(value, x509.CRLDistributionPoints):
            names = [name for point in value for name in point.full_name or ()]
            if found := _locations(names):
                result["crlDistributionPoints"] = found
    return result


def _name(name: x509.Name) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(
        tuple((_ATTRIBUTES.get(attribute.oid.dotted_string, attribute.oid.dotted_string), _text(attribute.value)) for attribute in relative)
        for relative in name.rdns
    )


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def _time(moment: datetime.datetime) -> str:
    return f"{_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S} {moment.year} GMT"


def _locations(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    return tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier))


def _general_name(name: x509.GeneralName) -> tuple[str, Any]:
    if isinstance(name, x509.DNSName):
        return "DNS", name.value
    if isinstance(name, x509.RFC822Name):
        return "email", name.value
    if isinstance(name, x509.UniformResourceIdentifier):
        return "URI", name.value
    if isinstance(name, x509.IPAddress):
        return "IP Address", _address(name.value)
    if isinstance(name, x509.DirectoryName):
        return "DirName", _name(name.value)
    if isinstance(name, x509.RegisteredID):
        return "Registered ID", name.value.dotted_string
    return "othername", "<unsupported>"


def _address(value: object) -> str:
    if isinstance(value, ipaddress.IPv6Address):
        # The form of inet_ntop would be shorter; this is the one that OpenSSL prints.
        return ":".join(f"{int.from_bytes(value.packed[i : i + 2], 'big'):X}" for i in range(0, 16, 2))
    return str(value)
