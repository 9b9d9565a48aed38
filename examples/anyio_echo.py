"""An echo over TLS with anyio, on both of its backends: python anyio_echo.py CERT KEY CA"""

import sys

import anyio
from anyio.abc import SocketAttribute

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.anyio import TLSListener, TLSStream


async def echo(stream: TLSStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def main(certificate: str, key: str, ca: str) -> None:
    server = ServerContext(identities=Identity.from_files(certificate, key))
    client = ClientContext(trust=TrustStore.from_file(ca))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(TLSListener(listener, server).serve, echo)
        connection = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
        async with await TLSStream.wrap(connection, client, server_hostname="localhost") as stream:
            await stream.send(b"hello, anyio")
            await stream.send_eof()  # half-close: the echo still comes
            print(b"".join([data async for data in stream]).decode(), "over", stream.connector.version)
        group.cancel_scope.cancel()


for backend in ("asyncio", "trio"):
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], backend=backend)
