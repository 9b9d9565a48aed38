"""Two connectors, no network: the adapter loop in its smallest form.

Run it: python examples/in_memory_pair.py
"""

from __future__ import annotations

import trustme

from sslconnector import ClientContext, Connector, Identity, ReadStatus, ServerContext, TrustStore


def carry(sender: Connector, receiver: Connector) -> bytes:
    """Takes the sender's ciphertext to the receiver; returns the plaintext that came out of it."""
    plaintext = b""
    data = memoryview(sender.data_to_send())
    while data:
        size = min(len(data), receiver.receive_window)
        receiver.receive(data[:size])
        data = data[size:]
        while receiver.read_status is ReadStatus.MORE:
            plaintext += receiver.read()
    return plaintext


def main() -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost")
    identity = Identity.from_pem(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())

    client = Connector(ClientContext(trust=TrustStore.from_bytes(ca.cert_pem.bytes())), server_hostname="localhost")
    server = Connector(ServerContext(identities=identity))

    client.start()
    client.write(b"hello")  # waits for the handshake
    for _ in range(2):
        print("server got", carry(client, server))
        print("client got", carry(server, client))
    print(client.version, client.cipher, client.group)


if __name__ == "__main__":
    main()
