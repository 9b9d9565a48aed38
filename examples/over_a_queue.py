"""TLS over something that is no socket: two threads that exchange messages through queues.

Each message may hold any piece of the stream; ``None`` is the end of the wire. ``run`` is a whole adapter: the loop of docs/adapters.md
for a transport that blocks.

Run it: python examples/over_a_queue.py
"""

from __future__ import annotations

import queue
import threading
import time

import trustme

from sslconnector import ClientContext, Connector, Identity, PeerClosed, ReadStatus, ServerContext, TLSError, TrustStore

Wire = queue.Queue[bytes | None]


def run(connector: Connector, incoming: Wire, outgoing: Wire, say: bytes) -> bytes:
    """Says something, closes its side, and returns all that the other side said."""
    heard = b""
    connector.start()
    connector.write(say)
    connector.close_write()
    pending = b""
    try:
        while not connector.finished:
            data = connector.data_to_send()
            if data:
                outgoing.put(bytes(data))
                continue
            due = connector.get_timer(time.monotonic())
            if not pending:
                try:
                    message = incoming.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
                except queue.Empty:
                    connector.handle_timer(time.monotonic())
                else:
                    if message is None:
                        connector.receive_eof()
                    else:
                        pending = message
            size = min(len(pending), connector.receive_window)
            connector.receive(pending[:size])
            pending = pending[size:]
            while connector.read_status is ReadStatus.MORE:
                heard += connector.read()
            while connector.events_pending:
                if isinstance(connector.next_event(), PeerClosed):
                    pending = b""
    finally:
        # Also after an error: the alert that explains it.
        data = connector.data_to_send()
        if data:
            outgoing.put(bytes(data))
        outgoing.put(None)
    return heard


def main() -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("queue.example")
    identity = Identity.from_pem(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())
    to_server: Wire = queue.Queue()
    to_client: Wire = queue.Queue()

    heard: list[bytes | TLSError] = []

    def server() -> None:
        try:
            heard.append(run(Connector(ServerContext(identities=identity)), to_server, to_client, b"hello from the server"))
        except TLSError as error:
            heard.append(error)

    thread = threading.Thread(target=server)
    thread.start()
    context = ClientContext(trust=TrustStore.from_bytes(ca.cert_pem.bytes()))
    print("client heard", run(Connector(context, server_hostname="queue.example"), to_client, to_server, b"hello from the client"))
    thread.join()
    print("server heard", heard[0])


if __name__ == "__main__":
    main()
