"""Configurations: what they do, and what is said about those that cannot work."""

from __future__ import annotations

import copy
import pickle
import ssl
from pathlib import Path
from typing import Any

import pytest

from sslconnector import (
    Alert,
    ApiMisuse,
    CertificateError,
    ClientConfig,
    ClientContext,
    ConfigurationError,
    Connector,
    HandshakeInterrupted,
    HandshakeTimeout,
    Limits,
    NegotiationError,
    PeerAlert,
    ServerConfig,
    ServerContext,
    TLSVersion,
    TruncationError,
    TrustStore,
    keylog_from_environment,
)

from .helpers import PKI, V12, V13, Side, shake

pytestmark = pytest.mark.usefixtures("twin")


def _outcome(pki: PKI, client: dict[str, Any], server: dict[str, Any]) -> tuple[Side, Side]:
    sides = pki.pair(client=client, server=server)
    shake(*sides)
    return sides


def test_defaults_are_safe() -> None:
    config = ClientConfig()
    assert config.minimum_version is TLSVersion.TLSv1_2
    assert config.verify_peer
    assert config.verify_hostname
    assert config.keylog is None


def test_ciphers_groups_and_versions(pki: PKI) -> None:
    client, _ = _outcome(pki, {"ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305", **V12}, {})
    assert client.connector.cipher == "ECDHE-ECDSA-CHACHA20-POLY1305"
    client, _ = _outcome(pki, {}, {"ciphersuites": "TLS_AES_128_GCM_SHA256", "groups": "P-256"})
    assert (client.connector.cipher, client.connector.group) == ("TLS_AES_128_GCM_SHA256", "secp256r1")
    client, _ = _outcome(pki, {"groups": "X25519"}, {})
    assert client.connector.group == "x25519"
    # The server's order counts.
    client, _ = _outcome(
        pki,
        {"ciphersuites": "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"},
        {"ciphersuites": "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"},
    )
    assert client.connector.cipher == "TLS_CHACHA20_POLY1305_SHA256"


@pytest.mark.parametrize(
    ("client", "server", "words"),
    [
        (V12, V13, "minimum_version"),
        (V13, V12, "minimum_version"),
        ({"groups": "X25519"}, {"groups": "P-256"}, "groups"),
        ({"ciphersuites": "TLS_AES_128_GCM_SHA256", **V13}, {"ciphersuites": "TLS_AES_256_GCM_SHA384", **V13}, "ciphersuites"),
        ({"ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256", **V12}, {"ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384", **V12}, "ciphers"),
        ({"signature_algorithms": "RSA-PSS+SHA256", **V13}, {}, "signature_algorithms"),
        ({"alpn_protocols": ["a"]}, {"alpn_protocols": ["b"]}, "alpn_protocols"),
    ],
)
def test_nothing_in_common(pki: PKI, client: dict[str, Any], server: dict[str, Any], words: str) -> None:
    one, two = _outcome(pki, client, server)
    errors = [side.error for side in (one, two)]
    assert any(isinstance(error, NegotiationError) and words in str(error) for error in errors), errors
    assert any(isinstance(error, PeerAlert) for error in errors), errors


def test_alpn(pki: PKI) -> None:
    for client, server, expected in (
        (["a", "b"], ["b", "a"], "b"),
        (["a"], [], None),
        ([], ["a"], None),
        (["é"], ["é"], "é"),
    ):
        one, two = _outcome(pki, {"alpn_protocols": client}, {"alpn_protocols": server})
        assert one.connector.alpn_protocol == two.connector.alpn_protocol == expected
    one, two = _outcome(pki, {"alpn_protocols": ["a"]}, {"alpn_protocols": ["b"]})
    assert isinstance(one.error, PeerAlert)
    assert one.error.alert_received is Alert.NO_APPLICATION_PROTOCOL
    one, two = _outcome(pki, {"alpn_protocols": ["a"]}, {"alpn_protocols": ["b"], "alpn_mismatch": "ignore"})
    assert one.complete
    assert one.connector.alpn_protocol is None


