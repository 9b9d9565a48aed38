"""TLS for asyncio, on the stock loop and on uvloop: the loop's own ``create_connection`` and ``create_server`` with our contexts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import ConfigurationError
from ..session import Session
from .protocol import TLSProtocol
from .transport import TLSTransport

__all__ = ["TLSProtocol", "TLSTransport", "create_connection", "create_server"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


async def create_connection(
    protocol_factory: Callable[[], _Protocol],
    host: Any = None,
    port: Any = None,
    *,
    ssl: ClientContext,
    server_hostname: str | None = None,
    session: Session | None = None,
    **options: Any,
) -> tuple[TLSTransport, _Protocol]:
    """Connects and shakes hands; like ``loop.create_connection(..., ssl=...)``.

    :param ssl: the context; its ``Limits.handshake_timeout`` counts from the connected socket on.
    :param server_hostname: the name that the certificate must carry; ``host`` unless given.
    :param session: a session to resume.
    :param options: what else ``loop.create_connection`` takes (``sock``, ``family``, ``local_addr``, ...).
    :raises TLSError: when the handshake fails; the connection is closed then.
    :raises OSError: when there is no connection.
    """
    if not isinstance(ssl, ClientContext):
        raise TypeError(f"ssl must be a sslconnector.ClientContext, not {type(ssl).__name__}")
    loop = asyncio.get_running_loop()
    connector = Connector(ssl, server_hostname=server_hostname or host, session=session)
    done: asyncio.Future[None] = loop.create_future()

    def connected(error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    protocol = TLSProtocol(loop, connector, protocol_factory, connected)
    await loop.create_connection(lambda: protocol, host, port, **options)
    try:
        await done
    except asyncio.CancelledError:
        protocol.abort(None)
        raise
    assert protocol.transport is not None
    return protocol.transport, protocol.application  # type: ignore[return-value]


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Any = None,
    port: int | None = None,
    *,
    ssl: ServerContext,
    **options: Any,
) -> asyncio.Server:
    """Listens; like ``loop.create_server(..., ssl=...)``.

    ``protocol_factory`` is called when a handshake is complete; peers that never get there never reach the application.

    :param ssl: the context; its ``Limits.handshake_timeout`` counts from the accepted connection on.
    :param options: what else ``loop.create_server`` takes (``sock``, ``backlog``, ``reuse_port``, ...).
    :raises ConfigurationError: for a context with ``identity_on_demand``.
    """
    if not isinstance(ssl, ServerContext):
        raise TypeError(f"ssl must be a sslconnector.ServerContext, not {type(ssl).__name__}")
    if any(config.identity_on_demand for config in (ssl.config, *ssl.config.hosts.values())):
        raise ConfigurationError(
            "identity_on_demand needs an adapter that answers IdentityNeeded, and create_server() cannot yet; pass identities"
        )
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: TLSProtocol(loop, Connector(ssl), protocol_factory), host, port, **options)
