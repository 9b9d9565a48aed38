"""TLS records as they lie on the wire (RFC 8446 section 5.1): type (1 byte), legacy version (2), length (2), then so many bytes.

The walker reads only the headers. It tells how many records became complete, so that OpenSSL is never asked in vain: a peer that
sends one byte at a time, or one record in many pieces, costs a look at the header and no failed ``SSL_read`` (FAULTS F09).

A header that OpenSSL refuses by its version or length counts as a complete record: nothing is gained by waiting for the rest of what is no
record, and the error is told at once.
"""

from __future__ import annotations

import struct

from .limits import MAX_RECORD, RECORD_HEADER

__all__ = ["RecordWalker", "describe_foreign_protocol", "looks_like_tls"]

_MAX_BODY = MAX_RECORD - RECORD_HEADER
_version_and_length = struct.Struct("!xBxH").unpack_from


class RecordWalker:
    """Follows record borders through any cutting of the stream."""

    __slots__ = ("_header", "_missing", "_size", "inside")

    def __init__(self) -> None:
        #: the part of a header that came so far
        self._header = b""
        #: the size of the record at hand, header included, and how much of it has not come yet
        self._size = 0
        self._missing = 0
        #: whether the stream stands inside a record (header or body)
        self.inside = False

    @property
    def tail(self) -> int:
        """Bytes that came of the record the stream stands in."""
        return self._size - self._missing if self._missing else len(self._header)

    @property
    def remaining(self) -> int:
        """Bytes to the end of the record or header that the stream stands in or before."""
        return self._missing or RECORD_HEADER - len(self._header)

    @property
    def border(self) -> tuple[bytes, int, int]:
        """Where the stream stands, for another walker: the part of a header, the record's size, how much of it is missing."""
        return self._header, self._size, self._missing

    @border.setter
    def border(self, value: tuple[bytes, int, int]) -> None:
        self._header, self._size, self._missing = value
        self.inside = bool(self._header or self._missing)

    def walk(self, data: bytes | memoryview) -> int:
        """How many records ``data`` completes. Keeps at most four bytes of it."""
        size = len(data)
        position = self._missing
        header = self._header
        complete = 0
        if position:
            if position > size:
                self._missing = position - size
                return 0
            complete = 1
        elif header:
            take = RECORD_HEADER - len(header)
            header += bytes(data[:take])
            if len(header) < RECORD_HEADER:
                self._header = header
                return 0
            self._header = b""
            major, body = _version_and_length(header)
            self._size = RECORD_HEADER + (body if major == 3 and body <= _MAX_BODY else 0)
            position = take + self._size - RECORD_HEADER
            complete = 1
        last = size - RECORD_HEADER
        start = -1
        while position <= last:
            start = position
            major, body = _version_and_length(data, position)
            position += RECORD_HEADER + (body if major == 3 and body <= _MAX_BODY else 0)
            complete += 1
        if position > size:
            # The last one counted is not whole yet.
            self._missing = position - size
            self.inside = True
            if start >= 0:
                self._size = position - start
            return complete - 1
        self._missing = 0
        self._header = bytes(data[position:])
        self.inside = position < size
        return complete


def looks_like_tls(first: bytes) -> bool:
    """Whether a stream that begins like this can open a TLS handshake: a handshake or alert record of some SSL 3 or TLS version.

    :param first: the first five bytes, or less if no more is there.
    """
    return first[:1] in (b"", b"\x15", b"\x16") and first[1:2] in (b"", b"\x03") and first[2:3] <= b"\x04"


_FOREIGN = (
    (b"GET", "an HTTP request in clear"),
    (b"POST", "an HTTP request in clear"),
    (b"HEAD", "an HTTP request in clear"),
    (b"PUT", "an HTTP request in clear"),
    (b"DELET", "an HTTP request in clear"),
    (b"OPTIO", "an HTTP request in clear"),
    (b"PATCH", "an HTTP request in clear"),
    (b"CONNE", "an HTTP proxy request"),
    (b"PRI *", "an HTTP/2 preface in clear"),
    (b"HTTP/", "an HTTP response in clear"),
    (b"<!DOC", "an HTTP answer in clear (HTML)"),
    (b"<html", "an HTTP answer in clear (HTML)"),
    (b"SSH-", "an SSH greeting"),
    (b"PROXY", "a PROXY protocol header"),
    (b"\r\n\r\n\x00", "a PROXY protocol header (version 2)"),
    (b"220", "an SMTP or FTP greeting (STARTTLS comes first there)"),
    (b"EHLO", "an SMTP command (STARTTLS comes first there)"),
    (b"HELO", "an SMTP command (STARTTLS comes first there)"),
    (b"* OK", "an IMAP greeting (STARTTLS comes first there)"),
    (b"+OK", "a POP3 greeting (STLS comes first there)"),
    (b"\x80", "an SSL 2 hello"),
)


def describe_foreign_protocol(first: bytes) -> str:
    """What the first bytes of a stream that is no TLS look like, for an error message."""
    for prefix, name in _FOREIGN:
        if first.startswith(prefix):
            return name
    return "something else"
