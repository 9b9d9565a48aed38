"""TLS for plain sockets, blocking and non-blocking, and for anything else that has ``recv_into`` and ``send``."""

from .socket import IdentityProvider, TLSSocket, wrap_socket
from .wire import WantReadError, WantWriteError

__all__ = ["IdentityProvider", "TLSSocket", "WantReadError", "WantWriteError", "wrap_socket"]