def test_keylog(pki: PKI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    assert keylog_from_environment() is None
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    _outcome(pki, {}, {})
    assert not path.exists(), "the environment alone writes no secrets"
    lines: list[bytes] = []
    _outcome(pki, {"keylog": keylog_from_environment(), **V13}, {"keylog": lines.append, **V13})
    assert sorted(path.read_bytes().splitlines()) == sorted(lines)
    assert {line.split()[0] for line in lines} >= {b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"}
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigurationError, match="key log .* cannot be written"):
        ClientContext(trust=pki.trust, keylog=tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"minimum_version": 0x0301}, ConfigurationError, "minimum_version must be TLSVersion"),
        ({"minimum_version": TLSVersion.TLSv1_3, "maximum_version": TLSVersion.TLSv1_2}, ConfigurationError, "no version is left"),
        ({"ciphers": b"ALL"}, TypeError, "ciphers must be str"),
        ({"groups": ""}, ConfigurationError, "groups must be ASCII names"),
        ({"security_level": 9}, ConfigurationError, "from 0 to 5"),
        ({"security_level": True}, ConfigurationError, "from 0 to 5"),
        ({"verify_depth": -1}, ConfigurationError, "from 0 to 100"),
        ({"verify_hook": "no"}, TypeError, "must be callable"),
        ({"keylog": 5}, TypeError, "a path or a callable"),
        ({"limits": 5}, TypeError, "must be a Limits"),
        ({"alpn_protocols": "h2"}, TypeError, r"such as \['h2', 'http/1.1'\]"),
        ({"alpn_protocols": [b"h2"]}, TypeError, "must hold str, not bytes"),
        ({"alpn_protocols": [""]}, ConfigurationError, "1 to 255 bytes"),
        ({"alpn_protocols": ["a", "a"]}, ConfigurationError, "twice"),
        ({"alpn_protocols": [f"{n:0255}" for n in range(257)]}, ConfigurationError, "65,535"),
        ({"trust": "ca.pem"}, TypeError, r"see TrustStore.from_file\(\)"),
        ({"identity": "cert.pem"}, TypeError, r"see Identity.from_files\(\)"),
        ({"verify_peer": False, "verify_hook": print}, ConfigurationError, "never accept one"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_client_configs_that_cannot_work(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ClientConfig(**options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"identities": None}, ConfigurationError, "a server needs a certificate: pass identities="),
        ({"identities": []}, ConfigurationError, "a server needs a certificate"),
        ({"identities": ["cert.pem"]}, TypeError, r"see Identity.from_files\(\)"),
        ({"identity_on_demand": True}, ConfigurationError, "not both"),
        ({"unknown_name": "drop"}, ConfigurationError, "unknown_name must be one of 'first', 'refuse'"),
        ({"client_certificates": "yes"}, ConfigurationError, "client_certificates must be one of"),
        ({"client_certificates": "required"}, ConfigurationError, "needs trust="),
        ({"verify_hook": print}, ConfigurationError, "have no effect"),
        ({"trust": "x"}, TypeError, "must be a TrustStore"),
        ({"alpn_mismatch": "x"}, ConfigurationError, "alpn_mismatch must be one of"),
        ({"hosts": ["x"]}, TypeError, "a mapping from names"),
        ({"hosts": {5: None}}, TypeError, "must be names"),
        ({"hosts": {"x.example": 5}}, TypeError, "must be a ServerConfig"),
        ({"hosts": {"x y": "config"}}, ValueError, "not a host name"),
        ({"hosts": {"10.0.0.1": "config"}}, ValueError, "is an IP address"),
    ],
)
def test_server_configs_that_cannot_work(pki: PKI, options: dict[str, Any], error: type[Exception], words: str) -> None:
    options = {"identities": pki.server, **options}
    if isinstance(hosts := options.get("hosts"), dict):
        options["hosts"] = {name: ServerConfig(identities=pki.server) if value == "config" else value for name, value in hosts.items()}
    with pytest.raises(error, match=words):
        ServerConfig(**options)


def test_hosts_are_not_nested(pki: PKI) -> None:
    inner = ServerConfig(identities=pki.server, hosts={"a.example": ServerConfig(identities=pki.server)})
    with pytest.raises(ConfigurationError, match="names are looked up once"):
        ServerConfig(identities=pki.server, hosts={"b.example": inner})


def test_what_openssl_does_not_know_is_refused_when_the_context_is_made(pki: PKI) -> None:
    for options in (
        {"ciphers": "NOPE"},
        {"ciphersuites": "NOPE"},
        {"groups": "NOPE"},
        {"signature_algorithms": "NOPE"},
    ):
        with pytest.raises(ConfigurationError, match="NOPE"):
            pki.client_context(**options)
        with pytest.raises(ConfigurationError, match="NOPE"):
            pki.server_context(**options)


def test_contexts(pki: PKI) -> None:
    with pytest.raises(TypeError, match="not both"):
        ClientContext(ClientConfig(), trust=pki.trust)
    with pytest.raises(TypeError, match="must be a ClientConfig"):
        ClientContext(ServerConfig(identities=pki.server))  # type: ignore[arg-type]
    assert "NOT VERIFYING" in repr(ClientContext(verify_peer=False))
    assert repr(ClientContext(ClientConfig(trust=pki.trust))) == "<ClientContext verifying>"
    assert "hosts" in repr(pki.server_context())


