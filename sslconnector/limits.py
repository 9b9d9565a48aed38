"""Every limit, its default, and the precedent for the default. The connector enforces them; adapters only pass them on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = [
    "LINGER_BYTES",
    "LINGER_SECONDS",
    "MAX_PLAINTEXT",
    "MAX_RECORD",
    "MOST_UNSENT",
    "READS_PER_TURN",
    "RECORD_HEADER",
    "Limits",
]

#: bytes of a record's header (RFC 8446 section 5.1)
RECORD_HEADER = 5
#: most bytes of plaintext in one record (RFC 8446 section 5.1)
MAX_PLAINTEXT = 16384
#: most bytes of one record on the wire, header included (TLS 1.2's larger expansion, RFC 5246 section 6.2.3)
MAX_RECORD = RECORD_HEADER + MAX_PLAINTEXT + 2048

#: At the end an adapter shuts the wire for writing and discards what still comes for so many seconds, or so many bytes of it, or until the
#: peer ends it too. Closing at once would make the kernel answer late input with a reset, and the reset destroys what the peer has not read
#: yet: the alert that explains a failure, or the last data (FAULTS F29, F30: a server's tickets are enough for it).
LINGER_SECONDS = 1.0
LINGER_BYTES = 65536

#: Reads in one turn of a connection, before the loop gets to serve others (F32).
READS_PER_TURN = 4
#: What an application may write during its turn before it is sent anyway: then pause_writing() can reach it.
MOST_UNSENT = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of anything one connection may use. Times are seconds, sizes bytes, counts whole numbers."""

    #: From the start (or the first ``get_timer``) to the completed handshake; bytes that trickle in do not extend it (FAULTS F11).
    #: Twisted has 120 s and resets it, asyncio 60 s, nginx 60 s, Go's net/http 10 s.
    handshake_timeout: float = 10.0
    #: After ``close()``: longest time without any outgoing byte being taken, before the rest is given up (F33). asyncio waits 30 s.
    close_flush_timeout: float = 3.0
    #: After ``close()`` and the flush: how long to wait for the peer's close_notify. RFC 8446 section 6.1 does not ask for it; 0 like
    #: most HTTP servers.
    close_wait_timeout: float = 0.0
    #: How long a TLS 1.3 server holds its session tickets back when the application stays silent (F30). They leave earlier together with
    #: the first application data.
    ticket_delay: float = 0.25
    #: Memory that a burst made OpenSSL's buffers take is given back after so long without traffic (F34).
    release_memory_after: float = 0.1
    #: Most ciphertext that is taken and not yet decrypted: what one ``receive`` may bring (F08). Four whole records.
    receive_buffer: int = 4 * MAX_RECORD
    #: Most plaintext that waits for the handshake to complete.
    queued_plaintext: int = 1048576
    #: The ClientHello: 64 KiB is 30 times a post-quantum one; OpenSSL takes 131,396 bytes (F10, Netty's CVE-2023-34462).
    client_hello: int = 65536
    #: Records that the ClientHello may be cut into.
    client_hello_records: int = 64
    #: All that the peer sends in its handshake: CA lists, client certificates, post-quantum chains (F10).
    handshake_bytes: int = 262144
    #: Records of the peer's whole handshake.
    handshake_records: int = 1024
    #: Records after the handshake, in a row, that carry no application data while this side writes none either: KeyUpdates, tickets,
    #: warnings, empty records (F08). OpenSSL itself stops at 32 empty records and has no limit for KeyUpdates.
    useless_records: int = 32
    #: Answers that OpenSSL made by itself (to KeyUpdates) and nobody has taken yet, before reading stops (F08).
    unsent_replies: int = 1024
    #: Records decrypted in one ``read_into``/``read`` before it returns with ``MORE``, so that a flood of tiny records shares the
    #: thread with others (F09, F32).
    records_per_read: int = 256
    #: Records under one AES-GCM key before :class:`~sslconnector.events.KeyLimitReached` (RFC 8446 section 5.5: 2^24.5).
    records_per_key: int = 23_726_566

    def with_timeouts(self, *, handshake: float | None = None, shutdown: float | None = None) -> Limits:
        """A copy with another ``handshake_timeout`` and ``close_flush_timeout``, as adapters take them; None leaves one as it is.

        :raises ValueError: when one is not a positive number of seconds.
        """
        changes: dict[str, Any] = {}
        for name, value, field in (
            ("ssl_handshake_timeout", handshake, "handshake_timeout"),
            ("ssl_shutdown_timeout", shutdown, "close_flush_timeout"),
        ):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} should be a positive number of seconds, or None for the default of Limits.{field}, got {value!r}")
            changes[field] = value
        return replace(self, **changes) if changes else self

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("float", float):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise TypeError(f"Limits.{field.name} must be a number of seconds, not {value!r}")
                if not 0 <= value < math.inf:
                    raise ValueError(f"Limits.{field.name} must be 0 or more seconds and finite, not {value!r}")
            else:
                if isinstance(value, bool) or not isinstance(value, int):
                    raise TypeError(f"Limits.{field.name} must be a whole number, not {value!r}")
                if value < 1:
                    raise ValueError(f"Limits.{field.name} must be at least 1, not {value!r}")
        if self.receive_buffer < MAX_RECORD:
            raise ValueError(f"Limits.receive_buffer must hold one whole record ({MAX_RECORD} bytes), not {self.receive_buffer}")
        if self.handshake_timeout == 0:
            raise ValueError("Limits.handshake_timeout must be more than 0: no handshake is complete in no time")
