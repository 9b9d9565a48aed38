"""Connecting, listening and upgrading: the event loop's own calls, with our contexts in ``ssl=``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..errors import ApiMisuse, HandshakeInterrupted
from ..records import looks_like_tls
from ..session import Session
from .protocol import IdentityProvider, TLSProtocol, Waiter
from .transport import TLSTransport
from .wire import SocketServer, has_sockets, take_over

__all__ = ["create_connection", "create_server", "create_unix_connection", "create_unix_server", "start_tls"]

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_Factory = Callable[[], asyncio.BaseProtocol]


async def create_connection(
    protocol_factory: Callable[[], _Protocol],
    host: Any = None,
    port: Any = None,
    *,
    ssl: ClientContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    session: Session | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connects and shakes hands; like the loop's ``create_connection``.

    :param ssl: the context; True for ``ClientContext()``. None or False connects in clear, as asyncio does.
    :param server_hostname: the name that the certificate must carry; ``host`` unless given.
    :param ssl_handshake_timeout: seconds for the handshake, from the connected socket on; None for ``Limits.handshake_timeout``.
    :param ssl_shutdown_timeout: seconds after ``close()`` without any byte being taken; None for ``Limits.close_flush_timeout``.
    :param session: a session to resume.
    :param options: what else the loop's call takes (``sock``, ``family``, ``local_addr``, ...).
    :returns: the transport (a :class:`TLSTransport`) and the protocol.
    :raises TLSError: when the handshake fails; the connection is closed then.
    :raises OSError: when there is no connection.
    """
    loop = asyncio.get_running_loop()
    if ssl is None or ssl is False:
        _refuse_without_tls(server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout, session)
        return await loop.create_connection(protocol_factory, host, port, **options)
    connector = _client(ssl, host if server_hostname is None else server_hostname, session, ssl_handshake_timeout, ssl_shutdown_timeout)
    return await _connect(connector, protocol_factory, lambda wire: loop.create_connection(wire, host, port, **options))


async def create_unix_connection(
    protocol_factory: Callable[[], _Protocol],
    path: Any = None,
    *,
    ssl: ClientContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    session: Session | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, _Protocol]:
    """Connects to a UNIX socket and shakes hands; like the loop's ``create_unix_connection``. Parameters as in :func:`create_connection`;
    a verifying client needs ``server_hostname``."""
    loop = asyncio.get_running_loop()
    if ssl is None or ssl is False:
        _refuse_without_tls(server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout, session)
        return await loop.create_unix_connection(protocol_factory, path, **options)
    connector = _client(ssl, server_hostname, session, ssl_handshake_timeout, ssl_shutdown_timeout)
    return await _connect(connector, protocol_factory, lambda wire: loop.create_unix_connection(wire, path, **options))


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Any = None,
    port: int | None = None,
    *,
    ssl: ServerContext | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    identity_provider: IdentityProvider | None = None,
    **options: Any,
) -> asyncio.Server:
    """Listens; like the loop's ``create_server``.

    ``protocol_factory`` is called when a handshake is complete; peers that never get there never reach the application.

    :param ssl: the context. None listens in clear, as asyncio does.
    :param ssl_handshake_timeout: seconds for a handshake, from the accepted connection on; None for ``Limits.handshake_timeout``.
    :param ssl_shutdown_timeout: seconds after ``close()`` without any byte being taken; None for ``Limits.close_flush_timeout``.
    :param identity_provider: for a context with ``identity_on_demand``: called with each connection's
        :class:`~sslconnector.IdentityNeeded`, gives an :class:`~sslconnector.Identity`, or an awaitable of one.
    :param options: what else the loop's call takes (``sock``, ``backlog``, ``reuse_port``, ...).
    :raises ConfigurationError: when the context needs an ``identity_provider`` and there is none.
    """
    loop = asyncio.get_running_loop()
    make_protocol = _accepting(protocol_factory, ssl, ssl_handshake_timeout, ssl_shutdown_timeout, identity_provider)
    return await _serve(protocol_factory, make_protocol, lambda factory, **more: loop.create_server(factory, host, port, **more), options)


