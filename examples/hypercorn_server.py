"""An ASGI application, served over HTTPS (HTTP/2 too) by hypercorn: python hypercorn_server.py CERT KEY PORT"""

import asyncio
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from sslconnector import stdlib


class OurConfig(Config):
    def create_ssl_context(self) -> stdlib.SSLContext:
        context = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certfile, self.keyfile)
        context.set_alpn_protocols(self.alpn_protocols)
        return context


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"hello over HTTP/{scope['http_version']}".encode()})


config = OurConfig()
config.certfile, config.keyfile, config.bind = sys.argv[1], sys.argv[2], [f"127.0.0.1:{sys.argv[3]}"]
config.loglevel = "WARNING"
asyncio.run(serve(hello, config))  # type: ignore[arg-type]
