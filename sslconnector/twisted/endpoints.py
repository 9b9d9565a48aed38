"""Factories and endpoints that put TLS between a transport and any protocol."""

from __future__ import annotations

from typing import Any

from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from zope.interface import implementer

from ..connector import Connector
from ..context import ClientContext, ServerContext
from ..limits import Limits
from ..session import Session
from .protocol import IdentityProvider, TLSProtocol, global_reactor, log_prefix

__all__ = ["TLSClientEndpoint", "TLSFactory", "TLSServerEndpoint"]


@implementer(interfaces.IProtocolFactory, interfaces.ILoggingContext)
class TLSFactory:
    """Wraps a factory: its protocols talk TLS over whatever transport this one's get.

    :param context: a client's or a server's; it says which side this is.
    :param factory: any ``IProtocolFactory``.
    :param server_hostname: for clients: the name that the certificate must carry.
    :param session: for clients: a session to resume.
    :param limits: instead of the context's, with the deadlines for handshake and close among others.
    :param identity_provider: for a context with ``identity_on_demand``; may return a Deferred.
    :param reactor: None for Twisted's global one.
    """

    def __init__(
        self,
        context: ClientContext | ServerContext,
        factory: Any,
        *,
        server_hostname: str | None = None,
        session: Session | None = None,
        limits: Limits | None = None,
        identity_provider: IdentityProvider | None = None,
        reactor: Any = None,
    ) -> None:
        if not callable(getattr(factory, "buildProtocol", None)):
            raise TypeError(f"factory must be an IProtocolFactory; {type(factory).__name__} has no buildProtocol()")
        if isinstance(context, ServerContext):
            context.check_identity_provider(identity_provider)
        self.wrappedFactory = factory
        self._context = context
        self._options: dict[str, Any] = {"server_hostname": server_hostname, "session": session, "limits": limits}
        self._identity_provider = identity_provider
        self._reactor = reactor
        # What is wrong with the arguments shows now, not at the first connection.
        Connector(context, **self._options)

    def logPrefix(self) -> str:  # noqa: N802
        return log_prefix(self, self.wrappedFactory)

    def doStart(self) -> None:  # noqa: N802
        self.wrappedFactory.doStart()

    def doStop(self) -> None:  # noqa: N802
        self.wrappedFactory.doStop()

    def startedConnecting(self, connector: Any) -> None:  # noqa: N802
        self.wrappedFactory.startedConnecting(connector)

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:  # noqa: N802
        self.wrappedFactory.clientConnectionFailed(connector, reason)

    def clientConnectionLost(self, connector: Any, reason: Any) -> None:  # noqa: N802
        self.wrappedFactory.clientConnectionLost(connector, reason)

    def buildProtocol(self, addr: Any) -> TLSProtocol | None:  # noqa: N802
        application = self.wrappedFactory.buildProtocol(addr)
        if application is None:
            return None
        connector = Connector(self._context, **self._options)
        return TLSProtocol(self._reactor or global_reactor(), connector, application, identity_provider=self._identity_provider)


@implementer(interfaces.IStreamClientEndpoint)
class TLSClientEndpoint:
    """Wraps a client endpoint.

    :param endpoint: any ``IStreamClientEndpoint``.
    :param options: as for :class:`TLSFactory`.
    """

    def __init__(self, endpoint: Any, context: ClientContext, server_hostname: str | None = None, **options: Any) -> None:
        if not isinstance(context, ClientContext):
            raise TypeError(f"context must be a ClientContext, not {type(context).__name__}")
        self._endpoint, self._context = endpoint, context
        self._options: dict[str, Any] = {"server_hostname": server_hostname, **options}

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
        """Fires with the factory's protocol when the handshake is complete, or with the :class:`~sslconnector.TLSError` why it is not."""
        factory = TLSFactory(self._context, protocolFactory, **self._options)
        connected: Deferred[Any] = self._endpoint.connect(factory)
        return connected.addCallback(TLSProtocol.when_established)


@implementer(interfaces.IStreamServerEndpoint)
class TLSServerEndpoint:
    """Wraps a server endpoint.

    :param endpoint: any ``IStreamServerEndpoint``.
    :param options: as for :class:`TLSFactory`.
    """

    def __init__(self, endpoint: Any, context: ServerContext, **options: Any) -> None:
        if not isinstance(context, ServerContext):
            raise TypeError(f"context must be a ServerContext, not {type(context).__name__}")
        self._endpoint, self._context, self._options = endpoint, context, options

    def listen(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803
        """As the wrapped endpoint's; fires with its listening port."""
        listening: Deferred[Any] = self._endpoint.listen(TLSFactory(self._context, protocolFactory, **self._options))
        return listening
