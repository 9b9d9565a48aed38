"""Sessions that a client keeps to resume (RFC 8446 section 2.2, RFC 5077)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from .errors import SessionError

__all__ = ["Session"]

_MAGIC = b"sslconnector session 1\n"
_HEADER = struct.Struct("!B32sHI")


@dataclass(frozen=True, slots=True)
class Session:
    """What a client needs to resume: taken from ``Connector.session``, given to a later ``Connector``.

    It is bound to the server's name and to what was believed when it was made (trust store, verification, client certificate): a
    resumed connection is not verified again, so a session must not carry an old belief into a new configuration.

    **Secret**: whoever has it can pose as this client and read what is sent early. Servers may forget it at any time; a connection
    then makes a full handshake. RFC 8446 appendix C.4 recommends to use each TLS 1.3 session once.
    """

    #: the server's name or address
    server_hostname: str
    #: whether it is for TLS 1.3
    tls13: bool
    #: SHA-256 over the client's beliefs (``ClientContext.session_binding``)
    binding: bytes = field(repr=False)
    #: OpenSSL's serialised form
    data: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """For keeping outside of the process. As secret as a private key."""
        name = self.server_hostname.encode()
        return _MAGIC + _HEADER.pack(self.tls13, self.binding, len(name), len(self.data)) + name + self.data

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Session:
        """What :meth:`to_bytes` gave.

        :raises SessionError: when it is damaged or of another format; drop it and make a full handshake.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"a session must be bytes from Session.to_bytes(), not {type(data).__name__}")
        data = bytes(data)
        start = len(_MAGIC) + _HEADER.size
        if not data.startswith(_MAGIC) or len(data) < start:
            raise SessionError("these bytes are no session of this version of sslconnector; drop them, a full handshake works without")
        tls13, binding, name_size, size = _HEADER.unpack_from(data, len(_MAGIC))
        if len(data) != start + name_size + size or tls13 > 1:
            raise SessionError("the session is damaged; drop it, a full handshake works without")
        try:
            name = data[start : start + name_size].decode()
        except UnicodeDecodeError:
            raise SessionError("the session is damaged; drop it, a full handshake works without") from None
        return cls(name, bool(tls13), binding, data[start + name_size :])
