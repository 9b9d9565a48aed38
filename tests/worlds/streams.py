"""Streams on asyncio and uvloop."""

from __future__ import annotations

from typing import Any

from sslconnector import Connector
from sslconnector import asyncio as tls

from .base import AsyncListener
from .loops import AsyncioWorld

__all__ = ["StreamWorld"]


class _Pair:
    def __init__(self, reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def connector(self) -> Connector | None:
        return self.writer.get_extra_info("connector")  # type: ignore[no-any-return]

    async def recv(self) -> bytes:
        return await self.reader.read(65536)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close_write(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def abort(self) -> None:
        self.writer.transport.abort()

    async def start_tls(self, context: Any, **options: Any) -> None:
        await self.writer.start_tls(context, **options)


class StreamWorld(AsyncioWorld):
    async def a_connect(self, port: int, **options: Any) -> Any:
        return _Pair(*await tls.open_connection("127.0.0.1", port, **options))

    async def a_listen(self, listener: AsyncListener, **options: Any) -> None:
        self.serve(listener, await tls.start_server(lambda *pair: listener.put(_Pair(*pair)), "127.0.0.1", 0, backlog=1000, **options))
