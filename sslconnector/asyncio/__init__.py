"""TLS for asyncio, on the stock loop and on uvloop: asyncio's own calls and streams, with our contexts."""

from .connections import create_connection, create_server, create_unix_connection, create_unix_server, start_tls
from .protocol import IdentityProvider, TLSProtocol
from .streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from .transport import TLSTransport

__all__ = [
    "IdentityProvider",
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "TLSProtocol",
    "TLSTransport",
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_tls",
    "start_unix_server",
]
