"""asyncpg to PostgreSQL; TLS begins in mid-stream there: python asyncpg_client.py CA PORT"""

import asyncio
import sys

import asyncpg

from sslconnector import stdlib


async def main(ca: str, port: str) -> None:
    context = stdlib.create_default_context(cafile=ca)
    connection = await asyncpg.connect(host="localhost", port=int(port), user="postgres", database="postgres", ssl=context)
    version, size = await connection.fetchrow(
        "select (select version from pg_stat_ssl where pid = pg_backend_pid()), length(repeat('x', 1000000))"
    )
    print(version, size)
    await connection.close()


asyncio.run(main(*sys.argv[1:]))
