"""Certificates for the whole run, both engine twins, and one rule that holds in every test: OpenSSL's error queue is clean after every
call on a connector (FAULTS F16)."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sslconnector import Connector, _engine
from sslconnector._engine.binding import lib

from .helpers import PKI, VERSIONS

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("soak", settings.get_profile("ci"), derandomize=False, max_examples=2000)
settings.load_profile("ci")


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        finally:
            assert lib.ERR_peek_error() == 0, f"{function.__name__} left an entry in OpenSSL's error queue"

    return call


@pytest.fixture(scope="session", autouse=True)
def _error_queue_is_clean() -> Iterator[None]:
    """Every public call of every connector of every test is checked."""
    originals = {}
    for owner in Connector.__mro__[:-1]:
        for name, value in list(vars(owner).items()):
            if name.startswith("_"):
                continue
            if isinstance(value, property):
                assert value.fget is not None
                originals[owner, name] = value
                setattr(owner, name, property(_checked(value.fget)))
            elif callable(value):
                originals[owner, name] = value
                setattr(owner, name, _checked(value))
    assert len(originals) > 30
    yield
    for (owner, name), value in originals.items():
        setattr(owner, name, value)


@pytest.fixture(scope="session")
def pki() -> PKI:
    """A CA and what it issued."""
    return PKI()


@pytest.fixture(params=list(_engine.ENGINES))
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs once for each engine twin."""
    monkeypatch.setattr(_engine, "default_engine", _engine.ENGINES[request.param])
    return str(request.param)


@pytest.fixture(params=list(VERSIONS))
def version(request: pytest.FixtureRequest) -> str:
    """The test runs once for each TLS version, by its name in ``VERSIONS``."""
    return str(request.param)


Main = Callable[[], Coroutine[Any, Any, Any]]
_LOOPS = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]


@pytest.fixture(params=[*_LOOPS, "asyncio-debug"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function on one of the loops; anything the loop's exception handler gets is an error."""
    factory: Any = None
    if request.param == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        factory = uvloop.new_event_loop

    def run(main: Main) -> Any:
        problems: list[dict[str, Any]] = []

        async def wrapped() -> Any:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
            return await asyncio.wait_for(main(), 20)

        with asyncio.Runner(loop_factory=factory, debug=request.param == "asyncio-debug") as runner:
            result = runner.run(wrapped())
        assert len(problems) == getattr(main, "problem_count", 0), problems
        return result

    return run