async def create_unix_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    path: Any = None,
    *,
    ssl: ServerContext | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    identity_provider: IdentityProvider | None = None,
    **options: Any,
) -> asyncio.Server:
    """Listens on a UNIX socket; like the loop's ``create_unix_server``. Parameters as in :func:`create_server`."""
    loop = asyncio.get_running_loop()
    make_protocol = _accepting(protocol_factory, ssl, ssl_handshake_timeout, ssl_shutdown_timeout, identity_provider)
    return await _serve(protocol_factory, make_protocol, lambda factory, **more: loop.create_unix_server(factory, path, **more), options)


async def start_tls(
    transport: asyncio.BaseTransport,
    protocol: asyncio.BaseProtocol,
    sslcontext: ClientContext | ServerContext,
    *,
    server_side: bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    session: Session | None = None,
    identity_provider: IdentityProvider | None = None,
    left_over: bytes = b"",
) -> TLSTransport:
    """Goes on with TLS on a connection that is open already; like the loop's ``start_tls``.

    Works over any transport of the loop's, a :class:`TLSTransport` included (TLS in TLS), also while it is paused for writing: what was
    written before goes out first. From now on ``protocol`` uses the returned transport; it is not told ``connection_made`` again. When
    the handshake fails the connection is closed, and ``protocol`` is told ``connection_lost``.

    Bytes that the peer sent before its part of the upgrade and that the application did not take must not be taken for something that
    came over TLS (FAULTS F01). What is still in the wire is taken as ciphertext. Where ``protocol`` is a stream's (ours or asyncio's),
    what its reader holds is taken as ciphertext if it can be that, and otherwise the upgrade is refused and nothing has changed. A protocol
    of your own that holds such bytes passes them as ``left_over``.

    :param sslcontext: a client's or a server's; it says which side this is.
    :param server_side: as in asyncio; may be left out.
    :param server_hostname: for clients: the name that the certificate must carry.
    :param left_over: ciphertext that ``protocol`` has got already.
    :raises ApiMisuse: when the stream's reader holds bytes that are not TLS; nothing has changed.
    :raises TLSError: when the handshake fails.
    """
    if not isinstance(sslcontext, ClientContext | ServerContext):
        raise TypeError(f"sslcontext must be a sslconnector.ClientContext or ServerContext, not {type(sslcontext).__name__}")
    if not callable(getattr(transport, "set_protocol", None)) or not callable(getattr(transport, "pause_reading", None)):
        raise TypeError(f"transport must be an asyncio.Transport, not {type(transport).__name__}")
    if not isinstance(left_over, bytes):
        raise TypeError(f"left_over must be bytes, not {type(left_over).__name__}")
    is_server = isinstance(sslcontext, ServerContext)
    if server_side is not None and server_side is not is_server:
        raise ValueError(f"server_side={server_side!r} does not go with a {type(sslcontext).__name__}; it may be left out")
    wire: Any = transport
    if wire.is_closing():
        raise HandshakeInterrupted("the connection is closing or closed; it cannot go on with TLS")
    loop = asyncio.get_running_loop()
    limits = sslcontext.config.limits.with_timeouts(handshake=ssl_handshake_timeout, shutdown=ssl_shutdown_timeout)
    if isinstance(sslcontext, ServerContext):
        sslcontext.check_identity_provider(identity_provider)
    connector = Connector(sslcontext, server_hostname=server_hostname or None, session=session, limits=limits)
    left_over += _take_unread(protocol)
    waiter: Waiter = loop.create_future()
    tls = TLSProtocol(loop, connector, None, waiter, application=protocol, left_over=left_over, identity_provider=identity_provider)

    async def upgrade() -> None:
        # Paused first, so that nothing comes for the new protocol before it is connected.
        wire.pause_reading()
        wire.set_protocol(tls)
        tls.connection_made(wire)

    return (await _finish(tls, waiter, upgrade()))[0]


# -- parts of the above ------------------------------------------------------------------------------------------------------------


