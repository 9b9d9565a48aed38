"""One TLS connection as OpenSSL sees it: an SSL object between two memory BIOs.

::

        feed(ciphertext)  -> [in BIO]  -> SSL -> decrypt() -> plaintext
        drain() <- ciphertext <- [out BIO] <- SSL <- encrypt(plaintext)

How the machine underneath behaves, and what follows:

* A memory BIO that is empty says "retry", so ``SSL_read`` and ``SSL_do_handshake`` fail with WANT_READ. An exception for that would cost
  more than the decryption of a small record: here "nothing yet" is the number 0.
* ``SSL_MODE_AUTO_RETRY`` is off: ``SSL_read`` then comes back after every record that carries no application data. This is what lets the
  connector count KeyUpdates and tickets one by one, and stop a flood in time (FAULTS F08).
* ``SSL_read`` is called once for each whole record that was fed, no more: no call must fail to find out that nothing is left. Only the
  handshake and records without application data need a look at the in BIO to keep the count right: see ``settle``.
* A memory BIO never shrinks (F34): ``release_memory`` puts fresh ones in, when both are empty.
* The end of the wire is not told to OpenSSL; whether it is a truncation is the connector's to say (F05).

Set-up, handshake and facts are the same for all twins and live here. The four data flows (feed, decrypt, encrypt, drain) are made
more than once: :class:`.direct.DirectEngine` calls the binding, :class:`.public.PublicEngine` pyOpenSSL's public methods alone, and
:class:`.compiled.CompiledEngine`, where a compiler was there, does in C what the first does in Python.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptography import x509
from OpenSSL import SSL

from ..errors import Alert
from ..hostname import ServerName
from . import callbacks
from .binding import OpenSSLError, clear_errors, ffi, lib, take_errors
from .contexts import EngineContext

if TYPE_CHECKING:
    from . import _pump
    from .lane import DirectLane

__all__ = ["SLICE", "SLOTS", "Engine", "EngineFailure", "Outcome"]

#: Larger writes are encrypted so many bytes at a time and drained in between: the out BIO stays that small, whatever is written.
SLICE = 65536


class Outcome(enum.Enum):
    """Why ``decrypt`` returned."""

    #: the buffer is full, no whole record is left, or the budget is used up
    DATA = enum.auto()
    #: a record carried no application data
    USELESS = enum.auto()
    #: the peer sent close_notify
    CLOSED = enum.auto()
    #: the connection is broken; ``errors`` tells why, and an alert may lie in the output
    FAILED = enum.auto()


_HOST_FLAGS = lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
# A record of a type that does not exist, to make OpenSSL send a fatal alert: it has no function for that.
_POISON = b"\xff\x03\x03\x00\x01\x00"


class EngineFailure(Exception):
    """OpenSSL refused to go on: ``errors`` is what its queue held, the oldest first."""

    def __init__(self, errors: list[OpenSSLError]) -> None:
        super().__init__(errors)
        self.errors = errors


SLOTS = (
    "__weakref__",
    "_connection",
    "_contexts",
    "_rbio",
    "_ssl",
    "_wbio",
    "alert_received",
    "alert_sent",
    "callback_error",
    "errors",
    "outcome",
    "records",
    "verify_failure",
    "verify_hook",
)


class Engine:
    """Set-up, handshake and facts. Not for overlapping calls; the connector sees to that."""

    # The twins declare SLOTS: a class in C can only be combined with one that has none of its own. (Type checkers would take an empty
    # tuple for the truth about the attributes.)
    if not TYPE_CHECKING:
        __slots__ = ()

    _connection: SSL.Connection
    _contexts: list[EngineContext]
    _ssl: Any
    _rbio: Any
    _wbio: Any

    #: what tests and reports call the twin
    name = "none"
    #: does plain turns over a socket in the shortest way (lane.py)
    lane_type: type[DirectLane] | type[_pump.Lane] | None = None

    def __init__(self, context: EngineContext, verify_hook: Callable[[tuple[x509.Certificate, ...]], bool | None] | None) -> None:
        #: last fatal alert in each direction
        self.alert_sent: Alert | int | None = None
        self.alert_received: Alert | int | None = None
        #: what a callback of the application raised
        self.callback_error: BaseException | None = None
        #: OpenSSL's code, depth, the certificate, the chain: the first certificate that was refused
        self.verify_failure: tuple[int, int, x509.Certificate | None, tuple[x509.Certificate, ...]] | None = None
        self.verify_hook = verify_hook
        #: whole records that were fed and not decrypted: at most so many, since a handshake takes its own without counting
        self.records = 0
        #: why the last ``decrypt`` returned, and with FAILED what the error queue held
        self.outcome = Outcome.DATA
        self.errors: list[OpenSSLError] = []
        # pyOpenSSL's Connection keeps its Context alive, not what ours keeps for the callbacks.
        self._contexts = [context]
        self._connection = connection = SSL.Connection(context.context)
        self._ssl = connection._ssl
        self._rbio, self._wbio = connection._into_ssl, connection._from_ssl
        lib.SSL_clear_mode(self._ssl, lib.SSL_MODE_AUTO_RETRY)
        callbacks.register(self._ssl, self)

    # -- set-up --------------------------------------------------------------------------------------------------------------------

    def become_client(self, name: ServerName | None, verify_name: bool, session: bytes | None) -> None:
        """Client role; the name goes into SNI (not an address) and, if asked for, must be in the server's certificate (F03)."""
        ssl = self._ssl
        self._connection.set_connect_state()
        if name is not None:
            if name.dns is not None:
                self._connection.set_tlsext_host_name(name.dns.encode("ascii"))
            if verify_name:
                parameters = lib.SSL_get0_param(ssl)
                lib.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
                if name.dns is not None:
                    done = lib.X509_VERIFY_PARAM_set1_host(parameters, name.dns.encode("ascii"), len(name.dns))
                else:
                    done = lib.X509_VERIFY_PARAM_set1_ip(parameters, name.ip, len(name.ip or b""))
                if done != 1:  # pragma: no cover - out of memory
                    raise EngineFailure(take_errors())
        if session is not None:
            clear_errors()
            made = _decode_session(session)
            done = made is not None and lib.SSL_set_session(ssl, made)
            if done != 1:
                raise EngineFailure(take_errors())

    def become_server(self, identity: EngineContext | None) -> None:
        """Server role; ``identity`` is the context to switch to for key and chain."""
        self._connection.set_accept_state()
        if identity is not None:
            self._contexts.append(identity)
            self._connection.set_context(identity.context)

    # -- handshake and end ---------------------------------------------------------------------------------------------------------

    def handshake(self) -> bool:
        """Goes on with the handshake. True: complete. False: it needs more input.

        :raises EngineFailure: when it failed; an alert may lie in the output.
        """
        clear_errors()
        result = lib.SSL_do_handshake(self._ssl)
        if result == 1:
            return True
        # The queue was empty before. It is asked first: "want read" can be left over from an earlier call.
        errors = take_errors()
        if not errors and lib.SSL_want_read(self._ssl):
            return False
        raise EngineFailure(errors)

    def settle(self, tail: int) -> None:
        """After a call that brought no application data: corrects ``records`` by a look into the in BIO.

        Such a call need not have taken exactly one record. OpenSSL owes an answer to a KeyUpdate and sends it with one of the next
        calls, a read among them, which then fails without having looked at its record; and a message can span several records.

        :param tail: how many bytes of an incomplete record were fed.
        """
        self.records = max(self.records, 1) if self.input_pending() > tail else 0

    def send_close_notify(self) -> None:
        """Puts close_notify into the output (RFC 8446 section 6.1). The other direction stays open."""
        clear_errors()
        lib.SSL_shutdown(self._ssl)
        take_errors()

    def send_fatal_alert(self) -> None:
        """Puts a fatal alert (unexpected_message) into the output and ends the connection; the input is thrown away.

        OpenSSL sends alerts only for reasons of its own, so it is given one.
        """
        self._replace_bios(keep_output=True)
        lib.BIO_write(self._rbio, _POISON, len(_POISON))
        clear_errors()
        lib.SSL_read(self._ssl, ffi.new("char[]", 1), 1)
        take_errors()

    def request_client_certificate(self) -> None:
        """A server's CertificateRequest after the handshake goes into the output."""
        clear_errors()
        if lib.SSL_verify_client_post_handshake(self._ssl) != 1:
            raise EngineFailure(take_errors())
        lib.SSL_do_handshake(self._ssl)
        if failure := take_errors():
            raise EngineFailure(failure)

    def plaintext_pending(self) -> int:
        """Decrypted and not fetched: the rest of a record."""
        return int(lib.SSL_pending(self._ssl))

    def take_input(self) -> bytes:
        """All ciphertext that OpenSSL has not looked at yet: what follows close_notify belongs to somebody else."""
        size = self.input_pending()
        target = ffi.new("char[]", size or 1)
        got = lib.BIO_read(self._rbio, target, size) if size else 0
        return bytes(ffi.buffer(target, max(got, 0)))

    def input_pending(self) -> int:
        """Bytes that were fed and OpenSSL has not looked at yet."""
        return int(lib.BIO_get_mem_data(self._rbio, ffi.NULL))

    def release_memory(self) -> bool:
        """Gives back what the BIOs grew to. True if done; False while there is something in one of them (it would be lost)."""
        if self.input_pending() or self.output_pending():
            return False
        self._replace_bios()
        return True

    def _replace_bios(self, *, keep_output: bool = False) -> None:
        # SSL_set_bio frees the BIOs that it replaces, so everybody who has a pointer to them gets the new ones at once.
        method = lib.BIO_s_mem()
        self._rbio = lib.BIO_new(method)
        if not keep_output:
            self._wbio = lib.BIO_new(method)
        lib.SSL_set_bio(self._ssl, self._rbio, self._wbio)
        self._connection._into_ssl, self._connection._from_ssl = self._rbio, self._wbio

    # -- the four flows: see the twins ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes | memoryview, size: int) -> None:
        """Takes ``size`` bytes of ciphertext, all of ``data``; copies them."""
        raise NotImplementedError

    @staticmethod
    def check_buffer(buffer: Any) -> int:
        """The size of a writable buffer of the caller's, in bytes.

        :raises TypeError: when it is not writable.
        :raises ValueError: when it has no room.
        """
        raise NotImplementedError

    def decrypt_into(self, buffer: Any, budget: int) -> int:
        """Decrypts at most ``budget`` whole records to the beginning of ``buffer``, as many as fit. There must be one.

        :returns: how many bytes were written, all of them good. ``outcome`` says why it stopped; ``records`` has counted down.
        :raises TypeError, ValueError: as ``check_buffer``.
        """
        raise NotImplementedError

    def decrypt_bytes(self, size: int, budget: int) -> bytes:
        """The same into a new bytes object of at most ``size`` bytes, at most ``SCRATCH_SIZE``."""
        raise NotImplementedError

    def encrypt(self, data: bytes | memoryview, size: int) -> None:
        """Encrypts ``data``, at most SLICE bytes, into the output."""
        raise NotImplementedError

    def write_failed(self) -> EngineFailure:
        """Why ``encrypt`` failed, when it was called elsewhere."""
        return EngineFailure(take_errors())

    def encrypt_large(self, data: bytes | memoryview, size: int) -> memoryview:
        """Encrypts ``data`` of any size. Returns the output, with all that was there before."""
        raise NotImplementedError

    def output_pending(self) -> int:
        """Bytes of ciphertext in the output."""
        raise NotImplementedError

    def drain(self) -> bytes:
        """Takes all of the output."""
        raise NotImplementedError

    def drain_into(self, buffer: Any, offset: int) -> int:
        """Takes output into the caller's buffer, from ``offset``, as much as fits: the number of bytes."""
        raise NotImplementedError

    # -- facts ---------------------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """``TLSv1.2`` or ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    def cipher(self) -> tuple[str, int]:
        """Name and secret bits of the cipher suite."""
        return self._connection.get_cipher_name() or "", self._connection.get_cipher_bits() or 0

    def group(self) -> str | None:
        """The key exchange group, or None where there was none."""
        clear_errors()
        name = lib.SSL_get0_group_name(self._ssl)
        take_errors()
        return None if name == ffi.NULL else ffi.string(name).decode()

    def alpn_protocol(self) -> str | None:
        """The agreed application protocol."""
        name = self._connection.get_alpn_proto_negotiated()
        return name.decode("utf-8", "backslashreplace") if name else None

    def server_name(self) -> str | None:
        """The name in the ClientHello, as OpenSSL read it: lower case, without a trailing dot."""
        name = self._connection.get_servername()
        return None if name is None else name.decode("ascii", "backslashreplace").removesuffix(".").lower()

    def resumed(self) -> bool:
        """Whether a session was resumed."""
        return bool(lib.SSL_session_reused(self._ssl))

    def own_certificate(self) -> x509.Certificate | None:
        """The certificate that this side showed."""
        return self._connection.get_certificate(as_cryptography=True)

    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's certificate."""
        return self._connection.get_peer_certificate(as_cryptography=True)

    def peer_chain(self) -> tuple[x509.Certificate, ...]:
        """The verified chain up to the trust anchor; what the peer sent, where nothing was verified (or a session was resumed)."""
        return tuple(self._connection.get_verified_chain(as_cryptography=True) or self.sent_chain())

    def sent_chain(self) -> tuple[x509.Certificate, ...]:
        """What the peer sent, its own certificate first."""
        own = self.peer_certificate()
        sent = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        # A server's list lacks the client's own certificate, a client's begins with the server's.
        return tuple(sent if own is None or own in sent else [own, *sent])

    def session_serial(self) -> int:
        """A number that changes when the session does: each ticket makes a new one."""
        return int(ffi.cast("uintptr_t", lib.SSL_get_session(self._ssl)))

    def session(self) -> bytes | None:
        """The session, serialised (ASN.1), or None."""
        session = lib.SSL_get1_session(self._ssl)
        if session == ffi.NULL:
            return None
        try:
            size = lib.i2d_SSL_SESSION(session, ffi.NULL)
            if size <= 0:
                return None
            data = ffi.new("unsigned char[]", size)
            lib.i2d_SSL_SESSION(session, ffi.new("unsigned char **", data))
            return bytes(ffi.buffer(data))
        finally:
            lib.SSL_SESSION_free(session)
            take_errors()

    def extended_master_secret(self) -> bool:
        """Whether TLS 1.2 bound its master secret to the handshake (RFC 7627); always so on TLS 1.3."""
        return bool(lib.SSL_get_extms_support(self._ssl) == 1)

    def export(self, label: bytes, length: int, context: bytes | None) -> bytes:
        """Keying material (RFC 5705, RFC 8446 section 7.5)."""
        clear_errors()
        out = ffi.new("unsigned char[]", length)
        done = lib.SSL_export_keying_material(
            self._ssl, out, length, label, len(label), context or b"", len(context or b""), context is not None
        )
        if done != 1:
            raise EngineFailure(take_errors())
        return bytes(ffi.buffer(out))


def _decode_session(data: bytes) -> Any:
    """An SSL_SESSION from its serialised form, freed with the returned object; None if it is damaged."""
    buffer = ffi.new("unsigned char[]", data)
    session = lib.d2i_SSL_SESSION(ffi.NULL, ffi.new("unsigned char **", buffer), len(data))
    if session == ffi.NULL:
        take_errors()
        return None
    return ffi.gc(session, lib.SSL_SESSION_free)
