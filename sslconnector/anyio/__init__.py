"""TLS for anyio, on asyncio and trio: a stream, a listener, a connectable."""

try:
    import anyio as _needed  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("sslconnector.anyio needs anyio: pip install 'sslconnector[anyio]'", name="anyio") from error

from .streams import ConnectorAttribute, IdentityProvider, TLSConnectable, TLSListener, TLSStream

__all__ = ["ConnectorAttribute", "IdentityProvider", "TLSConnectable", "TLSListener", "TLSStream"]