def _client(
    context: ClientContext | bool, name: Any, session: Session | None, handshake: float | None, shutdown: float | None
) -> Connector:
    if context is True:
        context = ClientContext()
    if not isinstance(context, ClientContext):
        hint = "; create_server() takes those" if isinstance(context, ServerContext) else ""
        raise TypeError(f"ssl must be a sslconnector.ClientContext, not {type(context).__name__}{hint}")
    limits = context.config.limits.with_timeouts(handshake=handshake, shutdown=shutdown)
    return Connector(context, server_hostname=name or None, session=session, limits=limits)


def _refuse_without_tls(name: str | None, handshake: float | None, shutdown: float | None, session: Session | None) -> None:
    for argument, value in (
        ("server_hostname", name),
        ("ssl_handshake_timeout", handshake),
        ("ssl_shutdown_timeout", shutdown),
        ("session", session),
    ):
        if value is not None:
            raise ValueError(f"{argument} is only meaningful with ssl")


def _accepting(
    protocol_factory: _Factory,
    context: ServerContext | None,
    handshake: float | None,
    shutdown: float | None,
    identity_provider: IdentityProvider | None,
) -> Callable[[], TLSProtocol] | None:
    """Makes a wire's protocol for each accepted connection; None without TLS."""
    if context is None:
        _refuse_without_tls(None, handshake, shutdown, None)
        return None
    if not isinstance(context, ServerContext):
        hint = "; create_connection() takes those" if isinstance(context, ClientContext) else ""
        raise TypeError(f"ssl must be a sslconnector.ServerContext, not {type(context).__name__}{hint}")
    context.check_identity_provider(identity_provider)
    limits = context.config.limits.with_timeouts(handshake=handshake, shutdown=shutdown)
    loop = asyncio.get_running_loop()
    return lambda: TLSProtocol(loop, Connector(context, limits=limits), protocol_factory, identity_provider=identity_provider)


async def _connect(
    connector: Connector, protocol_factory: Callable[[], _Protocol], connect: Callable[[Callable[[], asyncio.BaseProtocol]], Awaitable[Any]]
) -> tuple[TLSTransport, _Protocol]:
    loop = asyncio.get_running_loop()
    waiter: Waiter = loop.create_future()
    tls = TLSProtocol(loop, connector, protocol_factory, waiter)
    return await _finish(tls, waiter, connect(lambda: take_over(loop, tls)))


async def _serve(
    protocol_factory: _Factory,
    make_protocol: Callable[[], TLSProtocol] | None,
    listen: Callable[..., Awaitable[asyncio.Server]],
    options: dict[str, Any],
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if make_protocol is None or not has_sockets(loop):
        return await listen(make_protocol or protocol_factory, **options)
    serving = options.pop("start_serving", True)
    # The loop looks up, checks, binds and cleans up; it never listens.
    below = await listen(asyncio.Protocol, start_serving=False, **options)
    server = SocketServer(loop, below, make_protocol, options.get("backlog", 100))
    if serving:
        await server.start_serving()
    return server


async def _finish(tls: TLSProtocol, waiter: Waiter, connecting: Awaitable[Any]) -> tuple[TLSTransport, Any]:
    """Waits for the wire and the handshake. Whatever ends the waiting otherwise ends the connection."""
    try:
        await connecting
        return await waiter
    except BaseException:
        if not waiter.cancel() and not waiter.cancelled():
            waiter.exception()  # may not have been seen: no complaint about that
        tls.abort(None)
        raise
    finally:
        # The future holds the error and the error's traceback holds this frame: no cycle may be left (FAULTS F28).
        del waiter


def _take_unread(protocol: asyncio.BaseProtocol) -> bytes:
    """What a stream's reader holds, if it can be TLS: it becomes ciphertext, and the reader is empty (FAULTS F01)."""
    buffer: bytearray | None = getattr(getattr(protocol, "_stream_reader", None), "_buffer", None)
    if not buffer:
        return b""
    if not looks_like_tls(bytes(buffer[:5])):
        raise ApiMisuse(
            f"the stream's reader holds {len(buffer)} bytes in clear that nobody has read ({bytes(buffer[:16])!r}...): they would be taken "
            "for bytes that came over TLS; read them first, or close the connection"
        )
    data = bytes(buffer)
    buffer.clear()
    return data
