"""What the engine costs, alone, in memory: one message from one side's plaintext to the other side's plaintext.

Peers: Python's ``ssl.MemoryBIO`` and pyOpenSSL's methods, each driven as an adapter has to: what came is read until nothing is left. For
``ssl`` that means a last ``read`` which raises ``SSLWantReadError``, since nothing else tells that the next record is not there yet; the
column "ssl, told the size" leaves that call out, which no adapter could.

All run interleaved in one process, several rounds; the figures are medians of CPU time, with minimum and maximum.

Run it: python benchmarks/engine.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import ssl
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme
from OpenSSL import SSL

from sslconnector import ClientContext, Connector, Identity, ReadStatus, ServerContext, TrustStore, _engine, openssl_version

SIZES = (64, 1024, 16384, 65536, 262144)
CIPHER, GROUP = "TLS_AES_256_GCM_SHA384", "X25519"

Pass = Callable[[], None]


class Certificates:
    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.leaf = self.ca.issue_cert("localhost")
        self.identity = Identity.from_pem(self.leaf.cert_chain_pems[0].bytes(), self.leaf.private_key_pem.bytes())
        self.trust = TrustStore.from_bytes(self.ca.cert_pem.bytes())


def stdlib(certificates: Certificates, size: int, told: bool) -> Pass:
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.leaf.configure_cert(server_context)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates.ca.configure_trust(client_context)
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = client_context.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = server_context.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        server_in.write(client_out.read())
        client_in.write(server_out.read())
    try:
        client.read(1)
    except ssl.SSLWantReadError:
        pass
    cipher = client.cipher()
    assert cipher is not None
    assert cipher[0] == CIPHER, cipher
    data = bytes(size)

    def step() -> None:
        client.write(data)
        server_in.write(client_out.read())
        got = 0
        if told:
            while got < size:
                got += len(server.read(262144))
        else:
            try:
                while True:
                    got += len(server.read(262144))
            except ssl.SSLWantReadError:
                pass
        assert got == size

    return step


def pyopenssl(certificates: Certificates, size: int) -> Pass:
    server_context, client_context = SSL.Context(SSL.TLS_SERVER_METHOD), SSL.Context(SSL.TLS_CLIENT_METHOD)
    server_context.use_certificate(certificates.identity.certificate)
    server_context.use_privatekey(certificates.identity.key)
    client, server = SSL.Connection(client_context), SSL.Connection(server_context)
    client.set_connect_state()
    server.set_accept_state()
    for _ in range(4):
        for side, other in ((client, server), (server, client)):
            for call in (side.do_handshake, lambda side=side, other=other: other.bio_write(side.bio_read(65536))):
                try:
                    call()
                except SSL.WantReadError:
                    pass
    try:
        client.recv(1)
    except SSL.WantReadError:
        pass
    assert client.get_cipher_name() == CIPHER
    data = bytes(size)

    def step() -> None:
        client.sendall(data)
        server.bio_write(client.bio_read(300_000))
        got = 0
        try:
            while True:
                got += len(server.recv(262144))
        except SSL.WantReadError:
            pass
        assert got == size

    return step


def ours(certificates: Certificates, size: int, twin: str) -> Pass:
    _engine.default_engine = _engine.ENGINES[twin]
    client = Connector(ClientContext(trust=certificates.trust, groups=GROUP), server_hostname="localhost")
    server = Connector(ServerContext(identities=certificates.identity))
    client.start()
    server.write(b"!")
    for _ in range(3):
        for sender, receiver in ((client, server), (server, client)):
            receiver.receive(sender.data_to_send())
            receiver.read()
    while client.read_status is ReadStatus.MORE:
        client.read()
    assert client.cipher == CIPHER
    data = bytes(size)
    buffer = bytearray(262144)

    def step() -> None:
        client.write(data)
        flight = client.data_to_send()
        got = position = 0
        while position < len(flight):
            window = server.receive_window
            server.receive(flight[position : position + window] if len(flight) > window else flight)
            position += window
            while True:
                got += server.read_into(buffer)
                if server.read_status is not ReadStatus.MORE:
                    break
        assert got == size

    return step


def measure(step: Pass, seconds: float) -> float:
    """Microseconds of CPU time for one pass."""
    for _ in range(20):
        step()
    count, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < seconds:
        for _ in range(20):
            step()
        count += 20
    return spent / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; a smoke test, not a measurement")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    rounds, seconds = (2, 0.02) if options.quick else (7, 0.15)

    print(f"Python {sys.version.split()[0]}; ssl links {ssl.OPENSSL_VERSION}; sslconnector and pyOpenSSL use {openssl_version()}")
    print(f"{CIPHER}, {rounds} rounds; microseconds of CPU for one pass: median (minimum to maximum)\n")
    certificates = Certificates()
    result: dict[str, Any] = {"ssl": ssl.OPENSSL_VERSION, "sslconnector": openssl_version(), "rows": {}}
    for size in SIZES:
        steps: dict[str, Pass] = {
            "ssl": stdlib(certificates, size, told=False),
            "ssl, told the size": stdlib(certificates, size, told=True),
            "pyOpenSSL": pyopenssl(certificates, size),
        }
        steps.update({f"sslconnector, {twin}": ours(certificates, size, twin) for twin in _engine.ENGINES})
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                times[name].append(measure(step, seconds))
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"{size:,} bytes")
        for name, values in times.items():
            ratio = medians["ssl"] / medians[name]
            print(f"  {name:24} {medians[name]:8.2f} ({min(values):.2f} to {max(values):.2f})   {ratio:5.2f} x ssl")
        result["rows"][size] = medians
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
