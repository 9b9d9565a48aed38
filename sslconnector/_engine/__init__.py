"""The one place that touches OpenSSL.

``Engine`` is the twin that new connections use: ``direct`` unless the environment variable ``SSLCONNECTOR_ENGINE`` says ``public``.
"""

from __future__ import annotations

import os

from .binding import openssl_version
from .contexts import EngineContext, client_context, server_context
from .direct import DirectEngine
from .engine import SLICE, Engine, EngineFailure, Outcome, decode_session
from .explain import explain
from .public import PublicEngine

__all__ = [
    "ENGINES",
    "SLICE",
    "Engine",
    "EngineContext",
    "EngineFailure",
    "Outcome",
    "client_context",
    "decode_session",
    "default_engine",
    "explain",
    "openssl_version",
    "server_context",
]

#: the twins by name
ENGINES: dict[str, type[Engine]] = {"direct": DirectEngine, "public": PublicEngine}


def _choose(name: str) -> type[Engine]:
    if name not in ENGINES:
        raise ImportError(f"SSLCONNECTOR_ENGINE must be one of {', '.join(ENGINES)}, not {name!r}")
    return ENGINES[name]


#: what new connections use
default_engine: type[Engine] = _choose(os.environ.get("SSLCONNECTOR_ENGINE") or "direct")
