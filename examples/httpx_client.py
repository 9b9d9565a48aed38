"""HTTPS by httpx, with HTTP/2 where the server has it: python httpx_client.py CA URL"""

import asyncio
import sys

import httpx

from sslconnector import stdlib

context = stdlib.create_default_context(cafile=sys.argv[1])
with httpx.Client(verify=context, http2=True) as client:
    answer = client.get(sys.argv[2])
    print(answer.status_code, answer.http_version, len(answer.content))


async def main(url: str) -> None:
    async with httpx.AsyncClient(verify=context, http2=True) as client:
        answer = await client.get(url)
        print(answer.status_code, answer.http_version, len(answer.content))


asyncio.run(main(sys.argv[2]))
