"""A client on a blocking socket: sends some words to an echo server and prints what comes back.

Run it: python examples/blocking_client.py localhost 4433 ca.pem "some words"
"""

from __future__ import annotations

import socket
import sys

from sslconnector import ClientContext, TrustStore
from sslconnector.sync import wrap_socket


def main(host: str, port: int, ca: str, words: str) -> None:
    context = ClientContext(trust=TrustStore.from_file(ca))
    sock = socket.create_connection((host, port), timeout=10)
    with wrap_socket(sock, context, server_hostname=host) as tls:
        print(tls.version(), tls.cipher(), file=sys.stderr)
        tls.sendall(words.encode())
        tls.shutdown(socket.SHUT_WR)  # half-close: the echo still comes back, whole
        while data := tls.recv():  # raises TruncationError if the connection was cut
            print(data.decode(), end="")
    print()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
