"""An echo server on non-blocking sockets and a selector: one thread, many connections, no framework.

Run it: python examples/selector_server.py cert.pem key.pem 4433
"""

from __future__ import annotations

import selectors
import socket
import sys

from sslconnector import Identity, ServerContext
from sslconnector.sync import TLSSocket, WantReadError, WantWriteError, wrap_socket


def serve_some(tls: TLSSocket) -> None:
    """As much as can be done for one connection now; returns when the client has said everything and got its echo."""
    while True:
        tls.flush()  # do not read more than the client takes: raises WantWriteError
        data = tls.recv()  # the handshake, too, happens in here; raises WantReadError
        if not data:
            return
        tls.sendall(data)


def main(cert: str, key: str, port: int) -> None:
    context = ServerContext(identities=Identity.from_files(cert, key))
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    print("listening on port", listener.getsockname()[1], flush=True)
    while True:
        for ready, _ in selector.select():
            if ready.data is None:
                sock, _address = listener.accept()
                sock.setblocking(False)
                tls = wrap_socket(sock, context)
                selector.register(tls, selectors.EVENT_READ, tls)
                continue
            tls = ready.data
            try:
                serve_some(tls)
            except WantReadError:
                selector.modify(tls, tls.waits_for, tls)
            except WantWriteError:
                selector.modify(tls, selectors.EVENT_WRITE, tls)
            except OSError as error:
                print("a connection ended:", error, flush=True)
                selector.unregister(tls)
                tls.abort()
            else:
                selector.unregister(tls)
                tls.close()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except KeyboardInterrupt:
        pass
