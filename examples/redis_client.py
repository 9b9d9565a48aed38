"""redis-py's asyncio client over TLS: python redis_client.py CA PORT

It makes a context of its own; a connection class puts ours in its place.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import redis.asyncio as redis

from sslconnector import stdlib


class OurConnection(redis.Connection):
    def __init__(self, *, context: stdlib.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.context = context

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self.context}


async def main(ca: str, port: str) -> None:
    context = stdlib.create_default_context(cafile=ca)
    pool = redis.ConnectionPool(connection_class=OurConnection, context=context, host="localhost", port=int(port))
    async with redis.Redis.from_pool(pool) as client:
        await client.set("greeting", "hello" * 20000)
        print(len(await client.get("greeting") or b""))


asyncio.run(main(*sys.argv[1:]))
