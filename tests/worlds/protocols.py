"""Transports and protocols on asyncio and uvloop."""

from __future__ import annotations

import asyncio
from typing import Any

from sslconnector import Connector
from sslconnector import asyncio as tls

from .base import AsyncListener
from .loops import AsyncioWorld
from .pushed import Pushed

__all__ = ["BufferedWorld", "ProtocolWorld"]


class _Application(Pushed, asyncio.Protocol):
    """It pauses reading while its data waits."""

    def __init__(self, listener: AsyncListener | None = None) -> None:
        super().__init__(asyncio.Event)
        self.listener = listener

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.listener is not None:
            self.listener.put(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading() or self.transport.is_closing()
        self.came(data)
        if len(self.data) > 65536:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.came_to_an_end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_lost(exc)

    def pause_writing(self) -> None:
        assert self.writable.is_set()
        self.writable.clear()

    def resume_writing(self) -> None:
        assert not self.writable.is_set()
        self.writable.set()

    # What AsyncStream and Pushed call.

    def connector(self) -> Connector | None:
        return self.transport.get_extra_info("connector")  # type: ignore[no-any-return]

    def resume(self) -> None:
        self.transport.resume_reading()

    def lose(self) -> None:
        self.transport.close()

    async def close_write(self) -> None:
        self.transport.write_eof()

    async def abort(self) -> None:
        self.transport.abort()

    async def start_tls(self, context: Any, **options: Any) -> None:
        self.transport = await tls.start_tls(self.transport, self, context, left_over=self.taken(), **options)


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

    async def a_listen(self, listener: AsyncListener, **options: Any) -> None:
        self.serve(listener, await tls.create_server(lambda: self.application(listener), "127.0.0.1", 0, backlog=1000, **options))


class BufferedWorld(ProtocolWorld):
    application = _Buffered
