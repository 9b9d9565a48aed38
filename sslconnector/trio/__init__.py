"""TLS for trio: streams and listeners."""

try:
    import trio as _needed  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("sslconnector.trio needs trio: pip install 'sslconnector[trio]'", name="trio") from error

from .streams import (
    IdentityProvider,
    TLSListener,
    TLSStream,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
    serve_tls_over_tcp,
)

__all__ = [
    "IdentityProvider",
    "TLSListener",
    "TLSStream",
    "open_tls_over_tcp_listeners",
    "open_tls_over_tcp_stream",
    "serve_tls_over_tcp",
]
