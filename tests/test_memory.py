"""What connections hold, exactly: the C library tells how much of its heap is in use, OpenSSL's part included."""

from __future__ import annotations

import ctypes
import gc

import pytest

from .helpers import PKI, VERSIONS, Side, pump


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


def heap() -> int:
    """Bytes of the C heap in use (glibc's mallinfo2), small Python objects not counted."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        pytest.skip("this C library has no mallinfo2 (glibc 2.33 has)")
    mallinfo2.restype = _MallInfo2
    gc.collect()
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _echo(client: Side, server: Side, size: int) -> None:
    client.connector.write(bytes(size))
    pump(client, server)
    server.connector.write(server.plaintext)
    server.plaintext = bytearray()
    pump(client, server)
    assert len(client.plaintext) == size
    client.plaintext = bytearray()


def _release(sides: list[tuple[Side, Side]]) -> None:
    for pair in sides:
        for side in pair:
            assert side.connector.release_memory()


@pytest.mark.usefixtures("twin")
@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("size", [16384, 1 << 20])
def test_F34_after_an_echo_an_idle_connection_holds_what_it_held_before(pki: PKI, version: str, size: int) -> None:
    count = 20
    pairs = [pki.connected(**VERSIONS[version]) for _ in range(count)]
    _echo(*pairs[0], size)  # warm-up: whatever is made once
    _release(pairs)
    before = heap()
    for pair in pairs:
        _echo(*pair, size)
    grown = heap()
    _release(pairs)
    after = heap()
    assert grown - before > count * 4 * 16000, "the burst made the buffers grow, else this test shows nothing"
    assert abs(after - before) / (2 * count) < 512


@pytest.mark.usefixtures("twin")
def test_connections_leave_no_heap_behind(pki: PKI) -> None:
    """The slope over rounds of connections that end in every way is flat."""

    def round_() -> None:
        for number in range(40):
            if number % 5 == 4:
                pki.pair(server_hostname="localhost")
                continue
            client, server = pki.connected(**VERSIONS["TLSv1.2" if number % 2 else "TLSv1.3"])
            if number % 5 == 1:
                client.connector.abort()
                pump(client, server)
            elif number % 5 == 2:
                server.eof()
            elif number % 5 == 3:
                _echo(client, server, 100_000)
                client.connector.close()

    for _ in range(3):
        round_()
    before = heap()
    for _ in range(5):
        round_()
    assert heap() - before < 5 * 40 * 100
