"""Keys and chains from everywhere, and what is said when they do not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from sslconnector import Connector, Identity, IdentityError, ServerContext

from .helpers import PKI, Side, pem_chain, pem_key, rsa_key, shake


def _der_key(identity: Identity) -> bytes:
    return bytes(identity.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def test_pem_in_memory(pki: PKI) -> None:
    chain, key = pem_chain(pki.server), pem_key(pki.server)
    for made in (
        Identity.from_pem(chain, key),
        Identity.from_pem(chain + key),
        Identity.from_pem((key + chain).decode()),
        Identity.from_pem(bytearray(chain), memoryview(key)),  # type: ignore[arg-type]
    ):
        assert made.certificate == pki.server.certificate
        assert made.fingerprint == pki.server.fingerprint
        assert made.dns_names == ("localhost",)
        assert "private" not in repr(made).lower()


def test_der(pki: PKI) -> None:
    certificate = pki.server.certificate.public_bytes(serialization.Encoding.DER)
    assert Identity.from_pem(certificate, _der_key(pki.server)).certificate == pki.server.certificate


def test_files(pki: PKI, tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(pem_chain(pki.server))
    (tmp_path / "key.pem").write_bytes(pem_key(pki.server))
    (tmp_path / "both.pem").write_bytes(pem_key(pki.server) + pem_chain(pki.server))
    assert Identity.from_files(tmp_path / "chain.pem", str(tmp_path / "key.pem")).chain == pki.server.chain
    assert Identity.from_files(tmp_path / "both.pem").chain == pki.server.chain


def test_pkcs12(pki: PKI, tmp_path: Path) -> None:
    data = pkcs12.serialize_key_and_certificates(
        b"name", pki.server.key, pki.server.certificate, pki.trust.certificates, BestAvailableEncryption(b"secret")
    )
    made = Identity.from_pkcs12(data, password="secret")
    assert made.chain == (pki.server.certificate, *pki.trust.certificates)
    (tmp_path / "id.p12").write_bytes(data)
    assert Identity.from_pkcs12(tmp_path / "id.p12", password=lambda: b"secret").chain == made.chain
    with pytest.raises(IdentityError, match="wrong password or damaged"):
        Identity.from_pkcs12(data, password=b"wrong")
    with pytest.raises(IdentityError, match="wrong password or damaged"):
        Identity.from_pkcs12(b"garbage")
    for key, certificate, missing in ((None, pki.server.certificate, "private key"), (pki.server.key, None, "certificate")):
        cut = pkcs12.serialize_key_and_certificates(b"name", key, certificate, pki.trust.certificates, serialization.NoEncryption())
        with pytest.raises(IdentityError, match=f"holds no {missing}"):
            Identity.from_pkcs12(cut)


def test_encrypted_keys(pki: PKI) -> None:
    chain, key = pem_chain(pki.server), pem_key(pki.server, b"secret")
    calls: list[int] = []

    def password() -> str:
        calls.append(1)
        return "secret"

    for given in (b"secret", "secret", password):
        assert Identity.from_pem(chain, key, password=given).chain == pki.server.chain
    assert calls == [1]
    Identity.from_pem(chain, pem_key(pki.server), password=password)
    assert calls == [1], "the callback is asked only for encrypted keys"
    with pytest.raises(IdentityError, match="is encrypted; pass password="):
        Identity.from_pem(chain, key)
    with pytest.raises(IdentityError, match="wrong password"):
        Identity.from_pem(chain, key, password="wrong")
    with pytest.raises(TypeError, match="a password must be bytes or str, not int"):
        Identity.from_pem(chain, key, password=lambda: 5)  # type: ignore[arg-type,return-value]


def test_a_key_of_another_certificate_is_refused_with_both_named(pki: PKI) -> None:
    with pytest.raises(IdentityError) as caught:
        Identity.from_pem(pem_chain(pki.server), pem_key(pki.client))
    message = str(caught.value)
    assert "does not belong to the certificate" in message
    assert f"{pki.server.certificate.serial_number:x}" in message
    assert message.count("SHA-256") == 2
    assert "EC secp256r1" in message


def test_the_certificate_of_the_key_is_sent_first(pki: PKI) -> None:
    authority = pki.trust.certificates[0]
    made = Identity.from_objects(pki.server.key, authority, [pki.server.certificate])
    assert made.chain == (pki.server.certificate, authority)


@pytest.mark.parametrize("kind", ["rsa", "ec384", "ed25519", "ed448"])
def test_kinds_of_keys(pki: PKI, kind: str) -> None:
    make: dict[str, Any] = {
        "rsa": rsa_key,
        "ec384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
    }
    key = make[kind]()
    identity = pki.issue_raw("localhost", key=key)
    client, server = pki.pair(server={"identities": identity})
    shake(client, server)
    assert client.complete, client.error
    with pytest.raises(IdentityError, match="does not belong"):
        Identity.from_objects(key, pki.client.certificate)


def test_what_cannot_be_a_key(pki: PKI) -> None:
    with pytest.raises(IdentityError, match="must be RSA, EC, Ed25519 or Ed448"):
        Identity.from_objects(dsa.generate_private_key(2048), pki.server.certificate)
    with pytest.raises(IdentityError, match="must be RSA, EC"):
        Identity.from_objects("key.pem", pki.server.certificate)
    with pytest.raises(IdentityError, match="the chain is empty"):
        Identity(pki.server.key, ())
    with pytest.raises(TypeError, match="x509.Certificate objects, not bytes"):
        Identity(pki.server.key, (b"x",))  # type: ignore[arg-type]


def test_a_key_too_small_for_openssl(pki: PKI) -> None:
    weak = pki.issue_raw("localhost", key=rsa_key(1024))
    with pytest.raises(IdentityError, match="key too small"):
        ServerContext(identities=weak)
    assert ServerContext(identities=weak, security_level=0)


def test_unreadable_input(pki: PKI, tmp_path: Path) -> None:
    chain, key = pem_chain(pki.server), pem_key(pki.server)
    with pytest.raises(IdentityError, match="is a directory; name the file in it"):
        Identity.from_files(tmp_path)
    with pytest.raises(IdentityError, match="there is no file"):
        Identity.from_files(tmp_path / "nowhere.pem")
    with pytest.raises(IdentityError, match="cannot be read"):
        Identity.from_files("a\0b")
    with pytest.raises(TypeError, match="use from_pem"):
        Identity.from_files(chain)  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="use Identity.from_files"):
        Identity.from_pem("cert.pem", "key.pem")
    with pytest.raises(TypeError, match="use Identity.from_files"):
        Identity.from_pem(Path("cert.pem"))  # type: ignore[arg-type]
    with pytest.raises(IdentityError, match="holds no private key; pass the key as a second argument"):
        Identity.from_pem(chain)
    with pytest.raises(IdentityError, match="neither PEM"):
        Identity.from_pem(b"nonsense", key)
    with pytest.raises(IdentityError, match="a PEM block is damaged or missing"):
        Identity.from_pem(key, key)
    with pytest.raises(IdentityError, match="not a PKCS#8 or traditional key"):
        Identity.from_pem(chain, b"nonsense")
    (tmp_path / "chain.pem").write_bytes(chain)
    with pytest.raises(IdentityError, match="holds no private key"):
        Identity.from_files(tmp_path / "chain.pem")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="permissions do not bind root")
def test_no_permission(tmp_path: Path) -> None:  # pragma: no cover - depends on who runs the tests
    (tmp_path / "key.pem").touch(mode=0)
    with pytest.raises(IdentityError, match="no permission"):
        Identity.from_files(tmp_path / "key.pem")


def test_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(IdentityError, match="no permission for"):
        Identity.from_files(tmp_path / "key.pem")


def test_an_expired_certificate_is_logged(pki: PKI, caplog: pytest.LogCaptureFixture) -> None:
    pki.issue_raw("localhost", days=(-20, -10))
    assert "expired on" in caplog.text
    caplog.clear()
    pki.issue_raw("localhost")
    assert not caplog.records


def test_errors_survive_pickling() -> None:
    error = IdentityError("message", reason="because")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason) == ("message", "because")


def test_the_first_identity_serves_who_asks_for_nothing_known(pki: PKI) -> None:
    one, two, wild = pki.issue("one.example"), pki.issue("two.example"), pki.issue_raw("*.wild.example", "not-usable-*.x", "ba d")
    context = ServerContext(identities=[one, two, wild])
    for name, expected in (
        ("one.example", one),
        ("two.example", two),
        ("TWO.example", two),
        ("x.wild.example", wild),
        ("wild.example", one),
        ("unknown.example", one),
        ("127.0.0.1", one),
    ):
        client = Side(Connector(pki.client_context(verify_hostname=False), server_hostname=name))
        shake(client, Side(Connector(context)))
        assert client.connector.peer_certificate == expected.certificate, name


def test_unknown_names_can_be_refused(pki: PKI) -> None:
    context = ServerContext(identities=pki.issue("one.example"), unknown_name="refuse")
    client = Side(Connector(pki.client_context(), server_hostname="other.example"))
    server = Side(Connector(context))
    shake(client, server)
    assert client.error is not None
    assert "unrecognized_name" in str(client.error)
    assert "'other.example', which no certificate here is for" in str(server.error)


def test_the_client_gets_a_key_that_it_can_check(pki: PKI) -> None:
    """Of two certificates for one name, an RSA-only client gets the RSA one."""
    ecdsa, rsa = pki.issue_raw("localhost"), pki.issue_raw("localhost", key=rsa_key())
    context = ServerContext(identities=[ecdsa, rsa])
    for algorithms, expected in ((None, ecdsa), ("RSA-PSS+SHA256:RSA+SHA256", rsa), ("ECDSA+SHA256", ecdsa)):
        # The CA signs with ECDSA; a client without it could not check the chain.
        client = Side(Connector(pki.client_context(signature_algorithms=algorithms, verify_peer=False, trust=None)))
        server = Side(Connector(context))
        shake(client, server)
        assert client.connector.peer_certificate == expected.certificate, (algorithms, client.error, server.error)


def test_identities_are_reloaded_under_open_connections(pki: PKI) -> None:
    context = pki.server_context()
    client, server = Side(Connector(pki.client_context(), server_hostname="localhost")), Side(Connector(context))
    shake(client, server)
    session_client = Side(Connector(client.connector.context, server_hostname="localhost"))
    shake(session_client, other := Side(Connector(context)))
    other.connector.write(b"x")
    session_client.feed(other.connector.data_to_send())
    session = session_client.connector.session
    renewed = pki.issue("localhost")
    context.reload_identities(renewed)
    client.connector.write(b"still here")
    server.feed(client.connector.data_to_send())
    assert server.plaintext == b"still here"
    fresh = Side(Connector(pki.client_context(), server_hostname="localhost"))
    shake(fresh, Side(Connector(context)))
    assert fresh.connector.peer_certificate == renewed.certificate
    # Tickets live on.
    resumed = Side(Connector(client.connector.context, server_hostname="localhost", session=session))
    shake(resumed, Side(Connector(context)))
    assert resumed.connector.resumed
    with pytest.raises(IdentityError):
        context.reload_identities(pki.issue_raw("localhost", key=rsa_key(1024)))
    fresh = Side(Connector(pki.client_context(), server_hostname="localhost"))
    shake(fresh, Side(Connector(context)))
    assert fresh.connector.peer_certificate == renewed.certificate
