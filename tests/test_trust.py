"""Trust stores, and what certificates are refused for."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from sslconnector import Alert, CertificateError, ClientContext, Connector, Identity, PeerAlert, ServerContext, TrustError, TrustStore

from .helpers import PKI, Side, shake

pytestmark = pytest.mark.usefixtures("twin")


def _connect(pki: PKI, trust: TrustStore, identity: Identity, name: str = "localhost") -> Side:
    client = Side(Connector(ClientContext(trust=trust), server_hostname=name))
    shake(client, Side(Connector(ServerContext(identities=identity))))
    return client


def test_sources(pki: PKI, tmp_path: Path) -> None:
    der = pki.trust.certificates[0].public_bytes(serialization.Encoding.DER)
    folder = tmp_path / "cas"
    folder.mkdir()
    (folder / "a.pem").write_bytes(pki.ca_pem)
    (folder / "b.der").write_bytes(pki.other_trust.certificates[0].public_bytes(serialization.Encoding.DER))
    (folder / "same.pem").write_bytes(pki.ca_pem)
    (folder / "README").write_text("no certificate")
    (folder / "below").mkdir()
    stores = [
        TrustStore.from_bytes(pki.ca_pem),
        TrustStore.from_bytes(pki.ca_pem.decode()),
        TrustStore.from_bytes(der),
        TrustStore.from_file(folder / "a.pem"),
        TrustStore.from_folder(folder),
        TrustStore.from_certificates(pki.trust.certificates),
        pki.other_trust | pki.trust,
    ]
    for store in stores:
        assert _connect(pki, store, pki.server).complete
    assert len(TrustStore.from_folder(folder).certificates) == 2
    assert stores[0].fingerprint == stores[2].fingerprint != stores[4].fingerprint == stores[6].fingerprint
    assert "1 certificate" in repr(stores[0])


def test_system(pki: PKI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert len(TrustStore.system().certificates) > 20
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert TrustStore.system().certificates == pki.trust.certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert TrustStore.system().certificates == pki.trust.certificates
    client = Side(Connector(ClientContext(), server_hostname="localhost"))
    shake(client, Side(Connector(pki.server_context())))
    assert client.complete


def test_a_system_bundle_without_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    with pytest.raises(TrustError, match="holds none"):
        TrustStore.system()


def test_no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    with pytest.raises(TrustError, match="ca-certificates"):
        TrustStore.system()


def test_one_malformed_certificate_does_not_cost_the_bundle(pki: PKI, tmp_path: Path) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "bundle.pem").write_bytes(broken + pki.ca_pem)
    assert TrustStore.from_folder(tmp_path).certificates == pki.trust.certificates


def test_what_cannot_be_read(pki: PKI, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text")
    cases: list[tuple[Any, str]] = [
        (lambda: TrustStore.from_file(tmp_path), "is a directory"),
        (lambda: TrustStore.from_file(tmp_path / "nowhere"), "there is no file"),
        (lambda: TrustStore.from_file(tmp_path / "text"), "neither PEM"),
        (lambda: TrustStore.from_folder(tmp_path / "empty"), "holds no CA certificate"),
        (lambda: TrustStore.from_folder(tmp_path / "text"), "is a file, not a folder"),
        (lambda: TrustStore.from_folder(tmp_path / "nowhere"), "cannot be read"),
        (lambda: TrustStore.from_bytes(b"garbage"), "neither PEM"),
        (lambda: TrustStore.from_bytes(pki.ca_pem, crls=b"garbage"), "revocation list"),
        (lambda: TrustStore.from_bytes(pki.ca_pem, crls=pki.ca_pem), "revocation list"),
        (lambda: TrustStore.from_certificates([]), "at least one CA certificate"),
    ]
    for make, words in cases:
        with pytest.raises(TrustError, match=words):
            make()
    with pytest.raises(TypeError, match="x509.Certificate objects, not str"):
        TrustStore.from_certificates(["ca.pem"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="CertificateRevocationList objects, not bytes"):
        TrustStore.from_certificates(pki.trust.certificates, crls=[b"x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="must be bytes or PEM text"):
        TrustStore.from_bytes(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pki.trust | 5  # type: ignore[operator]


def test_an_untrusted_certificate_tells_what_to_do(pki: PKI) -> None:
    client = _connect(pki, pki.other_trust, pki.server)
    error = client.error
    assert isinstance(error, CertificateError)
    assert "trust=TrustStore.from_file('ca.pem')" in str(error)
    assert error.reason == "certificate verify failed"
    assert error.alert_sent is Alert.UNKNOWN_CA
    assert error.certificate == pki.server.certificate
    assert error.depth == 0
    assert error.code == 20
    assert error.chain == (pki.server.certificate,)


def test_expired_and_not_yet_valid(pki: PKI) -> None:
    client = _connect(pki, pki.trust, pki.issue_raw("localhost", days=(-20, -10)))
    assert isinstance(client.error, CertificateError)
    assert "has expired" in str(client.error)
    assert "renew it" in str(client.error)
    assert client.error.alert_sent is Alert.CERTIFICATE_EXPIRED
    client = _connect(pki, pki.trust, pki.issue_raw("localhost", days=(10, 20)))
    assert "clock" in str(client.error)


def test_wrong_host_names_what_the_certificate_is_for(pki: PKI) -> None:
    client = _connect(pki, pki.trust, pki.server, "wrong.example")
    assert "not for 'wrong.example'" in str(client.error)
    assert "localhost, 127.0.0.1, ::1" in str(client.error)
    many = pki.issue_raw(*(f"h{n}.example" for n in range(15)))
    assert "and 5 more" in str(_connect(pki, pki.trust, many).error)
    assert "it has no subjectAltName" in str(_connect(pki, pki.trust, pki.issue_raw()).error)


def test_wrong_purpose(pki: PKI) -> None:
    client = _connect(pki, pki.trust, pki.issue_raw("localhost", usages=[ExtendedKeyUsageOID.CODE_SIGNING]))
    assert isinstance(client.error, CertificateError)
    assert "extendedKeyUsage" in str(client.error)


def test_self_signed(pki: PKI) -> None:
    key = pki.server.key
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    from cryptography.hazmat.primitives import hashes

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    identity = Identity.from_objects(key, certificate)
    client = _connect(pki, pki.trust, identity)
    assert "self-signed certificate" in str(client.error)
    assert "'localhost' (serial 7)" in str(client.error)
    pinned = TrustStore.from_certificates([certificate], partial_chain=True)
    assert _connect(pki, pinned, identity).complete


def test_partial_chains(pki: PKI) -> None:
    root = trustme.CA()
    middle = root.create_child_ca()
    identity = PKI.identity(middle.issue_cert("localhost"))
    middle_certificate = x509.load_pem_x509_certificate(middle.cert_pem.bytes())
    assert _connect(pki, TrustStore.from_bytes(root.cert_pem.bytes()), identity).complete
    assert not _connect(pki, TrustStore.from_certificates([middle_certificate]), identity).complete
    assert _connect(pki, TrustStore.from_certificates([middle_certificate], partial_chain=True), identity).complete
    # Without its intermediate a server cannot be checked, and the message says so.
    bare = Identity.from_objects(identity.key, identity.certificate)
    client = _connect(pki, TrustStore.from_bytes(root.cert_pem.bytes()), bare)
    assert "lack an intermediate" in str(client.error)


def test_revocation(pki: PKI, tmp_path: Path) -> None:
    good, bad = pki.issue("localhost"), pki.issue("localhost")
    crl = pki.crl(bad)
    for trust in (
        TrustStore.from_bytes(pki.ca_pem, crls=crl),
        TrustStore.from_bytes(pki.ca_pem + crl),
        TrustStore.from_bytes(pki.ca_pem, crls=x509.load_pem_x509_crl(crl).public_bytes(serialization.Encoding.DER)),
    ):
        assert _connect(pki, trust, good).complete
        client = _connect(pki, trust, bad)
        assert isinstance(client.error, CertificateError)
        assert client.error.alert_sent is Alert.CERTIFICATE_REVOKED
        assert "withdrawn" in str(client.error)
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    (tmp_path / "crl.pem").write_bytes(crl)
    assert not _connect(pki, TrustStore.from_file(tmp_path / "ca.pem", crl_file=tmp_path / "crl.pem"), bad).complete
    assert not _connect(pki, TrustStore.from_folder(tmp_path), bad).complete
    outdated = TrustStore.from_bytes(pki.ca_pem, crls=pki.crl(days=-1))
    assert "current revocation list" in str(_connect(pki, outdated, good).error)
    foreign = pki.other_trust | TrustStore.from_bytes(pki.ca_pem)
    with_list = TrustStore(foreign.certificates, TrustStore.from_bytes(pki.ca_pem, crls=crl).crls)
    other = PKI.identity(pki.other_ca.issue_cert("localhost"))
    assert "none of this certificate's issuer" in str(_connect(pki, with_list, other).error)
    assert TrustStore.from_bytes(pki.ca_pem).fingerprint != TrustStore.from_bytes(pki.ca_pem, crls=crl).fingerprint


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_client_certificates(pki: PKI, mode: str) -> None:
    stranger = PKI.identity(pki.other_ca.issue_cert("client"))
    for identity, good in ((pki.client, True), (None, mode == "optional"), (stranger, False)):
        client, server = pki.pair(client={"identity": identity}, server={"client_certificates": mode, "trust": pki.trust})
        shake(client, server)
        assert server.complete is good, (mode, identity)
        if good:
            assert (server.connector.peer_certificate is None) is (identity is None)
        else:
            assert isinstance(server.error, CertificateError)
            assert isinstance(client.error, PeerAlert)
            assert client.error.alert_received in (Alert.CERTIFICATE_REQUIRED, Alert.UNKNOWN_CA)
