"""A server with streams: sends each line back in capitals, until the client ends its side.

Run it: python examples/streams_server.py cert.pem key.pem 4433
"""

from __future__ import annotations

import asyncio
import sys

from sslconnector import Identity, ServerContext, TruncationError
from sslconnector.asyncio import StreamReader, StreamWriter, start_server


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        async for line in reader:
            writer.write(line.upper())
            await writer.drain()
    except TruncationError:
        print("somebody cut the connection: what came may be incomplete", flush=True)
    writer.close()


async def main(cert: str, key: str, port: int) -> None:
    context = ServerContext(identities=Identity.from_files(cert, key))
    server = await start_server(serve, "127.0.0.1", port, ssl=context)
    print("listening on port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    except KeyboardInterrupt:
        pass
