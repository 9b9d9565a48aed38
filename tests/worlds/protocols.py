"""Transports and protocols on asyncio and uvloop."""

from __future__ import annotations

import asyncio
from typing import Any

from sslconnector import Connector
from sslconnector import asyncio as tls

from .base import AsyncioWorld, AsyncListener

__all__ = ["BufferedWorld", "ProtocolWorld"]

_HIGH = 65536


class _Application(asyncio.Protocol):
    """A protocol whose data waits until somebody asks for it; it pauses reading meanwhile."""

    def __init__(self, listener: AsyncListener | None = None) -> None:
        self.listener = listener
        self.transport: Any = None
        self.data = bytearray()
        self.ended = self.lost = False
        self.error: BaseException | None = None
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.listener is not None:
            self.listener.put(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading() or self.transport.is_closing()
        self.data += data
        if len(self.data) > _HIGH:
            self.transport.pause_reading()
        self.changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self.changed.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost
        self.lost, self.error = True, exc
        self.changed.set()
        self.writable.set()

    def pause_writing(self) -> None:
        assert self.writable.is_set()
        self.writable.clear()

    def resume_writing(self) -> None:
        assert not self.writable.is_set()
        self.writable.set()

    # What AsyncStream calls.

    def connector(self) -> Connector | None:
        return self.transport.get_extra_info("connector")  # type: ignore[no-any-return]

    async def recv(self) -> bytes:
        while not (self.data or self.ended or self.lost):
            self.changed.clear()
            await self.changed.wait()
        if not self.data and not self.ended and self.error is not None:
            raise self.error
        data = bytes(self.data)
        self.data.clear()
        self.transport.resume_reading()
        return data

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        await self.writable.wait()
        if self.lost:
            raise self.error or ConnectionResetError("lost")

    async def close_write(self) -> None:
        self.transport.write_eof()

    async def close(self) -> None:
        self.transport.close()
        while not self.lost:
            self.changed.clear()
            await self.changed.wait()
        if self.error is not None:
            raise self.error

    async def abort(self) -> None:
        self.transport.abort()

    async def start_tls(self, context: Any, **options: Any) -> None:
        left_over = bytes(self.data)
        self.data.clear()
        self.transport = await tls.start_tls(self.transport, self, context, left_over=left_over, **options)


class _Buffered(_Application, asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    buffer = bytearray(5000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        super().data_received(bytes(self.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        # In clear, uvloop takes what is both kinds of protocol for the other kind.
        assert not isinstance(self.transport, tls.TLSTransport), "a buffered protocol is decrypted into its buffer"
        super().data_received(data)


class ProtocolWorld(AsyncioWorld):
    application = _Application

    async def a_connect(self, port: int, **options: Any) -> Any:
        return (await tls.create_connection(self.application, "127.0.0.1", port, **options))[1]

    async def a_listen(self, listener: AsyncListener, **options: Any) -> asyncio.Server:
        return await tls.create_server(lambda: self.application(listener), "127.0.0.1", 0, backlog=1000, **options)


class BufferedWorld(ProtocolWorld):
    application = _Buffered
