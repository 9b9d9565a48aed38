"""Calls in any order give a result or a TLSError that says why; bytes are never lost, doubled or mixed up."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sslconnector import ApiMisuse, Connector, HandshakeState, ReadSide, ReadStatus, TLSError, TLSVersion, WriteSide, _engine

from .helpers import PKI, examples

_pki = PKI()


class _End:
    """One side, its wire to the peer, and what a correct peer may expect."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.wire = bytearray()
        self.wire_ended = False
        self.written = bytearray()
        self.got = bytearray()
        self.now = 0.0


class ConnectorMachine(RuleBasedStateMachine):
    @initialize(
        version=st.sampled_from([TLSVersion.TLSv1_2, TLSVersion.TLSv1_3]),
        engine=st.sampled_from(list(_engine.ENGINES)),
        on_demand=st.booleans(),
    )
    def make(self, version: TLSVersion, engine: str, on_demand: bool) -> None:
        twin, _engine.default_engine = _engine.default_engine, _engine.ENGINES[engine]
        options = {"groups": "X25519:P-256", "maximum_version": version}
        server = {"identities": None, "identity_on_demand": True} if on_demand else {}
        try:
            client = Connector(_pki.client_context(**options), server_hostname="localhost")
            self.ends = (_End(client), _End(Connector(_pki.server_context(**options, **server))))
        finally:
            _engine.default_engine = twin

    who = st.integers(0, 1)

    @rule(who=who)
    def start(self, who: int) -> None:
        try:
            self.ends[who].connector.start()
        except ApiMisuse as error:
            assert who == 0
            assert "called once" in str(error)

    @rule(who=who, data=st.binary(max_size=50), times=st.sampled_from([1, 1, 1, 400, 2000]))
    def write(self, who: int, data: bytes, times: int) -> None:
        end = self.ends[who]
        open_ = end.connector.write_side is WriteSide.OPEN
        try:
            end.connector.write(data * times)
        except ApiMisuse:
            assert not open_ or end.connector.handshake_state is not HandshakeState.COMPLETED
        except TLSError:
            assert end.connector.failure is not None
        else:
            assert open_
            end.written += data * times

    @rule(who=who, size=st.sampled_from([1, 3, 100, 5000, 1 << 20]), into=st.booleans())
    def send(self, who: int, size: int, into: bool) -> None:
        end = self.ends[who]
        expected = end.connector.bytes_to_send
        if into:
            buffer = bytearray(size)
            count = end.connector.send_into(buffer)
            assert count == min(size, expected)
            end.wire += buffer[:count]
        else:
            data = end.connector.data_to_send()
            assert len(data) == expected
            end.wire += data

    @rule(who=who, size=st.sampled_from([1, 2, 5, 50, 1000, 1 << 20]))
    def carry(self, who: int, size: int) -> None:
        sender, receiver = self.ends[who], self.ends[1 - who]
        size = min(size, len(sender.wire), receiver.connector.receive_window)
        try:
            receiver.connector.receive(bytes(sender.wire[:size]))
        except ApiMisuse as error:
            assert receiver.connector.handshake_state is HandshakeState.NOT_STARTED
            assert "call start()" in str(error)
        else:
            del sender.wire[:size]

    @precondition(lambda self: any(not end.wire for end in self.ends))
    @rule(who=who)
    def end_wire(self, who: int) -> None:
        if not self.ends[1 - who].wire:
            self.ends[who].connector.receive_eof()
            self.ends[who].wire_ended = True

    @rule(who=who, size=st.sampled_from([1, 10, 3000, 65536]), into=st.booleans())
    def read(self, who: int, size: int, into: bool) -> None:
        end = self.ends[who]
        try:
            if into:
                buffer = bytearray(size)
                end.got += buffer[: end.connector.read_into(buffer)]
            else:
                data = end.connector.read(size)
                assert len(data) <= size
                end.got += data
        except TLSError as error:
            assert not isinstance(error, ApiMisuse)
            assert type(error) is type(end.connector.failure)

    @rule(who=who)
    def take_events(self, who: int) -> None:
        connector = self.ends[who].connector
        while connector.events_pending:
            assert connector.next_event() is not None
        assert connector.next_event() is None

    @rule(who=who)
    def provide_identity(self, who: int) -> None:
        try:
            self.ends[who].connector.provide_identity(_pki.server)
        except ApiMisuse as error:
            assert "no identity is needed" in str(error)

    @rule(who=who)
    def close_write(self, who: int) -> None:
        self.ends[who].connector.close_write()

    @rule(who=who)
    def close(self, who: int) -> None:
        self.ends[who].connector.close()

    @rule(who=who, dice=st.integers(0, 9))
    def abort(self, who: int, dice: int) -> None:
        if dice == 0:
            self.ends[who].connector.abort()
            assert self.ends[who].connector.failure is not None

    @rule(who=who, seconds=st.sampled_from([0.0, 0.1, 1.0, 4.0]))
    def wait(self, who: int, seconds: float) -> None:
        end = self.ends[who]
        due = end.connector.get_timer(end.now)
        assert due is None or due >= 0
        end.now += seconds
        end.connector.handle_timer(end.now)
        end.connector.release_memory()

    @invariant()
    def what_is_read_was_written(self) -> None:
        for end, peer in (self.ends, self.ends[::-1]) if hasattr(self, "ends") else ():
            assert peer.written.startswith(end.got)
            connector = end.connector
            if connector.read_side is ReadSide.CLOSED and connector.failure is None:
                # A clean end: nothing may be missing.
                assert end.got == peer.written
            if connector.handshake_state is not HandshakeState.COMPLETED:
                assert not end.got
            assert connector.bytes_to_send >= 0
            assert isinstance(connector.read_status, ReadStatus)
            assert isinstance(connector.finished, bool)
            repr(connector)


ConnectorMachine.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=60)
TestConnectorMachine = ConnectorMachine.TestCase
