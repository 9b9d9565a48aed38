"""What ``ssl.SSLObject`` and ``ssl.SSLSocket`` hold inside: there OpenSSL (``_ssl._SSLSocket``), here a connector.

The ``ssl`` module's two classes are thin shells over that object. Ours has its methods, in two forms: over a pair of ``ssl.MemoryBIO``, and
over the socket that the shell itself is.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ..buffers import scratch
from ..connector import Connector
from ..errors import Alert, ApiMisuse, TLSError
from ..events import IdentityNeeded
from ..session import Session
from ..ssl_object import SSLObject
from ..states import HandshakeState, ReadSide, ReadStatus
from ..sync.socket import TLSSocket
from ..sync.wire import SocketWire, WantReadError, WantWriteError
from .errors import as_ssl_error, ssl_error, want_read, want_write, zero_return

if TYPE_CHECKING:
    from .context import SSLContext

__all__ = ["BioConnection", "Connection", "SocketConnection"]

_T = TypeVar("_T")


class _Certificate:
    """The one method that the shells call on the certificates of a chain."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self._certificate = certificate

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Certificate) and self._certificate == other._certificate

    def __hash__(self) -> int:
        return hash(self._certificate)

    def public_bytes(self, encoding: int) -> bytes | str:
        der = self._certificate.public_bytes(Encoding.DER)
        return der if encoding == 2 else ssl.DER_cert_to_PEM_cert(der)


