"""Streams on anyio, on both of its backends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio

from sslconnector import Connector
from sslconnector import anyio as tls

from .base import AsyncListener, AsyncWorld, causes, handshake_limit
from .loops import AsyncioWorld, TrioLoopWorld

__all__ = ["AnyioOnAsyncioWorld", "AnyioOnTrioWorld"]


_causes = partial(causes, anyio.BrokenResourceError, anyio.ClosedResourceError)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def connector(self) -> Connector | None:
        return self.stream.extra(tls.ConnectorAttribute.connector, None)  # type: ignore[no-any-return]

    async def recv(self) -> bytes:
        with _causes():
            try:
                return await self.stream.receive()  # type: ignore[no-any-return]
            except anyio.EndOfStream:
                return b""

    async def send(self, data: bytes) -> None:
        with _causes():
            await self.stream.send(data)

    async def close_write(self) -> None:
        with _causes():
            await self.stream.send_eof()

    async def close(self) -> None:
        with _causes():
            await self.stream.aclose()

    async def abort(self) -> None:
        await anyio.aclose_forcefully(self.stream)

    async def start_tls(self, context: Any, **options: Any) -> None:
        self.stream = await tls.TLSStream.wrap(self.stream, context, **handshake_limit(context, **options))


class _Anyio(AsyncWorld):
    close_tells_of_a_cut = False
    spawn: Callable[[Callable[[], Coroutine[Any, Any, Any]]], None]

    async def a_connect(self, port: int, ssl: Any = None, **options: Any) -> Any:
        stream = _Stream(await anyio.connect_tcp("127.0.0.1", port))
        if ssl is not None:
            await stream.start_tls(ssl, **options)
        return stream

    async def a_listen(self, listener: AsyncListener, ssl: Any = None, **options: Any) -> None:
        plain: Any = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=1000)
        served = plain if ssl is None else tls.TLSListener(plain, ssl, **handshake_limit(ssl, **options))
        done = anyio.Event()

        async def accept(stream: Any) -> None:
            listener.put(_Stream(stream))

        async def serve() -> None:
            async with plain, anyio.create_task_group() as group:
                group.start_soon(served.serve, accept)
                await done.wait()
                group.cancel_scope.cancel()

        async def end() -> None:
            done.set()

        self.spawn(serve)
        listener.port, listener.end = plain.extra(anyio.abc.SocketAttribute.local_port), end


class AnyioOnAsyncioWorld(_Anyio, AsyncioWorld):
    pass


class AnyioOnTrioWorld(_Anyio, TrioLoopWorld):
    pass
