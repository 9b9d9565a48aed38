"""An echo server on asyncio.

Run it: python examples/echo_server.py cert.pem key.pem 4433
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from sslconnector import Identity, ServerContext
from sslconnector.asyncio import create_server


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def main(cert: str, key: str, port: int) -> None:
    context = ServerContext(identities=Identity.from_files(cert, key))
    server = await create_server(Echo, "127.0.0.1", port, ssl=context)
    print("listening on port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    except KeyboardInterrupt:
        pass
