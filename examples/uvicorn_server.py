"""An ASGI application, served over HTTPS by uvicorn: python uvicorn_server.py CERT KEY PORT"""

import sys
from typing import Any

import uvicorn

from sslconnector import stdlib


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"hello over {scope['scheme']}".encode()})


def make_context(*_: Any) -> stdlib.SSLContext:
    context = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    return context


uvicorn.run(hello, port=int(sys.argv[3]), ssl_context_factory=make_context, lifespan="off", log_level="warning")
