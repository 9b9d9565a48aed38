"""Deadlines without a clock.

What makes a deadline necessary happens in calls that know no time. So a timer is first only *wanted*; it gets its due time when the
adapter next asks, at the end of the same turn, and says what time it is.
"""

from __future__ import annotations

import enum

from .limits import Limits

__all__ = ["Timer", "Timers"]


class Timer(enum.Enum):
    """What a connection waits for; the value is the field of :class:`~sslconnector.Limits` with the seconds."""

    #: the handshake must be complete
    HANDSHAKE = "handshake_timeout"
    #: held session tickets may leave
    TICKETS = "ticket_delay"
    #: after ``close()``, the transport must have taken something
    FLUSH = "close_flush_timeout"
    #: after ``close()`` and the flush, the peer's close_notify is no longer awaited
    WAIT = "close_wait_timeout"
    #: without traffic in the meantime, memory is given back
    MEMORY = "release_memory_after"

    # Enum's own is a Python call for every look-up.
    __hash__ = object.__hash__


class Timers:
    """The wanted timers of one connection and their due times."""

    __slots__ = ("_due", "_limits", "changed")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._due: dict[Timer, float | None] = {}
        #: whether anything was started or stopped since the last ``arm``
        self.changed = False

    def __contains__(self, timer: Timer) -> bool:
        return timer in self._due

    def start(self, timer: Timer) -> None:
        """Wants ``timer``, or wants it anew."""
        self._due[timer] = None
        self.changed = True

    def stop(self, timer: Timer) -> None:
        """No longer wants ``timer``."""
        if timer in self._due:
            del self._due[timer]
            self.changed = True

    def clear(self) -> None:
        """No longer wants any."""
        self._due.clear()
        self.changed = True

    def arm(self, now: float) -> float | None:
        """Gives due times to what has none. Returns the earliest of all, or None."""
        self.changed = False
        earliest: float | None = None
        for timer, due in self._due.items():
            if due is None:
                due = self._due[timer] = now + float(getattr(self._limits, timer._value_))
            if earliest is None or due < earliest:
                earliest = due
        return earliest

    def take_due(self, now: float) -> list[Timer]:
        """What is due at ``now``, the earliest first; it is no longer wanted."""
        due = sorted((at, timer.value) for timer, at in self._due.items() if at is not None and at <= now)
        timers = [Timer(name) for _, name in due]
        for timer in timers:
            self.stop(timer)
        return timers
