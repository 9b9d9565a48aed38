"""The echo server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from ..asyncio import create_server
from ..context import ServerContext

__all__ = ["EchoProtocol", "serve"]


class EchoProtocol(asyncio.Protocol):
    """Sends back what it gets; stops reading while the peer does not take it."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def serve(context: ServerContext, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    :param ready: called with the address when connections are accepted.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # pragma: no cover - Windows, where Ctrl-C raises
            pass
    server = await create_server(EchoProtocol, host, port, ssl=context, backlog=1024)
    try:
        address = server.sockets[0].getsockname()
        ready(address[0], address[1])
        await stop.wait()
    finally:
        server.close()
