"""Twisted's own tests of stream connections (mixins of the installed Twisted; nothing is copied) over our endpoints, on each reactor."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import unittest
from typing import Any

import trustme
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.test.connectionmixins import ConnectionTestsMixin, EndpointCreator
from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.internet.test.test_tcp import AbortConnectionMixin

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.twisted import TLSClientEndpoint, TLSServerEndpoint

from .outcomes import run_suite

_ca = trustme.CA()
_issued = _ca.issue_cert("localhost")
_chain = b"".join(blob.bytes() for blob in _issued.cert_chain_pems)
_server = ServerContext(identities=Identity.from_pem(_chain, _issued.private_key_pem.bytes()))
_client = ClientContext(trust=TrustStore.from_bytes(_ca.cert_pem.bytes()))


class _Creator(EndpointCreator):
    """Makes the endpoints that the mixins connect."""

    def server(self, reactor: Any) -> Any:
        return TLSServerEndpoint(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), _server, reactor=reactor)

    def client(self, reactor: Any, address: Any) -> Any:
        return TLSClientEndpoint(TCP4ClientEndpoint(reactor, "127.0.0.1", address.port), _client, "localhost", reactor=reactor)


class _Connection(ReactorBuilder, ConnectionTestsMixin):
    endpoints = _Creator()


class _Abort(ReactorBuilder, AbortConnectionMixin):
    endpoints = _Creator()
    #: The client aborts before its handshake is complete. Here connect() fails then, and says why; Twisted's has succeeded by that time,
    #: and the test waits for that. With bytes exchanged before, the same is tested, and passes.
    test_fullWriteBuffer = None  # type: ignore[assignment] # noqa: N815


def run() -> dict[str, str]:
    """Runs the tests. Returns the text of what failed, by test; empty for what passed or was skipped."""
    classes: dict[str, Any] = {**_Connection.makeTestCaseClasses(), **_Abort.makeTestCaseClasses()}
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    return run_suite(unittest.TestSuite(map(load, classes.values())))


if __name__ == "__main__":
    with contextlib.redirect_stderr(io.StringIO()):
        found = run()
    json.dump(found, sys.stdout, indent=1)
