"""HTTPS by aiohttp's client: python aiohttp_client.py CA URL"""

import asyncio
import sys

import aiohttp

from sslconnector import stdlib


async def main(ca: str, url: str) -> None:
    context = stdlib.create_default_context(cafile=ca)
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        print(response.status, len(await response.read()))


asyncio.run(main(*sys.argv[1:]))
