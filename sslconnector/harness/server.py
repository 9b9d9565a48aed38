"""The echo servers: the same service, written in each of the ways that the library offers."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from ..asyncio import StreamReader, StreamWriter, create_server, start_server
from ..context import ServerContext
from ..sync import TLSSocket, wrap_socket

__all__ = ["KINDS", "BufferedEcho", "EchoProtocol", "serve", "serve_sync", "stream_echo"]

#: The ways to write it; all but "sync" run on an event loop.
KINDS = ("protocol", "buffered", "streams", "sync")

_BACKLOG = 1024
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


class BufferedEcho(EchoProtocol, asyncio.BufferedProtocol):
    """The same, decrypted into one buffer for all connections: ``write`` takes what is in it before the next one is served."""

    buffer: ClassVar[memoryview] = memoryview(bytearray(65536))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.buffer[:nbytes])


async def stream_echo(reader: StreamReader, writer: StreamWriter) -> None:
    """The same for one connection, with streams."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        # The client is gone; it knows why.
        writer.transport.abort()


async def serve(context: ServerContext, host: str, port: int, ready: Callable[[str, int], None], kind: str = "protocol") -> None:
    """Serves on the running event loop until SIGINT or SIGTERM.

    :param ready: called with the address when connections are accepted.
    :param kind: one of ``KINDS``, but not "sync".
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # pragma: no cover - Windows, where Ctrl-C raises
            pass
    if kind == "streams":
        server = await start_server(stream_echo, host, port, ssl=context, backlog=_BACKLOG)
    else:
        protocol = {"protocol": EchoProtocol, "buffered": BufferedEcho}[kind]
        server = await create_server(protocol, host, port, ssl=context, backlog=_BACKLOG)
    try:
        address = server.sockets[0].getsockname()
        ready(address[0], address[1])
        await stop.wait()
    finally:
        server.close()


def serve_sync(context: ServerContext, host: str, port: int, ready: Callable[[str, int], None]) -> None:
    """Serves with blocking sockets, a thread for each connection, until SIGINT or SIGTERM. For the main thread."""
    stop = threading.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=_BACKLOG) as listener:
        for number in _SIGNALS:
            signal.signal(number, lambda *_: stop.set())
        threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
        address = listener.getsockname()
        ready(address[0], address[1])
        # In pieces: some systems let no signal through to an endless wait.
        while not stop.wait(1.0):
            pass


def _accept(listener: socket.socket, context: ServerContext) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(sock, context), daemon=True).start()


def _echo(sock: socket.socket, context: ServerContext) -> None:
    tls: TLSSocket | None = None
    try:
        with wrap_socket(sock, context) as tls:
            while data := tls.recv():
                tls.sendall(data)
    except OSError:
        # The client is gone, or never spoke TLS; it knows why.
        if tls is not None:
            tls.abort()
