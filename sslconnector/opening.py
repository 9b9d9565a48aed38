"""What is read of a stream before the handshake is complete, and how much of it is put up with."""

from __future__ import annotations

from .client_hello import ClientHello, ClientHelloReader
from .errors import Alert, FloodError, NotTLSError
from .limits import RECORD_HEADER, Limits
from .records import RecordWalker, describe_foreign_protocol, looks_like_tls

__all__ = ["Opening"]


class Opening:
    """The peer's side of a handshake as bytes and records; thrown away when it is complete.

    Nothing here depends on how the stream is cut.
    """

    __slots__ = ("_first", "_limits", "_reader", "_size", "_walker", "hello", "records")

    def __init__(self, limits: Limits, walker: RecordWalker, *, client: bool) -> None:
        self._limits = limits
        self._walker = walker
        self._first: bytearray | None = bytearray()
        self._reader = None if client else ClientHelloReader()
        self._size = 0
        #: records that came so far
        self.records = 0
        #: a client's ClientHello, once it is whole
        self.hello: ClientHello | None = None

    def take(self, data: bytes | memoryview) -> tuple[bytes | memoryview, int]:
        """Takes more of the stream. Returns what OpenSSL may have of it now, and how many records that completes.

        A server's TLS object is made when its ``hello`` is whole; until then everything is kept here.

        :raises NotTLSError: when the first five bytes open no TLS connection (FAULTS F36).
        :raises FloodError: when the ClientHello is over its limits (F10); the alert to send is in the error.
        """
        if self._first is not None:
            self._first += data
            if len(self._first) < RECORD_HEADER:
                return b"", 0
            data, self._first = bytes(self._first), None
            if not looks_like_tls(data[:RECORD_HEADER]):
                raise self._foreign(data)
        complete = self._walker.walk(data)
        self.records += complete
        self._size += len(data)
        if self._reader is None:
            return data, complete
        hello = self._reader.feed(data)
        self._check_client_hello(self._reader)
        if hello is None:
            return b"", 0
        received, self._reader, self.hello = bytes(self._reader.received), None, hello
        return received, self.records

    def overdone(self) -> FloodError | None:
        """Called when OpenSSL still wants more: whether the peer's handshake is over the limits."""
        limits = self._limits
        if self._size > limits.handshake_bytes:
            return FloodError(f"the peer's handshake is larger than {limits.handshake_bytes} bytes", limit="handshake_bytes")
        if self.records > limits.handshake_records:
            message = f"the peer's handshake comes in more than {limits.handshake_records} records"
            return FloodError(message, limit="handshake_records")
        return None

    def _check_client_hello(self, reader: ClientHelloReader) -> None:
        limits = self._limits
        # The length that it declares is believed at once.
        if reader.size > limits.client_hello:
            message = f"the client's ClientHello is larger than {limits.client_hello} bytes"
            raise FloodError(message, limit="client_hello", alert_sent=Alert.ILLEGAL_PARAMETER)
        if reader.records > limits.client_hello_records:
            message = f"the client's ClientHello comes in more than {limits.client_hello_records} records"
            raise FloodError(message, limit="client_hello_records", alert_sent=Alert.UNEXPECTED_MESSAGE)

    def _foreign(self, first: bytes) -> NotTLSError:
        what = describe_foreign_protocol(first)
        side = "server" if self._reader is None else "client"
        if "HTTP" in what:
            hint = (
                "use https:// for this port" if side == "client" else "the port serves plain HTTP; connect without TLS or to another port"
            )
        else:
            hint = "one side expects TLS on this port and the other does not"
        return NotTLSError(f"the {side} does not speak TLS: {what} came ({first[:16]!r}); {hint}", data=first)
