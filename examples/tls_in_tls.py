"""TLS in TLS: through a proxy that is reached with TLS (an "HTTPS proxy") to a server that speaks TLS itself.

The proxy sees which server is asked for, but nothing of what is said to it. Proxy and server are here, too, so that it runs by itself.

Run it: python examples/tls_in_tls.py cert.pem key.pem ca.pem
"""

from __future__ import annotations

import asyncio
import sys

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.asyncio import StreamReader, StreamWriter, open_connection, start_server


async def connect_through(
    proxy: tuple[str, int], target: tuple[str, int], name: str, context: ClientContext
) -> tuple[StreamReader, StreamWriter]:
    """A connection to ``target``, whose certificate must carry ``name``, through the proxy."""
    reader, writer = await open_connection(*proxy, ssl=context, server_hostname="localhost")
    writer.write(f"CONNECT {target[0]}:{target[1]} HTTP/1.1\r\nHost: {target[0]}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        writer.close()
        raise ConnectionError(f"the proxy says {head.splitlines()[0]!r}")
    await writer.start_tls(context, server_hostname=name)  # the second layer
    return reader, writer


async def proxy(reader: StreamReader, writer: StreamWriter) -> None:
    request = await reader.readuntil(b"\r\n\r\n")
    host, _, port = request.split()[1].decode().rpartition(":")
    inner_reader, inner_writer = await open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 connected\r\n\r\n")

    async def carry(source: StreamReader, target: StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()

    await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))
    writer.close()
    inner_writer.close()


async def serve(reader: StreamReader, writer: StreamWriter) -> None:
    writer.write(b"you said: " + await reader.readline())
    writer.close()


async def main(cert: str, key: str, ca: str) -> None:
    server_context = ServerContext(identities=Identity.from_files(cert, key))
    context = ClientContext(trust=TrustStore.from_file(ca))
    server = await start_server(serve, "127.0.0.1", 0, ssl=server_context)
    middle = await start_server(proxy, "127.0.0.1", 0, ssl=server_context)

    reader, writer = await connect_through(middle.sockets[0].getsockname(), server.sockets[0].getsockname(), "localhost", context)
    writer.write(b"hello through two layers\n")
    print((await reader.read()).decode(), end="")
    writer.close()
    await writer.wait_closed()
    server.close()
    middle.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
