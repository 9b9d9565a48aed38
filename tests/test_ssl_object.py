"""Certificates in the ssl module's dictionary form, against the ssl module itself."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID, ObjectIdentifier

from sslconnector.ssl_object import certificate_as_dict

_decode: Any = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)
pytestmark = pytest.mark.skipif(_decode is None, reason="this Python's ssl has no way to decode a certificate by itself")


def compare(certificate: x509.Certificate, folder: Path) -> dict[str, Any]:
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    ours = certificate_as_dict(certificate)
    assert ours == _decode(str(path))
    return ours


def make(serial: int, subject: list[x509.RelativeDistinguishedName], *extensions: x509.ExtensionType, day: int = 5) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Prüfer")]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(datetime.datetime(2026, 1, day, 1, 2, 3, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2051, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def attribute(oid: ObjectIdentifier, value: str) -> x509.NameAttribute[Any]:
    return x509.NameAttribute(oid, value)


def test_everything_at_once(tmp_path: Path) -> None:
    oids = [value for name, value in vars(NameOID).items() if isinstance(value, ObjectIdentifier) and name != "X500_UNIQUE_IDENTIFIER"]
    subject = [
        x509.RelativeDistinguishedName([attribute(oid, "XY" if "COUNTRY" in str(oid) or oid == NameOID.COUNTRY_NAME else "value")])
        for oid in oids
        if oid not in (NameOID.JURISDICTION_COUNTRY_NAME, NameOID.INN, NameOID.OGRN, NameOID.SNILS, NameOID.UNSTRUCTURED_NAME)
    ]
    subject.append(x509.RelativeDistinguishedName([attribute(NameOID.COMMON_NAME, "two"), attribute(NameOID.SURNAME, "in one")]))
    others = ("1.2.3.4.5", "2.5.4.13", "2.5.4.20", "2.5.4.41")
    subject += [x509.RelativeDistinguishedName([attribute(ObjectIdentifier(oid), "value")]) for oid in others]
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("a.example"),
            x509.DNSName("*.b.example"),
            x509.RFC822Name("a@example.org"),
            x509.UniformResourceIdentifier("https://example.org/"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
            x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
            x509.DirectoryName(x509.Name([attribute(NameOID.COMMON_NAME, "directory")])),
            x509.RegisteredID(ObjectIdentifier("1.2.3.4.5")),
            x509.OtherName(ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"),
        ]
    )
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example/")),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example/1")),
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://ca.example/2")),
        ]
    )
    points = x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example/")], None, None, None)])
    made = compare(make(0x0ABC, subject, names, access, points), tmp_path)
    assert made["serialNumber"] == "0ABC"
    assert made["caIssuers"] == ("http://ca.example/1", "http://ca.example/2")
    assert len(made["subjectAltName"]) == 9


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFFF, 2**158 + 1])
def test_serial_numbers_and_days(tmp_path: Path, serial: int) -> None:
    compare(make(serial, [], day=serial % 28 + 1), tmp_path)


def test_pythons_own_test_certificates(tmp_path: Path) -> None:
    """Where this Python has its tests: all that cryptography can read."""
    test = pytest.importorskip("test")
    compared = 0
    for path in sorted(Path(test.__file__).parent.rglob("*.pem")):
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
        except (ValueError, UserWarning):
            continue
        if path.name == "talos-2019-0758.pem":
            # An extension of it is malformed: cryptography then gives none at all, OpenSSL the others.
            continue
        compare(certificate, tmp_path)
        compared += 1
    if not compared:
        pytest.skip("this distribution of Python leaves out its own tests")
