"""From OpenSSL's words to errors that say who is to blame and what to do."""

from __future__ import annotations

from typing import Any

from cryptography import x509

from ..errors import (
    Alert,
    CallbackError,
    CertificateError,
    NegotiationError,
    PeerAlert,
    PeerMisbehaved,
    TLSError,
    alert_label,
)
from ..identity import describe_certificate
from .binding import OpenSSLError, ffi, lib
from .engine import Engine

__all__ = ["explain"]

_V = {name: getattr(lib, f"X509_V_ERR_{name}") for name in (
    "CERT_HAS_EXPIRED",
    "CERT_NOT_YET_VALID",
    "CERT_REVOKED",
    "CRL_HAS_EXPIRED",
    "DEPTH_ZERO_SELF_SIGNED_CERT",
    "HOSTNAME_MISMATCH",
    "INVALID_PURPOSE",
    "IP_ADDRESS_MISMATCH",
    "SELF_SIGNED_CERT_IN_CHAIN",
    "UNABLE_TO_GET_CRL",
    "UNABLE_TO_GET_ISSUER_CERT",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
)}  # fmt: skip

_UNTRUSTED = {
    _V["DEPTH_ZERO_SELF_SIGNED_CERT"],
    _V["SELF_SIGNED_CERT_IN_CHAIN"],
    _V["UNABLE_TO_GET_ISSUER_CERT"],
    _V["UNABLE_TO_GET_ISSUER_CERT_LOCALLY"],
    _V["UNABLE_TO_VERIFY_LEAF_SIGNATURE"],
}

_ADVICE = {
    _V["CERT_HAS_EXPIRED"]: "its owner must renew it (or this machine's clock is wrong)",
    _V["CERT_NOT_YET_VALID"]: "this machine's clock is wrong, or the certificate is for later",
    _V["CERT_REVOKED"]: "its issuer has withdrawn it: do not connect",
    _V["CRL_HAS_EXPIRED"]: "pass a current revocation list to the TrustStore",
    _V["UNABLE_TO_GET_CRL"]: "the TrustStore has revocation lists, but none of this certificate's issuer; add it",
    _V["INVALID_PURPOSE"]: "it was issued for another use (extendedKeyUsage); use one for this role",
}

_NOTHING_IN_COMMON = {
    "inappropriate fallback": "the peer fell back to an older version although both sides know a newer one",
    "no application protocol": "no application protocol in common; compare alpn_protocols on both sides",
    "no cipher match": "no cipher suite in common; compare ciphers and ciphersuites on both sides",
    "no ciphers available": "no cipher suite is left for these versions; look at ciphers, ciphersuites and security_level",
    "no protocols available": "no protocol version is left; look at minimum_version and maximum_version",
    "no shared cipher": "no cipher suite in common; compare ciphers, ciphersuites and the kind of the server's key on both sides",
    "no shared groups": "no key exchange group in common; compare groups on both sides",
    "no shared signature algorithms": "no signature algorithm in common; compare signature_algorithms and the keys on both sides",
    "no suitable groups": "no key exchange group in common; compare groups on both sides",
    "no suitable key share": "no key exchange group in common; compare groups on both sides",
    "no suitable signature algorithm": "no signature algorithm in common; compare signature_algorithms and the keys on both sides",
    "unsupported protocol": "no protocol version in common; compare minimum_version and maximum_version on both sides",
    "version too high": "no protocol version in common; compare minimum_version and maximum_version on both sides",
    "version too low": "no protocol version in common; compare minimum_version and maximum_version on both sides",
    "wrong ssl version": "no protocol version in common; compare minimum_version and maximum_version on both sides",
    "wrong version number": "no protocol version in common; compare minimum_version and maximum_version on both sides",
}

_ALERT_ADVICE = {
    Alert.BAD_CERTIFICATE: "it did not accept our certificate",
    Alert.CERTIFICATE_EXPIRED: "our certificate has expired; renew it",
    Alert.CERTIFICATE_REQUIRED: "it asks for a client certificate; pass ClientConfig(identity=...)",
    Alert.CERTIFICATE_REVOKED: "our certificate was withdrawn by its issuer",
    Alert.CERTIFICATE_UNKNOWN: "it did not accept our certificate",
    Alert.HANDSHAKE_FAILURE: "it found no acceptable parameters: compare versions, ciphers, groups and client certificates",
    Alert.INTERNAL_ERROR: "something failed on its side; its log may say more",
    Alert.NO_APPLICATION_PROTOCOL: "no application protocol in common; compare alpn_protocols on both sides",
    Alert.PROTOCOL_VERSION: "no protocol version in common; compare minimum_version and maximum_version on both sides",
    Alert.UNKNOWN_CA: "it does not trust the issuer of our certificate: does our chain lack an intermediate, or its trust store our CA?",
    Alert.UNRECOGNIZED_NAME: "it does not serve the name that was asked for",
    Alert.UNSUPPORTED_CERTIFICATE: "our certificate is of a kind or for a use that it does not accept",
}


