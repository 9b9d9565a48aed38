"""TLS for Twisted: over any transport, for any protocol factory."""

try:
    import twisted as _needed  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("sslconnector.twisted needs twisted: pip install 'sslconnector[twisted]'", name="twisted") from error

from .endpoints import TLSClientEndpoint, TLSFactory, TLSServerEndpoint
from .protocol import IdentityProvider, TLSProtocol, start_tls
from .transport import TLSTransport

__all__ = ["IdentityProvider", "TLSClientEndpoint", "TLSFactory", "TLSProtocol", "TLSServerEndpoint", "TLSTransport", "start_tls"]