def test_reload_wrong(pki: PKI) -> None:
    context = pki.server_context(hosts={"*.X.example": ServerConfig(identities=pki.server)})
    context.reload_identities([pki.server], host="*.x.example")
    with pytest.raises(ConfigurationError, match="there is no host 'y.example'; configured are: \\*.x.example"):
        context.reload_identities(pki.server, host="y.example")
    with pytest.raises(ConfigurationError, match="at least one identity"):
        context.reload_identities([])
    with pytest.raises(TypeError):
        context.reload_identities("cert.pem")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="nothing to reload"):
        ServerContext(identity_on_demand=True).reload_identities(pki.server)


def test_hosts_have_policies_of_their_own(pki: PKI) -> None:
    strict = ServerConfig(identities=pki.issue("strict.example"), client_certificates="required", trust=pki.trust, alpn_protocols=["s"])
    context = pki.server_context(identities=pki.issue("open.example"), hosts={"strict.example": strict, "*.wild.example": strict})
    for name, identity, good in (
        ("open.example", None, True),
        ("strict.example", None, False),
        ("STRICT.example.", None, False),
        ("a.wild.example", None, False),
        ("strict.example", pki.client, True),
        ("unknown.example", None, True),
    ):
        client = Side(Connector(pki.client_context(identity=identity, verify_hostname=False), server_hostname=name))
        server = Side(Connector(context))
        shake(client, server)
        assert server.complete is good, (name, server.error)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"handshake_timeout": 0}, ValueError, "more than 0"),
        ({"handshake_timeout": -1}, ValueError, "0 or more seconds"),
        ({"handshake_timeout": float("inf")}, ValueError, "finite"),
        ({"handshake_timeout": "10"}, TypeError, "number of seconds"),
        ({"useless_records": 0}, ValueError, "at least 1"),
        ({"useless_records": 1.5}, TypeError, "whole number"),
        ({"useless_records": True}, TypeError, "whole number"),
        ({"receive_buffer": 100}, ValueError, "one whole record"),
    ],
)
def test_limits_that_cannot_work(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Limits(**options)


def test_system_trust_is_the_default(pki: PKI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_bytes(pki.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert ClientContext().session_binding == ClientContext(trust=TrustStore.from_bytes(pki.ca_pem)).session_binding


def test_time_outs_as_adapters_take_them() -> None:
    limits = Limits(handshake_timeout=5.0)
    assert limits.with_timeouts() is limits
    changed = limits.with_timeouts(handshake=1, shutdown=2.5)
    assert (changed.handshake_timeout, changed.close_flush_timeout) == (1, 2.5)
    assert limits.with_timeouts(shutdown=2.5).handshake_timeout == 5.0
    for value in (0, -1, True, "1", float("inf")):
        with pytest.raises(ValueError, match="ssl_handshake_timeout should be a positive number of seconds"):
            limits.with_timeouts(handshake=value)  # type: ignore[arg-type]


def test_a_connection_with_limits_of_its_own(pki: PKI) -> None:
    connector = Connector(pki.client_context(), server_hostname="localhost", limits=Limits(handshake_timeout=1))
    assert connector.limits.handshake_timeout == 1
    assert connector.get_timer(10.0) == 11.0
    assert Connector(pki.server_context()).limits == Limits()
    with pytest.raises(TypeError, match="limits must be a Limits object, not float"):
        Connector(pki.server_context(), limits=1.0)  # type: ignore[arg-type]


def test_errors_of_the_peers_are_the_ssl_modules_too() -> None:
    error = CertificateError("refused", code=20, depth=1, reason="certificate verify failed")
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert isinstance(error, ssl.CertificateError)
    assert isinstance(error, ConnectionError)
    for again in (error, error.again(), pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(again) == "refused"
        assert isinstance(again, CertificateError)
        assert (again.verify_code, again.verify_message) == (20, "refused")
        assert (again.reason, again.library) == ("certificate verify failed", "SSL")
    assert isinstance(TruncationError("cut"), ssl.SSLEOFError)
    assert isinstance(TruncationError("cut"), ConnectionResetError)
    assert isinstance(HandshakeTimeout("late"), TimeoutError)
    assert isinstance(HandshakeTimeout("late"), ConnectionAbortedError)
    assert isinstance(HandshakeInterrupted("ended"), ConnectionResetError)
    assert str(TruncationError()) == ""
    # A program's own mistakes must not hide behind "except OSError" around its network calls.
    assert not issubclass(ApiMisuse, OSError)
    assert not issubclass(ConfigurationError, OSError)
