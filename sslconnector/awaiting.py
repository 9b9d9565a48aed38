"""The adapter loop of ``connector.py`` for worlds that await: what trio and anyio have in common, which is all but their words.

A world brings its wire (:class:`Wire`) and a few of its tools (:class:`World`), and keeps tasks from receiving, or sending, at the same
time.
Two rules are kept here:

* Ciphertext that was taken from the connector leaves in order, or the connection is broken and says so. It is taken and sent under one lock
  that is fair (FAULTS F22). Where a wire tells how much a cancelled ``send`` has taken, a cancelled call loses nothing (F21).
* After every wait the connector is asked anew (F23).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from .connector import Connector
from .context import ServerContext
from .errors import ApiMisuse, CallbackError, CloseTimeout, ConnectionAborted, HandshakeInterrupted, HandshakeTimeout, TLSError
from .events import IdentityNeeded
from .identity import Identity
from .limits import LINGER_BYTES, LINGER_SECONDS
from .states import HandshakeState, ReadSide, ReadStatus, WriteSide

__all__ = ["AwaitingTLS", "IdentityProvider", "Wire", "WireLost", "World"]

#: Answers the question which identity a server shows; may be a coroutine function.
IdentityProvider = Callable[[IdentityNeeded], "Identity | ServerContext | Awaitable[Identity | ServerContext]"]

# Plaintext that one step of send() takes: large enough for the cost of a call not to count, small enough to wait in memory.
_PIECE = 262144
# How long a task that reads waits for the wire to take an answer of OpenSSL's: if the peer takes nothing, reading goes on.
_MOMENT = 0.01


class WireLost(ConnectionError):
    """The wire is broken; the world's own error is the cause."""


class Wire(Protocol):
    """What carries ciphertext, in the same words for every world."""

    #: Whether a ``send`` that was cancelled has taken nothing. If not, nobody knows what it took.
    keeps: bool
    #: Whether closing it while the peer still sends destroys what the peer has not read yet, as TCP does (FAULTS F29).
    resets: bool
    #: Whether a ``send`` that was cancelled goes on by itself.
    busy: bool

    async def receive(self, most: int) -> bytes | bytearray:
        """Some bytes; none at the end. Raises :class:`WireLost`."""

    async def send(self, data: memoryview) -> int:
        """How many bytes were taken, at least one. Raises :class:`WireLost`."""

    async def end_writing(self) -> None:
        """Tells the peer that nothing more comes, where the wire can. Raises :class:`WireLost`."""

    async def close(self) -> None:
        """Closes it; at once, if cancelled."""


class World(Protocol):
    """The tools of a world."""

    Lock: Any
    CancelScope: Any
    current_time: Any
    checkpoint: Any
    checkpoint_if_cancelled: Any
    cancel_shielded_checkpoint: Any
    BrokenResourceError: Any
    ClosedResourceError: Any


