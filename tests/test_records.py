"""The record walker agrees with a reader that sees the whole stream, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sslconnector.records import RecordWalker, describe_foreign_protocol, looks_like_tls


def _records(sizes: list[int]) -> bytes:
    return b"".join(b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size) for size in sizes)


def _whole(stream: bytes) -> tuple[int, int]:
    position = count = 0
    while position + 5 <= len(stream):
        end = position + 5 + int.from_bytes(stream[position + 3 : position + 5], "big")
        if end > len(stream):
            break
        count += 1
        position = end
    return count, len(stream) - position


@given(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2000)), max_size=12), st.data())
def test_any_cut_gives_the_same_count(sizes: list[int], data: st.DataObject) -> None:
    stream = _records(sizes)
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    walker = RecordWalker()
    position = count = 0
    while position < len(stream):
        step = data.draw(st.one_of(st.integers(0, 7), st.integers(1, 3000)))
        piece: bytes | memoryview = stream[position : position + step]
        count += walker.walk(memoryview(piece) if data.draw(st.booleans()) else piece)
        position += step
        assert (count, walker.tail) == _whole(stream[:position])
        assert walker.inside is (walker.tail > 0)


def test_byte_by_byte() -> None:
    stream = _records([0, 1, 300, 0, 0, 7])
    walker = RecordWalker()
    assert sum(walker.walk(stream[i : i + 1]) for i in range(len(stream))) == 6
    assert not walker.inside


def test_what_is_no_header_is_complete_at_once() -> None:
    for junk in (b"\x17\x03\x03\xff\xff", b"\x17\x02\x03\x00\x10", b"pleas"):
        walker = RecordWalker()
        assert walker.walk(b"\x17\x03\x03\x00\x01x" + junk[:2]) == 1
        assert walker.walk(junk[2:]) == 1
        assert RecordWalker().walk(b"\x17\x03\x03\x00\x01x" + junk + b"!") == 2
    largest = b"\x17\x03\x03" + (16384 + 2048).to_bytes(2, "big")
    assert RecordWalker().walk(largest) == 0


def test_foreign_protocols_are_named() -> None:
    assert looks_like_tls(b"\x16\x03\x01\x02\x00")
    assert looks_like_tls(b"\x15\x03\x03\x00\x02")
    assert not looks_like_tls(b"GET /")
    assert not looks_like_tls(b"\x16\x02\x00\x00\x00")
    assert not looks_like_tls(b"\x16\x03\x05\x00\x00")
    assert "HTTP" in describe_foreign_protocol(b"GET /")
    assert "SSH" in describe_foreign_protocol(b"SSH-2")
    assert describe_foreign_protocol(b"\0\0\0\0\0") == "something else"
