"""Protocols and a server for the tests of the asyncio shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sslconnector.asyncio import TLSTransport, create_connection, create_server

from .helpers import PKI

__all__ = ["Echo", "Recorder", "Serving"]


class Recorder(asyncio.Protocol):
    """Keeps what it is called with."""

    def __init__(self, keep_open: bool = False) -> None:
        self.keep_open = keep_open
        self.data = bytearray()
        self.eof = asyncio.Event()
        self.got = asyncio.Event()
        self.made = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.transport: TLSTransport
        self.paused = 0
        self.resumed = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.got.set()

    def eof_received(self) -> bool:
        self.eof.set()
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1

    async def until(self, size: int) -> None:
        while len(self.data) < size:
            self.got.clear()
            await self.got.wait()


class Echo(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Serving:
    """A server whose protocols are kept."""

    def __init__(self, pki: PKI, factory: Callable[[], Recorder] = Echo, **options: Any) -> None:
        self.pki, self.factory, self.options = pki, factory, options
        self.protocols: list[Recorder] = []
        self.accepted = asyncio.Event()

    def make(self) -> Recorder:
        protocol = self.factory()
        self.protocols.append(protocol)
        self.accepted.set()
        return protocol

    async def __aenter__(self) -> Serving:
        self.server = await create_server(self.make, "127.0.0.1", 0, ssl=self.pki.server_context(**self.options))
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def connect(self, factory: Callable[[], Recorder] = Recorder, **options: Any) -> Recorder:
        context = self.pki.client_context(**options)
        _, protocol = await create_connection(factory, "127.0.0.1", self.port, ssl=context, server_hostname="localhost")
        return protocol
