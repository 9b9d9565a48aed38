"""Names of servers."""

from __future__ import annotations

import pytest

from sslconnector.hostname import ServerName, lookup, normalise_pattern, parse_server_name, usable_patterns


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        ("localhost", "localhost"),
        ("a_b.example", "a_b.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("1password.example", "1password.example"),
        ("3com", "3com"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert parse_server_name(name) == ServerName(dns=expected)
    assert str(parse_server_name(name)) == expected


@pytest.mark.parametrize(("name", "packed"), [("127.0.0.1", b"\x7f\0\0\1"), ("::1", bytes(15) + b"\1"), ("0:0:0::1", bytes(15) + b"\1")])
def test_addresses(name: str, packed: bytes) -> None:
    assert parse_server_name(name) == ServerName(ip=packed)
    assert str(parse_server_name(name)) in (name, "::1")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "it is empty"),
        (".", "an empty label"),
        ("a..b", "an empty label"),
        (".example.org", "an empty label"),
        ("example.org:443", "leave the port out"),
        ("[::1]", "without brackets"),
        ("*.example.org", "wildcard"),
        ("-a.example", "a character"),
        ("a b", "a character"),
        ("a\0b", "a character"),
        ("user@example.org", "a character"),
        ("http://example.org", "the host of the URL alone"),
        ("x" * 64 + ".org", "longer than 63"),
        (".".join(["abcdefgh"] * 30), "longer than 253"),
        ("127.1", "last label is a number"),
        ("256.0.0.1", "last label is a number"),
        ("straße.example", "old and new IDNA"),
        ("\u0660" * 70 + ".example", "no A-label form"),
        ("fe80::1%eth0", "zone"),
    ],
)
def test_what_is_no_name(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_server_name(name)


def test_not_text() -> None:
    with pytest.raises(TypeError, match="must be str, not bytes"):
        parse_server_name(b"localhost")  # type: ignore[arg-type]


def test_lookup() -> None:
    table = {"a.example": 1, "*.example": 2, "*.b.example": 3}
    assert lookup(table, "a.example") == 1
    assert lookup(table, "x.example") == 2
    assert lookup(table, "x.b.example") == 3
    assert lookup(table, "b.example") == 2
    assert lookup(table, "example") is None
    assert lookup(table, "x.y.b.example") is None
    assert normalise_pattern("*.Example.") == "*.example"
    assert usable_patterns(["a.example", "w*.example", "*.*.example", "*", "*.b.example", "10.0.0.1"]) == ["a.example", "*.b.example"]
