"""The states of a connection. The same words are used in code, errors, logs and docs; docs/design has the diagram."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["HandshakeState", "ReadSide", "ReadStatus", "Statistics", "WriteSide"]


class HandshakeState(enum.Enum):
    """How far the handshake is."""

    #: a client before ``start()``, a server before the ClientHello is whole
    NOT_STARTED = "not started"
    #: a server waits for ``provide_identity()``
    WAITING_FOR_IDENTITY = "waiting for identity"
    #: OpenSSL is at it
    IN_PROGRESS = "in progress"
    #: data may flow
    COMPLETED = "completed"
    #: it ended otherwise; see ``failure``
    FAILED = "failed"


class ReadSide(enum.Enum):
    """What can still come from the peer."""

    #: plaintext
    OPEN = "open"
    #: nothing: the peer sent close_notify
    CLOSED = "closed"
    #: nothing: see ``failure``
    FAILED = "failed"


class WriteSide(enum.Enum):
    """What can still be written to the peer."""

    #: plaintext
    OPEN = "open"
    #: close_notify follows the plaintext that waits for the handshake
    CLOSING = "closing"
    #: nothing: close_notify lies in the output or was taken from there
    CLOSED = "closed"
    #: nothing: see ``failure``
    FAILED = "failed"


class ReadStatus(enum.Enum):
    """What a further read would bring."""

    #: call again, or be scheduled again: plaintext, or the error
    MORE = "more"
    #: nothing before the next ``receive``
    NEED_INPUT = "need input"
    #: nothing any more
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the connection was made. Bytes, or records."""

    plaintext_read: int
    plaintext_written: int
    ciphertext_received: int
    ciphertext_sent: int
    records_read: int
    records_written: int