class Connection:
    """What both forms answer."""

    def __init__(self, context: SSLContext, about: SSLObject, owner: Any, server_hostname: str | None) -> None:
        self._context = context
        # The shell that holds this.
        self._owner: Callable[[], Any] = weakref.ref(owner) if owner is not None else lambda: None
        self._server_hostname = server_hostname
        # Whether unwrap() was begun: reading to the end is an error then, and not an end.
        self._unwrapping = False
        # Cipher suite numbers in the ClientHello.
        self._offered: frozenset[int] = frozenset()
        #: who knows about the connection
        self.about: SSLObject = about

    @property
    def connector(self) -> Connector:
        """The connection itself; everything that is known about it can be asked there."""
        return self.about.connector

    # -- the identity of a server --------------------------------------------------------------------------------------------------

    def choose(self, event: IdentityNeeded) -> None:
        """Lets ``sni_callback`` say which context holds for this connection. The whole of it holds, its verification too: OpenSSL would
        take over the certificate and leave the rest (FAULTS F17)."""
        connector = self.connector
        self._offered = frozenset(event.cipher_suites)
        callback = self._context.sni_callback
        if callback is not None:
            try:
                alert = callback(self._owner(), event.server_name, self._context)  # type: ignore[arg-type]
            except Exception as error:
                connector.refuse_client(Alert.HANDSHAKE_FAILURE, f"sni_callback raised {error!r}")
                sys.unraisablehook(_Unraisable(error, callback))  # type: ignore[arg-type]
                return
            if alert is not None:
                if isinstance(alert, int):
                    connector.refuse_client(alert & 0xFF, f"sni_callback refused the name {event.server_name!r}")
                else:
                    error = TypeError(f"sni_callback must return None or an alert's number, not {alert!r}")
                    connector.refuse_client(Alert.INTERNAL_ERROR, str(error))
                    sys.unraisablehook(_Unraisable(error, callback))  # type: ignore[arg-type]
                return
        made = self._context.server_context()
        if made is None:
            connector.refuse_client(Alert.HANDSHAKE_FAILURE, "the server has no certificate; call load_cert_chain() on its context")
        else:
            connector.provide_identity(made)

    # -- questions -----------------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> SSLContext:
        """The look-alike context. Another can be set by ``sni_callback``, or on a client before the handshake."""
        return self._context

    @context.setter
    def context(self, context: SSLContext) -> None:
        if not hasattr(context, "server_context"):
            raise TypeError(f"context must be a sslconnector.stdlib.SSLContext, as the first one is, not {type(context).__name__}")
        if not self.server_side and self.connector.handshake_state is HandshakeState.NOT_STARTED:
            self.about.connector = context.connector_for(False, self._server_hostname)
        self._context = context

    @property
    def owner(self) -> Any:
        """The shell."""
        return self._owner()

    @property
    def server_side(self) -> bool:
        return self.about.server_side

    @property
    def server_hostname(self) -> str | None:
        return self._server_hostname

    @property
    def session(self) -> Session | None:
        """A client's session, a :class:`sslconnector.Session`. May be set before the handshake."""
        return self.about.session

    @session.setter
    def session(self, session: Session | None) -> None:
        if not isinstance(session, Session):
            raise TypeError(f"session must be a sslconnector.Session, as .session gives them here, not {type(session).__name__}")
        if self.server_side:
            raise ValueError("Cannot set session for server-side SSLSocket.")
        if self.connector.handshake_state is not HandshakeState.NOT_STARTED:
            raise ValueError("Cannot set session after handshake.")
        self.about.connector = self._context.connector_for(False, self._server_hostname, session)

    @property
    def session_reused(self) -> bool:
        return bool(self.about.session_reused)

    def version(self) -> str | None:
        return self.about.version()

    def cipher(self) -> tuple[str, str, int] | None:
        return self.about.cipher()

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """A server's cipher suites that the client offered, too."""
        if not self._offered or self.version() is None:
            return None
        shared = [entry for entry in self._context.get_ciphers() if entry["id"] & 0xFFFF in self._offered]
        return [(entry["name"], entry["protocol"], entry["strength_bits"]) for entry in shared]

    def compression(self) -> None:
        return None

    def selected_alpn_protocol(self) -> str | None:
        return self.about.selected_alpn_protocol()

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes | None:
        """``"tls-exporter"`` and ``"tls-server-end-point"``, which ``ssl`` has not; not ``"tls-unique"``."""
        if self.version() is None and cb_type in ("tls-unique", "tls-exporter", "tls-server-end-point"):
            return None
        return self._call(lambda: self.about.get_channel_binding(cb_type))

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        if self.version() is None:
            raise ValueError("handshake not done yet")
        return self._call(lambda: self.about.getpeercert(binary_form))

    def get_verified_chain(self) -> list[_Certificate]:
        return [_Certificate(certificate) for certificate in self._call(lambda: self.connector.peer_chain)]

    def get_unverified_chain(self) -> list[_Certificate]:
        return [_Certificate(certificate) for certificate in self._call(lambda: self.connector.sent_chain)]

    def verify_client_post_handshake(self) -> None:
        self._call(self.connector.request_client_certificate)

    def _finish_read(self, got: _T) -> _T:
        """What a read has given, ``b""`` or 0 being the end."""
        if not got and self._unwrapping:
            raise zero_return()
        return got

    @staticmethod
    def _call(call: Callable[[], _T], what: str = "") -> _T:
        """``call``, with the errors of the ``ssl`` module. As with its own, which come out of C, no frame below is in their tracebacks: it
        would keep the caller's buffer from being resized.

        :param what: its name, for the message of a time-out.
        """
        made: OSError
        try:
            return call()
        except WantReadError:
            made = want_read()
        except WantWriteError:
            made = want_write()
        except TLSError as error:
            made = as_ssl_error(error)
        except TimeoutError:
            made = TimeoutError(f"The {what} operation timed out")
        except OSError as error:
            made = error.with_traceback(None)
        try:
            raise made
        finally:
            # Else it would hold itself by its traceback (FAULTS F28).
            del made


class _Unraisable:
    """What ``sys.unraisablehook`` wants: there the ``ssl`` module reports what ``sni_callback`` raises."""

    def __init__(self, error: BaseException, callback: object) -> None:
        self.exc_type, self.exc_value, self.exc_traceback = type(error), error, error.__traceback__
        self.err_msg, self.object = "Exception ignored in sni_callback", callback