def explain(engine: Engine, errors: list[OpenSSLError], peer: str, name: str | None) -> TLSError:
    """The error for an :class:`EngineFailure`.

    :param peer: what messages call the other side: "server" or "client".
    :param name: the host name that a client wanted, for messages.
    """
    # OpenSSL's last word is the one of its TLS layer; what stands before are the causes below it.
    tls = [error for error in errors if error.library == "SSL routines"]
    reason = (tls or errors)[-1].reason if errors else None
    fields: dict[str, Any] = {"reason": reason, "alert_sent": engine.alert_sent, "alert_received": engine.alert_received}
    if engine.callback_error is not None:
        error: TLSError = CallbackError(f"the application's callback raised {engine.callback_error!r}; the handshake was refused", **fields)
        error.__cause__, engine.callback_error = engine.callback_error, None
        return error
    if engine.verify_failure is not None:
        return _explain_certificate(engine, fields, peer, name)
    if engine.alert_received is not None:
        label = alert_label(engine.alert_received)
        advice = _ALERT_ADVICE.get(engine.alert_received)  # type: ignore[call-overload,unused-ignore]
        return PeerAlert(f"the {peer} ended the connection with the alert {label}" + (f": {advice}" if advice else ""), **fields)
    if reason == "peer did not return a certificate":
        return CertificateError("the client sent no certificate, though client_certificates='required' asks for one", **fields)
    if reason in _NOTHING_IN_COMMON:
        return NegotiationError(f"the {peer} and this side cannot agree: {_NOTHING_IN_COMMON[reason]} (OpenSSL: {reason})", **fields)
    sent = "" if engine.alert_sent is None else f"; it was told with the alert {alert_label(engine.alert_sent)}"
    return PeerMisbehaved(f"the {peer} broke the TLS protocol (OpenSSL: {reason or 'no reason given'}){sent}", **fields)


def _explain_certificate(engine: Engine, fields: dict[str, Any], peer: str, name: str | None) -> CertificateError:
    assert engine.verify_failure is not None
    code, depth, certificate, chain = engine.verify_failure
    which = "no certificate" if certificate is None else f"the certificate {describe_certificate(certificate)}"
    place = "its own" if depth == 0 else f"number {depth} of its chain"
    words = ""
    if code == 0:
        message = f"the verify hook refused the {peer}'s certificate: {which}"
    elif code in (_V["HOSTNAME_MISMATCH"], _V["IP_ADDRESS_MISMATCH"]):
        kind = "Hostname" if code == _V["HOSTNAME_MISMATCH"] else "IP address"
        words = f"{kind} mismatch, certificate is not valid for {name!r}."
        names = _names(certificate)
        message = (
            f"the {peer}'s certificate is not for {name!r}: {which} names {names}; connect under one of these names, or pass the right "
            "server_hostname"
        )
    else:
        words = ffi.string(lib.X509_verify_cert_error_string(code)).decode()
        advice = _ADVICE.get(code)
        if code in _UNTRUSTED:
            advice = (
                "if you know the CA that issued it, pass trust=TrustStore.from_file('ca.pem'); else the chain it sends may lack an "
                "intermediate"
            )
        message = f"the {peer}'s certificate is refused: {words} ({which}, {place})" + (f"; {advice}" if advice else "")
    return CertificateError(message, code=code, depth=depth, certificate=certificate, chain=chain, verify_message=words, **fields)


def _names(certificate: object) -> str:
    if not isinstance(certificate, x509.Certificate):
        return "nobody"
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return "nobody (it has no subjectAltName)"
    except Exception:  # as in describe_certificate: a message must not fail
        return "nobody (its names cannot be read)"
    names = [str(getattr(entry, "value", entry)) for entry in extension.value]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
