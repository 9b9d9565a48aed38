"""Sessions: to and from bytes, bound to what was believed."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslconnector import Connector, ServerContext, Session, SessionError

from .helpers import PKI, V12, V13, VERSIONS, Side, pump, shake


def _session(pki: PKI, context: Any = None, server: ServerContext | None = None, **options: Any) -> tuple[Session, Any, ServerContext]:
    context = context or pki.client_context(**options)
    server = server or pki.server_context()
    client, other = Side(Connector(context, server_hostname="localhost")), Side(Connector(server))
    shake(client, other)
    other.connector.write(b"x")
    pump(client, other)
    assert client.connector.session is not None
    return client.connector.session, context, server


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize("version", list(VERSIONS))
def test_resumption_from_bytes(pki: PKI, version: str) -> None:
    session, _, server = _session(pki, **VERSIONS[version])
    kept = session.to_bytes()
    again = Session.from_bytes(kept)
    assert again == session
    assert again.tls13 is (version == "TLSv1.3")
    assert "binding" not in repr(session)
    # Another context with the same beliefs.
    client = Side(Connector(pki.client_context(**VERSIONS[version]), server_hostname="LOCALHOST.", session=again))
    other = Side(Connector(server))
    shake(client, other)
    assert client.connector.resumed
    assert other.connector.resumed
    assert client.connector.peer_certificate == pki.server.certificate
    client.connector.write(b"over a resumed session")
    pump(client, other)
    assert other.plaintext == b"over a resumed session"


def test_bound_to_host_trust_and_identity(pki: PKI) -> None:
    session, context, _ = _session(pki)
    for make, name in (
        (lambda: context, "127.0.0.1"),
        (lambda: pki.client_context(trust=pki.other_trust), "localhost"),
        (lambda: pki.client_context(identity=pki.client), "localhost"),
        (lambda: pki.client_context(trust=None, verify_peer=False), "localhost"),
        (lambda: pki.client_context(verify_hostname=False), "localhost"),
        (lambda: pki.client_context(verify_hook=print), "localhost"),
    ):
        with pytest.raises(SessionError, match="leave it out"):
            Connector(make(), server_hostname=name, session=session)


def test_a_server_that_forgot_makes_a_full_handshake(pki: PKI) -> None:
    session, context, _ = _session(pki)
    client = Side(Connector(context, server_hostname="localhost", session=session))
    shake(client, Side(Connector(pki.server_context())))
    assert client.complete
    assert client.connector.resumed is False


@pytest.mark.parametrize("version", list(VERSIONS))
def test_tickets_can_be_switched_off(pki: PKI, version: str) -> None:
    server = pki.server_context(session_tickets=False)
    context = pki.client_context(**VERSIONS[version])
    client, other = Side(Connector(context, server_hostname="localhost")), Side(Connector(server))
    shake(client, other)
    other.connector.write(b"x")
    pump(client, other)
    session = client.connector.session
    if session is not None:
        client = Side(Connector(context, server_hostname="localhost", session=session))
        shake(client, Side(Connector(server)))
        assert client.connector.resumed is False


def test_a_session_of_another_version_does_no_harm(pki: PKI) -> None:
    for first, second in ((V12, V13), (V13, V12)):
        session, _, server = _session(pki, **first)
        try:
            connector = Connector(pki.client_context(**second), server_hostname="localhost", session=session)
        except SessionError:
            continue
        client = Side(connector)
        shake(client, Side(Connector(server)))
        assert client.complete, client.error
        assert not client.connector.resumed


def test_damaged_bytes(pki: PKI) -> None:
    session, context, _ = _session(pki)
    kept = session.to_bytes()
    for bad, words in (
        (b"", "no session of this version"),
        (b"garbage" * 20, "no session of this version"),
        (kept[:-1], "damaged"),
        (kept + b"x", "damaged"),
        (kept.replace(b"localhost", b"\xff" * 9, 1), "damaged"),
    ):
        with pytest.raises(SessionError, match=words):
            Session.from_bytes(bad)
    with pytest.raises(TypeError, match="not str"):
        Session.from_bytes("text")  # type: ignore[arg-type]
    wrong = Session(session.server_hostname, session.tls13, session.binding, b"nonsense")
    with pytest.raises(SessionError, match="OpenSSL does not take the session"):
        Connector(context, server_hostname="localhost", session=wrong)


@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bytes_are_refused_or_harmless(pki: PKI, position: float, bit: int) -> None:
    session, context, server = _session(pki)
    kept = bytearray(session.to_bytes())
    kept[int(position * len(kept))] ^= 1 << bit
    try:
        connector = Connector(context, server_hostname="localhost", session=Session.from_bytes(kept))
    except SessionError:
        return
    client = Side(connector)
    shake(client, Side(Connector(server)))
    client.eof()
    assert client.plaintext == b""


@pytest.mark.parametrize("version", list(VERSIONS))
def test_a_resumed_session_still_knows_the_peer(pki: PKI, version: str) -> None:
    context = pki.client_context(identity=pki.client, **VERSIONS[version])
    server = pki.server_context(client_certificates="required", trust=pki.trust)
    session, _, _ = _session(pki, context, server)
    client, other = Side(Connector(context, server_hostname="localhost", session=session)), Side(Connector(server))
    shake(client, other)
    assert other.connector.resumed
    assert other.connector.peer_certificate == pki.client.certificate
    assert client.connector.peer_chain == (pki.server.certificate,)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_worker_resumes_what_another_began(pki: PKI) -> None:
    session, context, server = _session(pki)
    pid = os.fork()
    if pid == 0:  # pragma: no cover - another process
        client, other = Side(Connector(context, server_hostname="localhost", session=session)), Side(Connector(server))
        shake(client, other)
        os._exit(0 if client.complete and other.connector.resumed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
