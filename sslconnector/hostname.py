"""Names of servers: what may stand in ``server_hostname``, and which certificate serves a name.

Names are compared as RFC 9525 says: lower case, A-labels, one wildcard that stands for exactly one whole left-most label, no common
names. IP addresses are compared as addresses and never sent as SNI (RFC 6066 section 3).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["ServerName", "lookup", "normalise_pattern", "parse_server_name"]

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Characters that IDNA 2003 (Python's codec) and IDNA 2008 (browsers, registries) map to different names: a certificate check must
# not depend on which one is meant.
_DEVIATIONS = "ßς\u200c\u200d"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServerName:
    """A server's name made ready: exactly one of ``dns`` (A-labels, lower case, no trailing dot) and ``ip`` (packed) is set."""

    dns: str | None = None
    ip: bytes | None = None

    def __str__(self) -> str:
        return self.dns if self.dns is not None else str(ipaddress.ip_address(self.ip or b""))


def parse_server_name(name: str) -> ServerName:
    """Reads a host name or IP address as a user writes it.

    Upper case, international names and one trailing dot are taken; ports, brackets, wildcards, empty labels are refused.

    :raises TypeError: when it is not text.
    :raises ValueError: when it is neither a host name nor an IP address; the message says which rule it breaks.
    """
    if not isinstance(name, str):
        raise TypeError(f"server_hostname must be str, not {type(name).__name__}")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return ServerName(dns=_parse_dns(name))
    if getattr(address, "scope_id", None):
        raise ValueError(f"server_hostname {name!r} has a zone; certificates name addresses without zones, so pass it without %...")
    return ServerName(ip=address.packed)


def _parse_dns(name: str) -> str:
    def refuse(why: str) -> ValueError:
        return ValueError(f"server_hostname {name!r} is not a host name: {why}")

    if not name:
        raise refuse("it is empty; pass the name that the server's certificate must carry")
    if name.startswith("["):
        raise refuse("write an IPv6 address without brackets and port")
    if "/" in name:
        raise refuse("pass the host of the URL alone")
    if ":" in name:
        raise refuse("leave the port out")
    if "*" in name:
        raise refuse("a wildcard belongs into a certificate, not into a name to connect to")
    if not name.isascii():
        if any(character in _DEVIATIONS for character in name):
            raise refuse("it has a character that old and new IDNA map to different names; pass the A-label form (xn--...)")
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise refuse(f"it has no A-label form ({error})") from None
    name = name.removesuffix(".").lower()
    if len(name) > 253:
        raise refuse("it is longer than 253 characters")
    labels = name.split(".")
    for label in labels:
        if not label:
            raise refuse("it has an empty label")
        if len(label) > 63:
            raise refuse(f"the label {label[:20]!r}... is longer than 63 characters")
        if not _LABEL.fullmatch(label):
            raise refuse(f"the label {label!r} has a character that host names cannot have")
    if labels[-1].isdigit():
        raise refuse("its last label is a number, so it can only be meant as an IP address, and it is none")
    return name


def normalise_pattern(pattern: str) -> str:
    """A name under which a server is known, for use with :func:`lookup`: a host name, or ``*.`` and a host name.

    :raises ValueError: when it is neither; an IP address is no name here, because clients never send addresses as SNI.
    """
    wildcard = pattern.startswith("*.")
    parsed = parse_server_name(pattern[2:] if wildcard else pattern)
    if parsed.dns is None:
        raise ValueError(f"{pattern!r} is an IP address; clients do not send addresses as server names (RFC 6066 section 3)")
    return "*." + parsed.dns if wildcard else parsed.dns


def lookup(table: Mapping[str, _T], name: str) -> _T | None:
    """What ``table`` holds for ``name``: under the name itself, else under the wildcard for its left-most label, else None."""
    found = table.get(name)
    if found is None:
        _, dot, parent = name.partition(".")
        if dot:
            found = table.get("*." + parent)
    return found


def usable_patterns(names: Iterable[str]) -> list[str]:
    """Those of a certificate's DNS names that :func:`lookup` can use; partial wildcards and malformed names serve nobody (RFC 9525)."""
    usable = []
    for name in names:
        try:
            usable.append(normalise_pattern(name))
        except ValueError:
            continue
    return usable
