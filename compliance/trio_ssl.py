"""trio's own tests of its TLS (``trio._tests.test_ssl`` of the installed trio; nothing is copied) on our layers; a plugin for pytest.

``OVER=context``: trio's ``SSLStream`` over our ``ssl`` look-alike. ``OVER=stream``: our ``TLSStream`` in the place of trio's, too.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

import trio
import trio._ssl

from sslconnector import Limits, stdlib
from sslconnector.ssl_object import SSLObject
from sslconnector.trio import TLSStream

ssl.SSLContext = stdlib.SSLContext  # type: ignore[misc]
ssl.create_default_context = stdlib.create_default_context  # type: ignore[assignment]


# The tests close streams hundreds of times whose transport takes nothing while nobody reads, and ours waits for that a while.
_LIMITS = Limits(close_flush_timeout=0.02)


class SSLStream(TLSStream):
    """Our stream, made as trio's is, with the names of the ``ssl`` module that trio's forwards."""

    def __init__(
        self,
        transport_stream: Any,
        ssl_context: stdlib.SSLContext,
        *,
        server_hostname: Any = None,
        server_side: bool = False,
        https_compatible: bool = False,
    ) -> None:
        context = ssl_context.server_context() if server_side else ssl_context.client_context()
        assert context is not None
        super().__init__(transport_stream, context, server_hostname=server_hostname, limits=_LIMITS)

    def __class_getitem__(cls, item: Any) -> Any:
        return cls

    def __getattr__(self, name: str) -> Any:
        return getattr(SSLObject(self.connector), name)


if os.environ.get("OVER") == "stream":
    trio.SSLStream = trio._ssl.SSLStream = SSLStream  # type: ignore[misc, assignment]
