"""A WebSocket echo over TLS: python websockets_echo.py serve CERT KEY PORT, python websockets_echo.py talk CA URL"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from sslconnector import stdlib


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def run_server(certificate: str, key: str, port: str) -> None:
    context = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with serve(echo, "127.0.0.1", int(port), ssl=context) as server:
        await server.serve_forever()


async def talk(ca: str, url: str) -> None:
    context = stdlib.create_default_context(cafile=ca)
    async with connect(url, ssl=context) as connection:
        await connection.send("hello" * 10000)
        print(len(await connection.recv()))


asyncio.run(run_server(*sys.argv[2:]) if sys.argv[1] == "serve" else talk(*sys.argv[2:]))