class BioConnection(Connection):
    """Over two ``ssl.MemoryBIO``. There is no clock and nobody who waits: deadlines are those of whoever carries the bytes."""

    def __init__(
        self, context: SSLContext, connector: Connector, owner: Any, server_hostname: str | None, incoming: Any, outgoing: Any
    ) -> None:
        super().__init__(context, SSLObject(connector), owner, server_hostname)
        self._incoming, self._outgoing = incoming, outgoing
        self._started = self._established = self._ended = False
        self._due: float | None = None

    def _pump(self, call: Callable[[], _T]) -> _T:
        """``call``, and whatever it did, what the peer has to get."""
        try:
            return self._call(call)
        finally:
            self._drain()

    def do_handshake(self) -> None:
        if not self._established:
            self._pump(self._shake)

    def _shake(self) -> None:
        connector = self.connector
        if not self._started:
            self._started = True
            connector.start()
        while connector.handshake_state is not HandshakeState.COMPLETED:
            if connector.failure is not None:
                raise connector.failure
            if connector.handshake_state is HandshakeState.WAITING_FOR_IDENTITY:
                event = connector.next_event()
                assert isinstance(event, IdentityNeeded)
                self.choose(event)
            elif not self._fill():
                raise want_read()
        self._established = True

    def _fill(self) -> bool:
        """Takes up to the end of a record or header, as OpenSSL does: loops look at what is left in the BIO. False: there is nothing."""
        connector = self.connector
        if connector.receive_window and (data := self._incoming.read(connector.record_remaining)):
            connector.receive(data)
            return True
        if self._incoming.eof and not self._ended:
            self._ended = True
            connector.receive_eof()
            return True
        return False

    def _drain(self) -> None:
        connector = self.connector
        if connector.timer_changed or self._due is not None:
            now = time.monotonic()
            self._due = connector.get_timer(now)
            if self._due is not None and self._due <= now:
                connector.handle_timer(now)
        if data := connector.data_to_send():
            self._outgoing.write(data)

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        self.do_handshake()
        if buffer is None:
            if size < 0:
                raise ValueError("size should not be negative")
            return self._read_some(lambda: self.connector.read(size)) if size else b""
        with memoryview(buffer) as whole, whole.cast("B") as view, view[: size if size > 0 else None] as part:
            return self._read_some(lambda: self.connector.read_into(part)) if part else 0

    def _read_some(self, take: Callable[[], _T]) -> _T:
        connector = self.connector

        def read() -> _T:
            while True:
                if (got := take()) or connector.read_side is not ReadSide.OPEN:
                    return got
                if connector.read_status is not ReadStatus.MORE and not self._fill():
                    raise want_read()

        return self._finish_read(self._pump(read))

    def write(self, data: Any) -> int:
        self.do_handshake()
        with memoryview(data) as whole, whole.cast("B") as view:
            self._pump(lambda: self.connector.write(view))
            return len(view)

    def pending(self) -> int:
        return self.connector.pending

    def shutdown(self) -> None:
        """Sends close_notify and wants the peer's."""
        self.do_handshake()
        self._unwrapping = True
        self._pump(self._unwrap)

    def _unwrap(self) -> None:
        connector = self.connector
        connector.close_write()
        while connector.read_side is ReadSide.OPEN:
            if connector.read():
                raise _unread()
            if connector.read_side is ReadSide.OPEN and connector.read_status is not ReadStatus.MORE and not self._fill():
                raise want_read()


def _unread() -> ssl.SSLError:
    return ssl_error("APPLICATION_DATA_AFTER_CLOSE_NOTIFY", "the peer's data was not read to its end before unwrap()")


