"""A client with streams: sends its lines, ends its side, and prints all that comes back.

Run it: python examples/streams_client.py localhost 4433 ca.pem "first line" "second line"
"""

from __future__ import annotations

import asyncio
import sys

from sslconnector import ClientContext, TrustStore
from sslconnector.asyncio import open_connection


async def main(host: str, port: int, ca: str, *lines: str) -> None:
    context = ClientContext(trust=TrustStore.from_file(ca))
    reader, writer = await open_connection(host, port, ssl=context)
    for line in lines:
        writer.write(line.encode() + b"\n")
    writer.write_eof()  # half-close: the answers still come, whole
    print((await reader.read()).decode(), end="")  # raises TruncationError if the connection was cut
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
