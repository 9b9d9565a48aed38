"""An echo over TLS with trio: python trio_echo.py CERT KEY CA"""

import sys

import trio

from sslconnector import ClientContext, Identity, ServerContext, TrustStore
from sslconnector.trio import TLSStream, open_tls_over_tcp_stream, serve_tls_over_tcp


async def echo(stream: TLSStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def main(certificate: str, key: str, ca: str) -> None:
    server = ServerContext(identities=Identity.from_files(certificate, key))
    client = ClientContext(trust=TrustStore.from_file(ca))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda task_status: serve_tls_over_tcp(echo, 0, server, host="127.0.0.1", task_status=task_status))
        port = listeners[0].transport_listener.socket.getsockname()[1]
        async with await open_tls_over_tcp_stream("127.0.0.1", port, context=client) as stream:
            await stream.send_all(b"hello, ")
            await stream.send_all(b"trio")
            await stream.send_eof()  # half-close: the echo still comes
            print(b"".join([data async for data in stream]).decode(), "over", stream.connector.version)
        nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