class _OwnWire(SocketWire):
    """The socket that the shell is: its descriptor and time-out, without TLS. It may be in blocking mode, so each call is made only when it
    does not wait."""

    _DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)

    def __init__(self, owner: socket.socket) -> None:
        self._owner = weakref.ref(owner)

    @property
    def sock(self) -> Any:
        owner = self._owner()
        if owner is None:
            raise OSError("the socket is gone")
        return owner

    @sock.setter
    def sock(self, value: Any) -> None:
        raise AttributeError("set once")

    def recv_into(self, buffer: memoryview) -> int | None:
        sock = self.sock
        if not self._ready(sock, read=True):
            return None
        try:
            return socket.socket.recv_into(sock, buffer, 0, self._DONTWAIT)
        except BlockingIOError:
            return None

    def send(self, data: memoryview) -> int | None:
        sock = self.sock
        if not self._ready(sock, read=False):
            return None
        try:
            return socket.socket.send(sock, data, self._DONTWAIT)
        except BlockingIOError:
            return None

    def _ready(self, sock: Any, *, read: bool) -> bool:
        timeout = sock.gettimeout()
        if timeout == 0 or (timeout is None and self._DONTWAIT):
            return True
        # Python itself would wait as long as the time-out, and the flag has no say in it.
        return self.wait(read, not read, 0)

    def get_timeout(self) -> float | None:
        return self.sock.gettimeout()  # type: ignore[no-any-return]

    def release(self) -> socket.socket:
        return self.sock  # type: ignore[no-any-return]


class _Socket(TLSSocket):
    """Reads no further than a record, as OpenSSL does: what belongs to the next one stays in the kernel, where ``select`` sees it, and what
    follows TLS stays on the socket."""

    chooser: Callable[[IdentityNeeded], None]

    def _provide_identity(self) -> None:
        event = self.connector.next_event()
        assert isinstance(event, IdentityNeeded)
        self.chooser(event)

    def _receive_buffer(self) -> memoryview:
        return scratch()[: self.connector.record_remaining]


class SocketConnection(Connection):
    """Over the socket that the shell is."""

    about: _Socket

    def __init__(self, context: SSLContext, connector: Connector, owner: Any, server_hostname: str | None) -> None:
        super().__init__(context, _Socket(_OwnWire(owner), connector), owner, server_hostname)
        self.about.chooser = self.choose
        # What a write that raised has taken: the next one, with the same data, goes on from there, as OpenSSL's does.
        self._taken = 0

    def do_handshake(self, block: bool = False) -> None:
        self._call(self.about.do_handshake, "handshake")

    def read(self, size: int = 1024, buffer: Any = None) -> Any:
        about = self.about
        if buffer is None:
            if size < 0:
                raise ValueError("size should not be negative")
            return self._finish_read(self._call(lambda: about.recv(size), "read")) if size else b""
        with memoryview(buffer) as whole, whole.cast("B") as view, view[: size if size > 0 else None] as part:
            return self._finish_read(self._call(lambda: about.recv_into(part), "read")) if part else 0

    def write(self, data: Any) -> int:
        """Who waits gets all of it sent, and programs count on that; on a non-blocking socket, some."""
        about = self.about
        with memoryview(data) as whole, whole.cast("B") as view:
            if len(view) < self._taken:
                raise ssl_error("BAD_WRITE_RETRY", "after an error, repeat the write with the same data")
            while self._taken < len(view):
                self._call(about.flush, "write")
                if self._taken and about.gettimeout() == 0:
                    break
                self._taken += self._call(lambda: about.send(view[self._taken :]), "write")
            self._call(about.flush, "write")
            taken, self._taken = self._taken, 0
            return taken

    def pending(self) -> int:
        return self.connector.pending

    def shutdown(self) -> Any:
        """Sends close_notify, waits for the peer's, and gives the socket back."""
        self._unwrapping = True
        return self._call(self._unwrap, "shutdown")

    def _unwrap(self) -> Any:
        try:
            return self.about.unwrap()[0]
        except ApiMisuse as error:
            raise _unread() from error

    def say_goodbye(self) -> None:
        """close_notify, if the socket takes it now."""
        self.about.say_goodbye()
