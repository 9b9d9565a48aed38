"""twisted.web over HTTPS: python twisted_web.py CERT KEY PORT"""

import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.resource import Resource
from twisted.web.server import Site

from sslconnector import Identity, ServerContext
from sslconnector.twisted import TLSServerEndpoint


class Hello(Resource):
    isLeaf = True  # noqa: N815

    def render_GET(self, request: Any) -> bytes:  # noqa: N802
        return b"hello over https" if request.isSecure() else b"hello in clear"


context = ServerContext(identities=Identity.from_files(sys.argv[1], sys.argv[2]), alpn_protocols=["http/1.1"])
where = TCP4ServerEndpoint(reactor, int(sys.argv[3]), interface="127.0.0.1")
TLSServerEndpoint(where, context).listen(Site(Hello()))
reactor.run()  # type: ignore[attr-defined]
