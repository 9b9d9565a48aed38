"""Streams on trio."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from sslconnector import Connector
from sslconnector import trio as tls

from .base import AsyncListener, causes, handshake_limit
from .loops import TrioLoopWorld

__all__ = ["TrioWorld"]


_causes = partial(causes, trio.BrokenResourceError, trio.ClosedResourceError)


class _Stream:
    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def connector(self) -> Connector | None:
        return getattr(self.stream, "connector", None)

    async def recv(self) -> bytes:
        with _causes():
            return await self.stream.receive_some()  # type: ignore[no-any-return]

    async def send(self, data: bytes) -> None:
        with _causes():
            await self.stream.send_all(data)

    async def close_write(self) -> None:
        with _causes():
            await self.stream.send_eof()

    async def close(self) -> None:
        with _causes():
            await self.stream.aclose()

    async def abort(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def start_tls(self, context: Any, **options: Any) -> None:
        wrapped = tls.TLSStream(self.stream, context, **handshake_limit(context, **options))
        self.stream = wrapped
        try:
            with _causes():
                await wrapped.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(wrapped)
            raise


class TrioWorld(TrioLoopWorld):
    async def a_connect(self, port: int, ssl: Any = None, **options: Any) -> Any:
        stream = _Stream(await trio.open_tcp_stream("127.0.0.1", port))
        if ssl is not None:
            await stream.start_tls(ssl, **options)
        return stream

    async def a_listen(self, listener: AsyncListener, ssl: Any = None, **options: Any) -> None:
        async def accept(stream: Any) -> None:
            listener.put(_Stream(stream))
            # trio closes the stream when this returns.
            await trio.sleep_forever()

        scope = trio.CancelScope()

        async def serve(*, task_status: Any) -> None:
            where: Any = {"host": "127.0.0.1", "backlog": 1000, "handler_nursery": self.nursery, "task_status": task_status}
            with scope:
                if ssl is None:
                    await trio.serve_tcp(accept, 0, **where)
                else:
                    await tls.serve_tls_over_tcp(accept, 0, ssl, **where, **handshake_limit(ssl, **options))

        async def end() -> None:
            scope.cancel()

        listeners: Any = await self.nursery.start(serve)
        listener.port = getattr(listeners[0], "transport_listener", listeners[0]).socket.getsockname()[1]
        listener.end = end
