"""HTTPS by aiohttp's server: python aiohttp_server.py CERT KEY PORT"""

import sys

from aiohttp import web

from sslconnector import stdlib


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello over {request.scheme}")


context = stdlib.create_default_context(stdlib.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
application = web.Application()
application.router.add_get("/", hello)
web.run_app(application, host="127.0.0.1", port=int(sys.argv[3]), ssl_context=context, print=None)
