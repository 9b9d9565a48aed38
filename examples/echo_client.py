"""A client for the echo server.

Run it: python examples/echo_client.py localhost 4433 ca.pem "some words"
"""

from __future__ import annotations

import asyncio
import sys

from sslconnector import ClientContext, TrustStore
from sslconnector.asyncio import create_connection


class Ask(asyncio.Protocol):
    def __init__(self) -> None:
        self.answer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(exc)


async def main(host: str, port: int, ca: str, words: str) -> None:
    context = ClientContext(trust=TrustStore.from_file(ca))
    transport, ask = await create_connection(Ask, host, port, ssl=context)
    transport.write(words.encode())
    transport.write_eof()  # half-close: the echo still comes back, whole
    await ask.done
    print(ask.answer.decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
