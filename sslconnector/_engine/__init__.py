"""The one place that touches OpenSSL.

Its twins do the same in three ways: ``compiled`` (optional), ``direct`` and ``public``. New connections use the first that is there,
or the one that the environment variable ``SSLCONNECTOR_ENGINE`` names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from .binding import openssl_version
from .contexts import EngineContext, client_context, server_context
from .direct import DirectEngine
from .engine import Engine, EngineFailure, Outcome
from .explain import explain
from .lane import DirectLane
from .public import PublicEngine

if TYPE_CHECKING:
    from . import _pump
    from ._pump import EpollSet

    Lane: TypeAlias = DirectLane | _pump.Lane

__all__ = [
    "ENGINES",
    "Engine",
    "EngineContext",
    "EngineFailure",
    "Outcome",
    "client_context",
    "default_engine",
    "epoll_set",
    "explain",
    "openssl_version",
    "server_context",
]

#: the twins by name, the preferred one first
ENGINES: dict[str, type[Engine]] = {}
try:
    from .compiled import CompiledEngine

    ENGINES["compiled"] = CompiledEngine
except ImportError:  # no compiler when it was installed
    pass
ENGINES.update(direct=DirectEngine, public=PublicEngine)


def _choose(name: str | None) -> type[Engine]:
    if not name:
        return next(iter(ENGINES.values()))
    if name not in ENGINES:
        raise ImportError(f"SSLCONNECTOR_ENGINE must be one of {', '.join(ENGINES)}, not {name!r}")
    return ENGINES[name]


#: what new connections use
default_engine: type[Engine] = _choose(os.environ.get("SSLCONNECTOR_ENGINE"))

#: the compiled twin's epoll set, where it is used; adapters have one in Python
epoll_set: type[EpollSet] | None = getattr(default_engine, "epoll_set", None)
