"""A configuration made ready: keys parsed, stores built, once, for any number of connections.

Making a context is the slow part (reading a system's CA certificates takes tens of milliseconds) and may be done in a worker thread;
using it is not. Contexts are safe to share between threads. Make a ServerContext *before* forking workers: it holds the ticket keys, and
only what is inherited lets one worker resume what another began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from . import _engine
from .client_hello import ClientHello
from .config import ClientConfig, ServerConfig
from .errors import ConfigurationError
from .hostname import lookup, normalise_pattern, usable_patterns
from .identity import Identity, as_identities
from .trust import TrustStore

__all__ = ["ClientContext", "ServerContext"]


class ClientContext:
    """Shared by the connections of one client configuration.

    :param config: None for ``ClientConfig()``.
    :param options: instead of a config, its fields: ``ClientContext(trust=...)``.
    :raises ConfigurationError: when something cannot be used; the message says what and why.
    """

    def __init__(self, config: ClientConfig | None = None, **options: Any) -> None:
        config = _config(ClientConfig, config, options)
        self.config: ClientConfig = config
        trust = None
        if config.verify_peer:
            trust = TrustStore.system() if config.trust is None else config.trust
        self.engine_context = _engine.client_context(config, trust)
        beliefs = hashlib.sha256()
        beliefs.update(bytes([config.verify_peer, config.verify_hostname, config.verify_hook is not None]))
        beliefs.update(trust.fingerprint if trust is not None else bytes(32))
        beliefs.update(config.identity.fingerprint if config.identity is not None else bytes(32))
        #: what a session made here is bound to, apart from the server's name; 32 bytes
        self.session_binding: bytes = beliefs.digest()

    def __repr__(self) -> str:
        return f"<ClientContext {'verifying' if self.config.verify_peer else 'NOT VERIFYING'}>"


class ServerContext:
    """Shared by the connections of one server configuration.

    :param config: or, instead, its fields: ``ServerContext(identities=...)``.
    :raises ConfigurationError: when something cannot be used; the message says what and why.
    """

    def __init__(self, config: ServerConfig | None = None, **options: Any) -> None:
        self.config: ServerConfig = _config(ServerConfig, config, options)
        self._default = Policy("", self.config)
        self._policies = {pattern: Policy(pattern, host) for pattern, host in self.config.hosts.items()}

    def __repr__(self) -> str:
        return f"<ServerContext, {len(self._policies)} hosts with their own policy>"

    def check_identity_provider(self, provider: object) -> None:
        """For adapters: whether they can answer ``IdentityNeeded`` where this context asks for it.

        :raises ConfigurationError: when a policy has ``identity_on_demand`` and there is no provider.
        :raises TypeError: when the provider cannot be called.
        """
        if provider is not None and not callable(provider):
            raise TypeError(f"identity_provider must be callable, not {type(provider).__name__}")
        if provider is None and any(config.identity_on_demand for config in (self.config, *self.config.hosts.values())):
            raise ConfigurationError(
                "the context has identity_on_demand: pass identity_provider=, a function that is given an IdentityNeeded event"
            )

    @property
    def shown(self) -> tuple[Identity, ...]:
        """The outer identities that are shown now."""
        return self._default.identities

    def policy_for(self, hello: ClientHello) -> Policy:
        """The policy that holds for the name that a client asks for. Chosen once, before the TLS object is made (FAULTS F17)."""
        if hello.server_name is None:
            return self._default
        return lookup(self._policies, hello.server_name) or self._default

    def reload_identities(self, identities: Identity | Sequence[Identity], host: str | None = None) -> None:
        """Shows other identities from the next connection on, for instance a renewed certificate.

        Connections that are open, or in their handshake, go on with what they have; session tickets stay valid.

        :param host: the key in ``ServerConfig.hosts`` whose identities to replace; None for the outer ones.
        :raises ConfigurationError: when an identity cannot be used (the old ones stay), or identities are given on demand.
        :raises ValueError: when ``host`` is no name at all.
        """
        if host is None:
            policy = self._default
        else:
            found = self._policies.get(normalise_pattern(host))
            if found is None:
                raise ConfigurationError(f"there is no host {host!r}; configured are: {', '.join(self._policies) or 'none'}")
            policy = found
        policy.reload(as_identities(identities, "identities"))


class Policy:
    """The front context of one server policy, and its identities' contexts."""

    def __init__(self, name: str, config: ServerConfig) -> None:
        self.config = config
        # Tickets carry this; OpenSSL refuses to resume a session that was made under another. Equal on all workers.
        beliefs = hashlib.sha256(name.encode() + b"\0" + config.client_certificates.encode() + b"\0")
        beliefs.update(config.trust.fingerprint if config.trust is not None else b"")
        self._session_id_context = beliefs.digest()
        self.front = _engine.server_context(config, None, self._session_id_context)
        # One attribute, so that a reload in another thread is seen whole or not at all.
        self._shown: tuple[list[tuple[Identity, _engine.EngineContext]], dict[str, list[int]]] = ([], {})
        if config.identities:
            self.reload(as_identities(config.identities, "identities"))

    @property
    def identities(self) -> tuple[Identity, ...]:
        """What is shown."""
        return tuple(identity for identity, _ in self._shown[0])

    def engine_context(self, identity: Identity) -> _engine.EngineContext:
        """A context that shows ``identity`` under this policy."""
        return _engine.server_context(self.config, identity, self._session_id_context)

    def reload(self, identities: tuple[Identity, ...]) -> None:
        """Replaces the identities; on an error nothing has changed."""
        if self.config.identity_on_demand:
            raise ConfigurationError("with identity_on_demand=True every connection asks for its identity; there is nothing to reload")
        if not identities:
            raise ConfigurationError("a server needs at least one identity; pass what it shall show from now on")
        made = [(identity, self.engine_context(identity)) for identity in identities]
        by_name: dict[str, list[int]] = {}
        for position, identity in enumerate(identities):
            for pattern in usable_patterns(identity.dns_names):
                by_name.setdefault(pattern, []).append(position)
        self._shown = (made, by_name)

    def choose(self, hello: ClientHello) -> _engine.EngineContext | None:
        """The context of the identity to show, or None when the name is unknown and such clients are refused."""
        shown, by_name = self._shown
        candidates = None if hello.server_name is None else lookup(by_name, hello.server_name)
        if candidates is None:
            if hello.server_name is not None and self.config.unknown_name == "refuse":
                return None
            candidates = list(range(len(shown)))
        if len(candidates) > 1:
            for position in candidates:
                identity, context = shown[position]
                if hello.accepts(identity):
                    return context
        return shown[candidates[0]][1]


def _config(kind: type[Any], config: Any, options: dict[str, Any]) -> Any:
    if config is None:
        return kind(**options)
    if options:
        raise TypeError(f"pass a {kind.__name__} or its fields, not both")
    if not isinstance(config, kind):
        raise TypeError(f"config must be a {kind.__name__}, not {type(config).__name__}")
    return config