class AwaitingTLS:
    """A connector and the wire that it talks over."""

    def __init__(
        self,
        world: type[World],
        wire: Wire,
        connector: Connector,
        identity_provider: IdentityProvider | None = None,
        left_over: bytes = b"",
    ) -> None:
        if not isinstance(left_over, bytes | bytearray):
            raise TypeError(f"left_over must be bytes, not {type(left_over).__name__}")
        if isinstance(connector.context, ServerContext):
            connector.context.check_identity_provider(identity_provider)
        self.connector = connector
        self.wire = wire
        #: Whether the stream was closed, or unwrapped.
        self.closed = False
        self._world = world
        self._identity_provider = identity_provider
        self._left_over = bytes(left_over)
        self._handshaking, self._sending = world.Lock(), world.Lock()
        self._started = self._established = False
        # Ciphertext that has left the connector and not been taken by the wire.
        self._chunk = memoryview(b"")
        # Plaintext that unwrap() found.
        self._unread = b""
        self._receiving = self._wire_ended = False
        self._broken: BaseException | None = None
        # Whether the call under way has waited for anything: the world wants every call to.
        self._waited = False

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Around every call of the stream: what goes wrong is the world's error, with ours as its cause."""
        world = self._world
        if self.closed:
            raise world.ClosedResourceError("this TLSStream was closed")
        try:
            yield
        except ApiMisuse:
            raise
        except (TLSError, WireLost) as error:
            if self.closed:
                raise world.ClosedResourceError("another task closed this TLSStream") from None
            raise world.BrokenResourceError(str(error)) from error

    # -- handshake -----------------------------------------------------------------------------------------------------------------

    async def shake(self) -> None:
        """The handshake, unless it is complete."""
        if self._established:
            return
        world, connector = self._world, self.connector
        async with self._handshaking:
            if self._established:
                return
            self.check_sendable()
            self._waited = True
            if not self._started:
                self._started = True
                connector.start()
            due = connector.get_timer(world.current_time())
            with world.CancelScope(deadline=math.inf if due is None else due):
                await self._shake()
                self._established = True
                return
            connector.handle_timer(max(world.current_time(), due or 0))
            await self._fail()

    async def _shake(self) -> None:
        try:
            await self._shake_hands()
        except TLSError:
            raise
        except WireLost as error:
            raise HandshakeInterrupted(f"the connection was lost before the handshake was complete: {error}") from error
        except Exception as error:
            # Something in the transport went wrong that it has no word for.
            self._broken = ConnectionAborted(f"the transport failed in the handshake: {error!r}")
            raise

    async def _shake_hands(self) -> None:
        connector = self.connector
        while connector.handshake_state is not HandshakeState.COMPLETED:
            if connector.failure is not None:
                await self._fail()
            if connector.handshake_state is HandshakeState.WAITING_FOR_IDENTITY:
                await self._provide_identity()
                continue
            try:
                await self.flush()
            except WireLost:
                # The peer takes no more. Perhaps it has said why: that is read next.
                pass
            await self._fill()
        await self.flush()

    async def _provide_identity(self) -> None:
        connector = self.connector
        event = connector.next_event()
        assert isinstance(event, IdentityNeeded)
        assert self._identity_provider is not None
        try:
            identity = self._identity_provider(event)
            if inspect.isawaitable(identity):
                identity = await identity
            connector.provide_identity(identity)
        except Exception as error:
            connector.abort()
            await self._part()
            raise CallbackError(f"the identity provider raised {error!r}; the connection was given up") from error

    async def _fail(self) -> None:
        await self._part()
        assert self.connector.failure is not None
        raise self.connector.failure.again()

    # -- reading -------------------------------------------------------------------------------------------------------------------

    async def receive(self, most: int) -> bytes:
        """At most so many bytes, as soon as there are any; none after the peer's close_notify."""
        self._waited = False
        await self._world.checkpoint_if_cancelled()
        await self.shake()
        connector = self.connector
        if not self._waited and (self._unread or connector.read_status is not ReadStatus.NEED_INPUT):
            # A call that has nothing to wait for is a checkpoint, too. Not after the data was taken: a cancellation there would lose it.
            await self._world.cancel_shielded_checkpoint()
        self._receiving = True
        try:
            while True:
                if self._unread:
                    data, self._unread = self._unread[:most], self._unread[most:]
                else:
                    data = connector.read(most)
                if data or connector.read_side is not ReadSide.OPEN:
                    break
                if connector.read_status is ReadStatus.MORE:
                    await self._world.cancel_shielded_checkpoint()
                else:
                    await self._fill()
        except TLSError:
            await self._part()
            raise
        finally:
            self._receiving = False
        return data

    async def _fill(self) -> None:
        """Some ciphertext from the wire into the connector, or a deadline seen to."""
        connector, world = self.connector, self._world
        if self._has_output():
            await self._flush_some()
        window = connector.receive_window
        if self._left_over:
            data, self._left_over = self._left_over[:window], self._left_over[window:]
            connector.receive(data)
            return
        self._waited = True
        if not window:
            # OpenSSL's own answers pile up: they have to leave first (FAULTS F08).
            await self.flush()
            return
        received: bytes | bytearray | None = None
        due = connector.get_timer(world.current_time()) if self._established else None
        try:
            if due is None:
                received = await self.wire.receive(window)
            else:
                with world.CancelScope(deadline=due):
                    received = await self.wire.receive(window)
        except WireLost:
            connector.receive_eof()
            raise
        if received is None:
            connector.handle_timer(max(world.current_time(), due or 0))
        elif received:
            connector.receive(received)
        else:
            self._wire_ended = True
            connector.receive_eof()

    # -- writing -------------------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Takes all of ``data`` and returns when the wire has it."""
        self._waited = False
        await self._world.checkpoint_if_cancelled()
        if self.half_closed:
            await self._world.cancel_shielded_checkpoint()
            raise self._world.ClosedResourceError("the peer was told by send_eof() that nothing more comes")
        await self.shake()
        connector = self.connector
        view = memoryview(data).cast("B")
        if self._chunk:
            await self.flush()
        for position in range(0, len(view), _PIECE):
            if self._broken is not None:
                break
            try:
                connector.write(view[position : position + _PIECE])
            except TLSError:
                await self._part()
                raise
            await self.flush()
        self.check_sendable()
        if not self._waited:
            await self._world.cancel_shielded_checkpoint()

    def check_sendable(self) -> None:
        """Raises why nothing more can be sent."""
        if self._broken is not None:
            raise WireLost(str(self._broken)) from self._broken

    @property
    def half_closed(self) -> bool:
        """Whether this side has said that it sends nothing more."""
        return self.connector.write_side in (WriteSide.CLOSING, WriteSide.CLOSED)

    def _has_output(self) -> bool:
        if self._broken is not None:
            return False
        return bool(self._chunk) or self.connector.bytes_to_send > 0

    async def flush(self) -> None:
        """Sends all there is."""
        if self._has_output():
            async with self._sending:
                await self._push()

    async def _flush_some(self) -> None:
        """For who reads: sends what the wire takes at once. Whoever is sending takes it along."""
        if self._sending.locked() or self.wire.busy:
            return
        world = self._world
        try:
            if self.wire.keeps:
                with world.CancelScope(deadline=world.current_time() + _MOMENT):
                    await self.flush()
            else:
                await self.flush()
        except WireLost:
            # Whoever writes is told. Who reads may still find something.
            pass

    async def _push(self) -> None:
        """Sends all there is; the caller holds ``_sending``."""
        while self._broken is None:
            if not self._chunk:
                self._chunk = memoryview(self.connector.data_to_send())
                if not self._chunk:
                    return
            self._waited = True
            try:
                sent = await self.wire.send(self._chunk)
            except WireLost as error:
                # A copy: what is kept must not know the frames of whoever is told (FAULTS F28).
                self._broken = WireLost(*error.args)
                self._broken.__cause__ = error.__cause__
                raise
            except BaseException:
                if not self.wire.keeps:
                    self._broken = ConnectionAborted(
                        "an earlier send was cancelled while the transport was taking ciphertext, and nobody knows how much it took"
                    )
                raise
            self._chunk = self._chunk[sent:]

    # -- the end -------------------------------------------------------------------------------------------------------------------

    async def close_write(self) -> None:
        """Half-close: close_notify, after all that was written."""
        self._waited = False
        await self._world.checkpoint_if_cancelled()
        await self.shake()
        self.connector.close_write()
        await self.flush()
        self.check_sendable()
        if not self._waited:
            await self._world.cancel_shielded_checkpoint()

    async def unwrap(self) -> bytes:
        """Ends TLS: sends close_notify and waits for the peer's. Returns what was read from the wire behind it.

        :raises ApiMisuse: when there is data that nobody has read; it can still be.
        """
        await self.close_write()
        if not self._unread:
            self._unread = await self.receive(_PIECE)
        if self._unread:
            raise ApiMisuse("the peer's data was not read to its end: receive until the end comes, then unwrap again")
        self.closed = True
        return self.connector.trailing_data() + self._left_over

    async def aclose(self) -> None:
        """``close`` as the world calls it: once, with its errors."""
        world = self._world
        if self.closed:
            await world.checkpoint()
            return
        self.closed = True
        try:
            await self.close()
        except ConnectionAborted:
            pass
        except TLSError as error:
            raise world.BrokenResourceError(str(error)) from error

    async def close(self) -> None:
        """Sends what was written and close_notify; waits for at most ``Limits.close_flush_timeout`` without any byte taken, then for at
        most a second for the peer's end. Closes the wire in any case.

        :raises CloseTimeout: when data that was written could not be sent.
        """
        connector = self.connector
        try:
            await self._world.checkpoint_if_cancelled()
            unsent = self._has_output() or self._sending.locked()
            if self._established:
                connector.close()
            else:
                connector.abort()
            try:
                done = await self._flush_for_close()
            except WireLost:
                return
            if done:
                await self._linger()
            elif unsent:
                seconds = connector.limits.close_flush_timeout
                raise CloseTimeout(f"after close() the peer took nothing for {seconds:g} s; data that was written before is lost")
        finally:
            await self.wire.close()

    async def _flush_for_close(self) -> bool:
        """Sends all there is, as long as something moves. False: it did not."""
        world, connector = self._world, self.connector
        while self._has_output() or self._sending.locked():
            before = len(self._chunk), connector.statistics.ciphertext_sent
            with world.CancelScope(deadline=world.current_time() + connector.limits.close_flush_timeout):
                async with self._sending:
                    await self._push()
            if (len(self._chunk), connector.statistics.ciphertext_sent) == before and self._has_output():
                return False
            if self._broken is not None:
                return not self._chunk
        return True

    async def _part(self) -> None:
        """The connection has failed: the alert that says why leaves, if it can (FAULTS F29)."""
        try:
            await self._flush_for_close()
        except WireLost:
            pass

    async def _linger(self) -> None:
        """Shuts the wire for writing and discards what still comes until the peer ends, too."""
        connector = self.connector
        if not self.wire.resets or self._wire_ended or self._receiving or connector.read_side is ReadSide.CLOSED:
            return
        if isinstance(connector.failure, ConnectionAborted | HandshakeTimeout):
            return
        left = LINGER_BYTES
        with self._world.CancelScope(deadline=self._world.current_time() + LINGER_SECONDS):
            try:
                await self.wire.end_writing()
                while left > 0 and (got := await self.wire.receive(LINGER_BYTES)):
                    left -= len(got)
            except WireLost:
                pass
