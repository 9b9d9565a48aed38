"""Client certificates: the server asks, the client shows one, and both see who the other is.

Run it: python examples/mutual_tls.py
"""

from __future__ import annotations

import asyncio
from typing import Any

import trustme

from sslconnector import ClientContext, Identity, ServerContext, TLSError, TrustStore
from sslconnector.asyncio import create_connection, create_server


class WhoAreYou(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        certificate = transport.get_extra_info("peer_certificate")
        transport.write(b"hello, " + certificate.subject.rfc4514_string().encode())
        transport.close()


class Listen(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def identity(leaf: trustme.LeafCert) -> Identity:
    return Identity.from_pem(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes())


async def main() -> None:
    ca = trustme.CA()
    trust = TrustStore.from_bytes(ca.cert_pem.bytes())
    server_context = ServerContext(identities=identity(ca.issue_cert("localhost")), client_certificates="required", trust=trust)
    server = await create_server(WhoAreYou, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]

    for who in (identity(ca.issue_cert("alice@example.org", common_name="alice")), None):
        context = ClientContext(trust=trust, identity=who)
        try:
            _, listen = await create_connection(Listen, "127.0.0.1", port, ssl=context, server_hostname="localhost")
            error = await listen.lost  # on TLS 1.3 a refusal comes after the client's handshake
            print(listen.heard.decode() if error is None else f"refused: {error}")
        except TLSError as error:
            print("refused:", error)
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
