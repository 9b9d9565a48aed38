"""STARTTLS: a connection that begins in clear and goes on with TLS, both sides of it.

Run it: python examples/starttls.py cert.pem key.pem ca.pem
"""

from __future__ import annotations

import asyncio
import sys

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.asyncio import StreamReader, StreamWriter, open_connection, start_server


async def serve(reader: StreamReader, writer: StreamWriter, context: ServerContext) -> None:
    writer.write(b"220 ready\r\n")
    while command := (await reader.readline()).strip():
        if command == b"STARTTLS":
            writer.write(b"220 go ahead\r\n")
            # From here on reader and writer speak TLS. If the client has sent anything in clear behind its command, this raises: it must
            # not be taken for something that came over TLS.
            await writer.start_tls(context)
        elif command == b"SECRET":
            secure = writer.get_extra_info("ssl_object") is not None
            writer.write(b"250 the secret\r\n" if secure else b"530 STARTTLS first\r\n")
        else:
            writer.write(b"500 what?\r\n")
    writer.close()


async def ask(reader: StreamReader, writer: StreamWriter, command: str) -> None:
    writer.write(command.encode() + b"\r\n")
    print(f"{command}: {(await reader.readline()).decode().strip()}")


async def main(cert: str, key: str, ca: str) -> None:
    server_context = ServerContext(identities=Identity.from_files(cert, key))
    # No ssl= here: both begin in clear.
    server = await start_server(lambda reader, writer: serve(reader, writer, server_context), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    reader, writer = await open_connection("127.0.0.1", port)
    print(f"greeting: {(await reader.readline()).decode().strip()}")
    await ask(reader, writer, "SECRET")
    await ask(reader, writer, "STARTTLS")
    await writer.start_tls(ClientContext(trust=TrustStore.from_file(ca)), server_hostname="localhost")
    await ask(reader, writer, "SECRET")
    writer.close()
    await writer.wait_closed()
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
