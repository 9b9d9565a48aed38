"""CPython's own tests of asyncio's TLS, run with our protocol in place of asyncio's.

Nothing of CPython is copied: the tests are those of the installed Python (``test.test_asyncio.test_ssl``). They build ``ssl.SSLContext``
objects and hand them to the event loop, which wraps them in ``asyncio.sslproto.SSLProtocol``; here that name is our
:class:`~sslconnector.asyncio.TLSProtocol`, given a context of ours that says the same. What an ``ssl.SSLContext`` was loaded with cannot
be asked of it afterwards, so its loading methods take notes.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import importlib
import io
import json
import ssl
import sys
import unittest
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from sslconnector import ClientContext, Connector, Identity, ServerContext, TrustStore
from sslconnector.asyncio import TLSProtocol, TLSTransport

from .outcomes import run_suite

__all__ = ["in_place", "run"]

_loaded: weakref.WeakKeyDictionary[ssl.SSLContext, dict[str, Any]] = weakref.WeakKeyDictionary()


@contextmanager
def in_place() -> Iterator[None]:
    """While it lasts, the stock event loop speaks TLS through us."""
    load_chain, load_trust = ssl.SSLContext.load_cert_chain, ssl.SSLContext.load_verify_locations

    def load_cert_chain(self: ssl.SSLContext, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        load_chain(self, certfile, keyfile, password)
        _loaded.setdefault(self, {})["identity"] = Identity.from_files(certfile, keyfile, password=password)

    def load_verify_locations(self: ssl.SSLContext, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        load_trust(self, cafile, capath, cadata)
        if cafile is not None:
            _loaded.setdefault(self, {})["trust"] = TrustStore.from_file(cafile)

    with (
        mock.patch.object(ssl.SSLContext, "load_cert_chain", load_cert_chain),
        mock.patch.object(ssl.SSLContext, "load_verify_locations", load_verify_locations),
        mock.patch.object(asyncio.sslproto, "SSLProtocol", SSLProtocol),
    ):
        yield


def _translate(context: ssl.SSLContext, server_side: bool) -> ClientContext | ServerContext:
    loaded = _loaded.get(context, {})
    if server_side:
        return ServerContext(identities=loaded["identity"])
    verify = context.verify_mode != ssl.CERT_NONE
    return ClientContext(
        trust=loaded.get("trust"), identity=loaded.get("identity"), verify_peer=verify, verify_hostname=verify and context.check_hostname
    )


class _Transport(TLSTransport):
    """Our transport with the two private names of asyncio's that the tests use."""

    @property
    def _ssl_protocol(self) -> TLSProtocol:
        return self._protocol

    def _test__append_write_backlog(self, data: bytes) -> None:
        self._connector.write(data)


class SSLProtocol(TLSProtocol):
    """Our protocol, made as the event loop makes asyncio's."""

    def __init__(
        self,
        loop: Any,
        app_protocol: Any,
        sslcontext: Any,
        waiter: Any,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        context = _translate(sslcontext, server_side)
        limits = context.config.limits.with_timeouts(handshake=ssl_handshake_timeout, shutdown=ssl_shutdown_timeout)
        # The tests ask whether the context they made is let go.
        context.made_from = sslcontext  # type: ignore[union-attr]
        connector = Connector(context, server_hostname=None if server_side else server_hostname or None, limits=limits)
        super().__init__(
            loop,
            connector,
            (lambda: app_protocol) if call_connection_made else None,
            waiter,
            application=None if call_connection_made else app_protocol,
        )
        # Asked for before there is a wire, and closed when the wait for the handshake ends otherwise.
        self.transport = _Transport(self)
        self._app_transport: TLSTransport | None = self.transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._app_transport = None


def run(*names: str) -> dict[str, str]:
    """Runs the tests (of ``names``, or all). Returns the text of what failed, by test; empty for what passed or was skipped.

    :raises ModuleNotFoundError: where a distribution leaves Python's own tests out.
    """
    from test import support  # type: ignore[import-not-found]

    # The tests' time-outs are meant for much slower machines; what hangs here shall not hang for minutes.
    support.SHORT_TIMEOUT, support.LONG_TIMEOUT = 15.0, 20.0
    with in_place():
        module = importlib.import_module("test.test_asyncio.test_ssl")
        loader = unittest.defaultTestLoader
        suite = loader.loadTestsFromNames([f"TestSSL.{name}" for name in names], module) if names else loader.loadTestsFromModule(module)
        return run_suite(suite)


if __name__ == "__main__":
    # What the tests' threads print of their own failures is told by the outcomes, too.
    with contextlib.redirect_stderr(io.StringIO()):
        found = run(*sys.argv[1:])
    json.dump(found, sys.stdout, indent=1)
