"""The client side: opens connections, sends messages in many sizes and pieces, and compares every byte that comes back.

Each connection sends a stretch of one long block of random bytes, at its own offset, so that what belongs to another connection or to
another place of the same one is noticed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from ..asyncio import create_connection
from ..context import ClientContext

__all__ = ["Load", "Result", "run_load"]

_BLOCK = 1 << 20
_DISTANCE = 7919  # between the offsets of two connections; a prime, so that they differ for long


class WrongEchoError(Exception):
    """What came back is not what was sent."""


class IncompleteEchoError(Exception):
    """The connection ended before everything came back."""


class NoAnswerError(Exception):
    """The echo did not come in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to do."""

    host: str
    port: int
    server_hostname: str
    connections: int = 200
    #: messages on each connection, unless ``duration`` is set
    messages: int = 20
    #: seconds to go on for; None for a number of messages
    duration: float | None = None
    #: smallest and largest message, in bytes
    sizes: tuple[int, int] = (1, 65536)
    #: handshakes under way at once
    concurrency: int = 100
    #: seconds to wait for one message's echo
    patience: float = 30.0
    seed: int = 1


@dataclass(slots=True)
class Result:
    """What happened."""

    connections: int = 0
    messages: int = 0
    bytes_echoed: int = 0
    #: from the first connection attempt to the last established connection, and to the end of it all
    connect_seconds: float = 0.0
    echo_seconds: float = 0.0
    #: what failed, by kind, and one message of each
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    #: nanoseconds from the first byte written to the last byte back
    latency: Any = field(default_factory=lambda: HdrHistogram(1_000, 600_000_000_000, 3))
    #: version, cipher suite and group of the connections
    parameters: Counter[str] = field(default_factory=Counter)

    def book(self, error: BaseException) -> None:
        """Counts a failure."""
        kind = type(error).__name__
        self.errors[kind] += 1
        self.examples.setdefault(kind, str(error))


class _EchoClient(asyncio.Protocol):
    """Compares the stream with what it must be."""

    def __init__(self, block: memoryview, offset: int) -> None:
        self.block = block
        self.offset = offset
        self.sent = 0
        self.received = 0
        self.error: BaseException | None = None
        self.lost = False
        self.closed = asyncio.Event()
        self.waiter: asyncio.Future[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def expected(self, position: int, size: int) -> memoryview:
        start = (self.offset + position) % _BLOCK
        return self.block[start : start + size]

    def data_received(self, data: bytes) -> None:
        position = 0
        while position < len(data) and self.error is None:
            part = min(len(data) - position, _BLOCK)
            if data[position : position + part] != self.expected(self.received, part):
                where = next(i for i in range(part) if data[position + i] != self.expected(self.received + i, 1)[0])
                self.error = WrongEchoError(f"byte {self.received + where} of the echo is not the byte that was sent")
            self.received += part
            position += part
        if self.received > self.sent and self.error is None:
            self.error = WrongEchoError(f"{self.received - self.sent} bytes more came back than were sent")
        if self.error is not None or self.received >= self.sent:
            self.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.closed.set()
        if self.error is None and self.received < self.sent:
            missing = self.sent - self.received
            self.error = exc or IncompleteEchoError(f"the connection ended with {missing} of {self.sent} bytes still to come back")
        elif self.error is None:
            self.error = exc
        self.writable.set()
        self.wake()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def echo(self, size: int, numbers: random.Random, patience: float) -> None:
        """Sends one message in random pieces and waits until all of it is back."""
        self.waiter = asyncio.get_running_loop().create_future()
        left = size
        while left and self.error is None:
            piece = min(left, numbers.choice((1, 100, 1448, 16384, 16385, left, left)))
            data = self.expected(self.sent, piece)
            self.sent += piece
            left -= piece
            self.transport.write(data)
            if numbers.random() < 0.2:
                await asyncio.sleep(0)
            await self.writable.wait()
        try:
            async with asyncio.timeout(patience):
                if self.received < self.sent and self.error is None and not self.lost:
                    await self.waiter
        except TimeoutError:
            raise NoAnswerError(f"{self.sent - self.received} bytes did not come back within {patience:g} s") from None
        if self.error is not None:
            raise self.error
        if self.lost:
            raise IncompleteEchoError("the server closed the connection between two messages")


async def run_load(load: Load, context: ClientContext, progress: Callable[[Result], None] = lambda _: None) -> Result:
    """Does it.

    :param progress: called now and then with what happened so far.
    """
    result = Result()
    # The block twice, so that a stretch never has to be put together.
    block = memoryview(random.Random(load.seed).randbytes(_BLOCK) * 2)
    gate = asyncio.Semaphore(load.concurrency)
    begin = time.perf_counter()
    clients: list[_EchoClient | None] = list(
        await asyncio.gather(*(_open(load, context, block, n, gate, result) for n in range(load.connections)))
    )
    result.connect_seconds = time.perf_counter() - begin
    progress(result)
    ticker = asyncio.ensure_future(_tick(result, progress))
    begin = time.perf_counter()
    end = None if load.duration is None else begin + load.duration
    try:
        await asyncio.gather(*(_talk(load, client, number, end, result) for number, client in enumerate(clients) if client is not None))
    finally:
        result.echo_seconds = time.perf_counter() - begin
        ticker.cancel()
    progress(result)
    return result


async def _tick(result: Result, progress: Callable[[Result], None]) -> None:
    while True:
        await asyncio.sleep(0.2)
        progress(result)


async def _open(
    load: Load, context: ClientContext, block: memoryview, number: int, gate: asyncio.Semaphore, result: Result
) -> _EchoClient | None:
    async with gate:
        try:
            transport, client = await create_connection(
                lambda: _EchoClient(block, number * _DISTANCE % _BLOCK),
                load.host,
                load.port,
                ssl=context,
                server_hostname=load.server_hostname,
            )
        except (OSError, ValueError) as error:
            result.book(error)
            return None
    result.connections += 1
    connector = transport.get_extra_info("connector")
    result.parameters[f"{connector.version} {connector.cipher} {connector.group}"] += 1
    return client


async def _talk(load: Load, client: _EchoClient, number: int, end: float | None, result: Result) -> None:
    numbers = random.Random(load.seed * 1_000_003 + number)
    smallest, largest = load.sizes
    count = 0
    try:
        while (count < load.messages) if end is None else (time.perf_counter() < end):
            # Sizes spread evenly over the orders of magnitude, so that small ones are not rare.
            size = min(largest, int(smallest * (largest / smallest) ** numbers.random() + 0.5))
            begin = time.perf_counter_ns()
            await client.echo(size, numbers, load.patience)
            result.latency.record_value(time.perf_counter_ns() - begin)
            result.messages += 1
            result.bytes_echoed += size
            count += 1
    except (OSError, WrongEchoError, IncompleteEchoError, NoAnswerError) as error:
        result.book(error)
        client.transport.abort()
    else:
        client.transport.close()
        # The library closes a wire within seconds, whatever the peer does.
        await client.closed.wait()
