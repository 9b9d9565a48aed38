"""CPython's tests of ``ssl`` and of asyncio's TLS, trio's of its TLS, Twisted's of connections, on our layers: all pass but for pinned
lists, each entry with its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from .outcomes import ROOT, outcomes_of

_NO_UNIQUE = "tls-unique is undefined on TLS 1.3 and broken on 1.2 (FAULTS F06); there is tls-exporter"
_NO_DH = "parameters for DHE are not offered; there is ECDHE"
_NO_RENEGOTIATION = "renegotiation is always off (FAULTS F07)"
_OUR_SESSION = "sessions are sslconnector.Session: they can be saved, and have no id or time"
_NO_CN = "a name in a certificate's subject is never checked (RFC 9525)"
_NO_PSK = "pre-shared keys are not offered yet"
_NO_MSG = "_msg_callback is a private aid for debugging OpenSSL"

CPYTHON = {
    "ContextTests.test_hostname_checks_common_name": _NO_CN,
    "ContextTests.test_load_dh_params": _NO_DH,
    "ContextTests.test_min_max_version": "nothing below TLS 1.2 is offered (RFC 8996)",
    "ContextTests.test_num_tickest": "pyOpenSSL's binding cannot choose the number of tickets",
    "ContextTests.test_session_stats": "servers keep no sessions, tickets are stateless",
    "ContextTests.test_verify_flags": "proxy certificates are not offered",
    "SSLErrorTests.test_lib_reason": _NO_DH,
    "SimpleBackgroundTests.test_get_ca_certs_capath": "a folder is read at once, not when a certificate of it is needed",
    "ThreadedTests.test_dh_params": _NO_DH,
    "ThreadedTests.test_hostname_checks_common_name": _NO_CN,
    "ThreadedTests.test_session": _OUR_SESSION,
    "ThreadedTests.test_session_handling": _OUR_SESSION,
    "ThreadedTests.test_tls_unique_channel_binding": _NO_UNIQUE,
    "TestPostHandshakeAuth.test_internal_chain_client": "private: certificates are no objects of the private module _ssl",
    "TestPostHandshakeAuth.test_pha_required_nocert": _NO_MSG,
}

#: What newer versions do not ask for on TLS 1.3 any more.
CPYTHON_BEFORE = {(3, 13): {"SimpleBackgroundTests.test_bio_handshake": _NO_UNIQUE}}
#: What newer versions test, too.
CPYTHON_SINCE = {
    (3, 12): {
        "ThreadedTests.test_legacy_server_connect": "OP_LEGACY_SERVER_CONNECT would let a server renegotiate insecurely (FAULTS F07)"
    },
    (3, 13): {"ThreadedTests.test_psk": _NO_PSK, "ThreadedTests.test_psk_tls1_3": _NO_PSK},
}

_ONE_LETTER = "OpenSSL 4.0 takes no host name of one letter, which the test uses"
_PRIVATE = "private: names of the ssl module's objects, or of trio's stream, that our stream does not forward"
_HTTPS = "https_compatible hides a cut; ours always tells (FAULTS F05)"

#: trio's stream over our context.
TRIO_CONTEXT = {
    "test_renegotiation_simple": _NO_RENEGOTIATION,
    "test_get_channel_binding_after_handshake": _NO_UNIQUE,
    "test_wait_writable_calls_underlying_wait_writable": _ONE_LETTER,
}

#: Our stream in the place of trio's.
TRIO_STREAM = {
    "test_renegotiation_simple": _NO_RENEGOTIATION,
    "test_wait_writable_calls_underlying_wait_writable": _ONE_LETTER,
    "test_attributes": _PRIVATE,
    "test_selected_alpn_protocol_before_handshake": _PRIVATE,
    "test_selected_alpn_protocol_when_not_set": _PRIVATE,
    "test_selected_npn_protocol_before_handshake": _PRIVATE,
    "test_selected_npn_protocol_when_not_set": _PRIVATE,
    "test_get_channel_binding_before_handshake": _PRIVATE,
    "test_get_channel_binding_after_handshake": _NO_UNIQUE,
    "test_SSLListener": _PRIVATE,
    "test_ssl_bad_shutdown_but_its_ok": _HTTPS,
    "test_ssl_https_compatibility_disagreement": _HTTPS,
    "test_https_mode_eof_before_handshake": _HTTPS,
    "test_server_hostname_is_idna_2008": "a name that old and new IDNA map differently is refused, not guessed",
    "test_closing_nice_case": "aclose() before the handshake gives up; trio's shakes hands first, as long as the peer likes",
    "test_ssl_handshake_failure_during_aclose": "aclose() before the handshake gives up; trio's shakes hands first",
}
#: test_checkpoints closes without reading the server's last flight, which then meets a closed pipe or does not; the others depend on
#: whether the interpreter's ssl has what they ask for.
SOMETIMES = {"test_checkpoints", "test_selected_alpn_protocol_when_not_set", "test_get_channel_binding_after_handshake"}


def _check(run: Callable[[], dict[str, str]], pinned: dict[str, str], least: int) -> None:
    """What failed is what is pinned. Foreign tests have time-outs of their own, and the machine may be busy: so it takes two times."""
    for again in (True, False):
        outcomes = run()
        assert len(outcomes) > least
        failed = {name for name, text in outcomes.items() if text}
        unknown, gone = failed - pinned.keys() - SOMETIMES, pinned.keys() - SOMETIMES - failed
        if not unknown and not gone:
            return
        if again:
            continue
        assert not unknown, "\n".join(f"{name}:\n{outcomes[name]}" for name in sorted(unknown))
        assert not gone, "pinned, but they pass"


def test_cpythons_tests_of_ssl() -> None:
    pinned = dict(CPYTHON)
    for version, pins in CPYTHON_BEFORE.items():
        pinned |= pins if sys.version_info < version else {}
    for version, pins in CPYTHON_SINCE.items():
        pinned |= pins if sys.version_info >= version else {}
    _check(lambda: outcomes_of("cpython_ssl", "test.test_ssl", "test.test_ssl"), pinned, 100)


@pytest.mark.parametrize("module", ["test.test_asyncio.test_ssl", "test.test_asyncio.test_sslproto"])
def test_asyncios_tests_over_our_context(module: str) -> None:
    _check(lambda: outcomes_of("cpython_ssl", module, module), {}, 20)


def test_twisteds_tests_of_connections() -> None:
    _check(lambda: outcomes_of("twisted_tls", "twisted.internet.test.test_tcp"), {}, 60)


@pytest.mark.parametrize("over", ["context", "stream"])
def test_trios_tests_of_its_tls(over: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    plugins = ["-p", "trio._tests.pytest_plugin", "-p", "compliance.trio_ssl", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(tmp_path), *plugins, "--timeout", "30", "-q"]
    command += ["--junitxml", str(report), "--pyargs", "trio._tests.test_ssl"]

    def run() -> dict[str, str]:
        environment = {**os.environ, "OVER": over}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
        assert report.exists(), done.stdout + done.stderr
        outcomes: dict[str, str] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = re.sub(r"\[.*", "", case.attrib["name"])
            text = "".join((problem.text or "problem") for problem in case if problem.tag in ("failure", "error"))
            outcomes[name] = outcomes.get(name, "") or text
        return outcomes

    _check(run, TRIO_CONTEXT if over == "context" else TRIO_STREAM, 25)
