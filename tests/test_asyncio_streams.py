"""Our stream classes: what asyncio's do, and what those lose."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sslconnector import CertificateError, PeerAlert, TruncationError
from sslconnector import asyncio as tls

from .helpers import PKI

Handler = Callable[[tls.StreamReader, tls.StreamWriter], Awaitable[None]]


class Serving:
    """A stream server; the block gets a connected reader and writer."""

    def __init__(self, pki: PKI, handler: Handler, **options: Any) -> None:
        self.pki, self.handler, self.options = pki, handler, options

    async def __aenter__(self) -> tuple[tls.StreamReader, tls.StreamWriter]:
        self.server = await tls.start_server(self.handler, "127.0.0.1", 0, ssl=self.pki.server_context())
        port = self.server.sockets[0].getsockname()[1]
        self.reader, self.writer = await tls.open_connection(
            "127.0.0.1", port, ssl=self.pki.client_context(), server_hostname="localhost", **self.options
        )
        return self.reader, self.writer

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
        self.server.close()


async def cut(reader: tls.StreamReader, writer: tls.StreamWriter, data: bytes) -> None:
    """Sends the data and then ends the wire without close_notify, as somebody in between would."""
    writer.write(data)
    await writer.drain()
    transport: Any = writer.transport
    transport.wire.write_eof()
    try:
        await reader.read()
    except ConnectionError:
        pass
    writer.transport.abort()


def test_they_are_asyncios(pki: PKI, run: Any) -> None:
    async def handler(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
        async for line in reader:
            writer.writelines([b"> ", line])
        writer.write_eof()
        writer.close()

    async def main() -> None:
        async with Serving(pki, handler) as (reader, writer):
            assert isinstance(reader, asyncio.StreamReader)
            assert isinstance(writer, asyncio.StreamWriter)
            assert writer.can_write_eof()
            writer.write(b"one\ntwo\nthree")
            assert await reader.readline() == b"> one\n"
            assert await reader.readuntil(b"o\n") == b"> two\n"
            writer.write_eof()
            assert await reader.readexactly(3) == b"> t"
            assert not reader.at_eof()
            assert await reader.read() == b"hree"
            assert reader.at_eof()
            assert await reader.read() == await reader.read(10) == await reader.readline() == b""
            with pytest.raises(asyncio.IncompleteReadError):
                await reader.readexactly(1)
            assert reader.exception() is None
            assert writer.get_extra_info("peercert")

    run(main)


@pytest.mark.parametrize("how", ["read", "readexactly", "readuntil", "readline", "iterate", "read all"])
def test_F05_a_cut_is_raised_by_every_kind_of_read_after_the_data(pki: PKI, run: Any, how: str) -> None:
    async def handler(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
        await cut(reader, writer, b"line\nhalf")

    async def main() -> None:
        async with Serving(pki, handler) as (reader, writer):
            assert await reader.readline() == b"line\n"
            reads: dict[str, Callable[[], Awaitable[Any]]] = {
                "read": lambda: reader.read(100),
                "readexactly": lambda: reader.readexactly(100),
                "readuntil": lambda: reader.readuntil(b"\n"),
                "readline": reader.readline,
                "iterate": lambda: anext(reader),
                "read all": reader.read,
            }
            if how == "read":
                assert await reader.read(100) == b"half"
            for _ in range(2):
                with pytest.raises(TruncationError):
                    await reads[how]()
            if how != "read":
                # What had come is still there for who wants it.
                assert not reader.at_eof()
                assert await reader.read(100) == b"half"
            with pytest.raises(TruncationError):
                await reader.read(100)
            assert not reader.at_eof(), "a loop until at_eof() must not take a cut for an end"
            assert isinstance(reader.exception(), TruncationError)
            with pytest.raises(TruncationError):
                await writer.drain()
            with pytest.raises(TruncationError):
                await writer.wait_closed()

    run(main)


def test_an_error_after_the_peers_end_does_not_spoil_the_end(pki: PKI, run: Any) -> None:
    """The peer closes in the orderly way and resets then: what it said was whole."""

    async def handler(_: tls.StreamReader, writer: tls.StreamWriter) -> None:
        writer.write(b"whole")
        writer.write_eof()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async def main() -> None:
        async with Serving(pki, handler) as (reader, writer):
            assert await reader.read() == b"whole"
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(bytes(100_000))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            assert await reader.read() == b""
            assert reader.at_eof()

    run(main)


def test_a_cancelled_read_of_everything_loses_nothing(pki: PKI, run: Any) -> None:
    async def handler(_: tls.StreamReader, writer: tls.StreamWriter) -> None:
        for number in range(20):
            writer.write(bytes([number]) * 20_000)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    async def main() -> None:
        async with Serving(pki, handler) as (reader, _):
            data = None
            cancelled = 0
            while data is None:
                try:
                    data = await asyncio.wait_for(reader.read(), 0.03)
                except TimeoutError:
                    cancelled += 1
            assert data == b"".join(bytes([number]) * 20_000 for number in range(20))
            assert cancelled > 1

    run(main)


def test_a_cancelled_wait_closed_ends_nobody_elses(pki: PKI, run: Any) -> None:
    async def handler(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
        await reader.read()
        await asyncio.sleep(0.1)
        writer.close()

    async def main() -> None:
        async with Serving(pki, handler) as (_, writer):
            writer.write_eof()
            writer.close()
            first = asyncio.ensure_future(writer.wait_closed())
            second = asyncio.ensure_future(writer.wait_closed())
            await asyncio.sleep(0)
            first.cancel()
            await second
            await writer.wait_closed()

    run(main)


def test_a_handler_that_raises_gives_the_connection_up(pki: PKI, run: Any) -> None:
    """Half an answer must not look like a whole one."""

    async def handler(_: tls.StreamReader, writer: tls.StreamWriter) -> None:
        writer.write(b"half of the answ")
        await asyncio.sleep(0.05)
        raise ZeroDivisionError

    async def main() -> None:
        async with Serving(pki, handler) as (reader, _):
            assert await reader.readexactly(16) == b"half of the answ"
            with pytest.raises((TruncationError, PeerAlert)):
                await reader.read()

    main.problem_count = 1  # type: ignore[attr-defined]
    run(main)


def test_a_plain_function_as_handler(pki: PKI, run: Any) -> None:
    kept: list[Any] = []

    async def main() -> None:
        def handler(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
            kept.append((reader, writer))
            writer.write(b"hello")
            writer.close()

        async with Serving(pki, handler) as (reader, _):  # type: ignore[arg-type]
            assert await reader.read() == b"hello"
        with pytest.raises(TypeError, match="client_connected_cb must be callable"):
            await tls.start_server(None, "127.0.0.1", 0)  # type: ignore[arg-type]
        kept.clear()

    run(main)


def test_a_refused_certificate(pki: PKI, run: Any) -> None:
    async def handler(_: tls.StreamReader, __: tls.StreamWriter) -> None:
        raise AssertionError("nobody gets here")

    async def main() -> None:
        server = await tls.start_server(handler, "127.0.0.1", 0, ssl=pki.server_context())
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CertificateError):
            await tls.open_connection("127.0.0.1", port, ssl=pki.client_context(trust=pki.other_trust), server_hostname="localhost")
        server.close()

    run(main)


def test_the_readers_limit_holds_the_peer_back(pki: PKI, run: Any) -> None:
    written = 0

    async def handler(_: tls.StreamReader, writer: tls.StreamWriter) -> None:
        nonlocal written
        while written < 30_000_000:
            writer.write(bytes(100_000))
            written += 100_000
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with Serving(pki, handler, limit=10_000) as (reader, _):
            await asyncio.sleep(0.2)
            assert written < 20_000_000
            assert len(reader._buffer) < 20_000 + 72_000
            total = 0
            while data := await reader.read(50_000):
                total += len(data)
            assert total == written == 30_000_000
            with pytest.raises(asyncio.IncompleteReadError):
                await reader.readexactly(1)

    run(main)


def test_a_forgotten_reader_is_told_like_asyncios(pki: PKI, run: Any) -> None:
    """The writer closes the connection when it is garbage; nothing stays alive."""

    async def handler(reader: tls.StreamReader, writer: tls.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def main() -> None:
        async with Serving(pki, handler) as (reader, writer):
            writer.write(b"x")
            del reader
            gc.collect()
            writer.write(b"y")
            await writer.drain()

    run(main)
