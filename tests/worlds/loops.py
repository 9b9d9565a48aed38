"""Loops in threads, and what it takes to call into them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any

import pytest
import trio
from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread
from twisted.logger import globalLogBeginner

from .base import TIMEOUT, AsyncListener, AsyncWorld

__all__ = ["AsyncioWorld", "DeferredEvent", "ReactorWorld", "TrioLoopWorld"]


class AsyncioWorld(AsyncWorld):
    """An event loop in a thread."""

    close_tells_of_a_cut = True

    def __init__(self, loop: str) -> None:
        super().__init__()
        if loop == "uvloop":
            self.loop = pytest.importorskip("uvloop").new_event_loop()
        else:
            self.loop = asyncio.new_event_loop()
        self.tasks: list[asyncio.Task[Any]] = []
        self.problems: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        future = asyncio.run_coroutine_threadsafe(make(), self.loop)
        try:
            return future.result(TIMEOUT)
        except TimeoutError:
            if not future.done():
                future.cancel()
                raise AssertionError(f"a call did not return within {TIMEOUT} s") from None
            raise

    def spawn(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.tasks.append(self.loop.create_task(function()))

    @staticmethod
    def serve(listener: AsyncListener, server: asyncio.Server) -> None:
        """``server`` is what the listener closes."""

        async def end() -> None:
            server.close()

        listener.port, listener.end = server.sockets[0].getsockname()[1], end

    def cancelled(self, steps: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        async def run() -> bool:
            task = asyncio.ensure_future(make())
            for _ in range(steps):
                if task.done():
                    break
                await asyncio.sleep(0)
            if task.done():
                task.result()
                return True
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return False
            return True

        return self.call(run)  # type: ignore[no-any-return]

    def close(self) -> None:
        super().close()

        async def settle() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)

        self.call(settle)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT)
        self.loop.close()
        assert self.problems == []


class TrioLoopWorld(AsyncWorld):
    """trio in a thread."""

    def __init__(self) -> None:
        super().__init__()
        started = threading.Event()

        async def main() -> None:
            self.token, self.end = trio.lowlevel.current_trio_token(), trio.Event()
            async with trio.open_nursery() as self.nursery:
                started.set()
                await self.end.wait()
                self.nursery.cancel_scope.cancel()

        self.thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
        self.thread.start()
        started.wait(TIMEOUT)

    def call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            with trio.move_on_after(TIMEOUT):
                return await make()
            raise AssertionError(f"a call did not return within {TIMEOUT} s")

        return trio.from_thread.run(run, trio_token=self.token)

    def spawn(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.nursery.start_soon(function)

    def cancelled(self, steps: int, make: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        async def run() -> bool:
            finished, problems = False, []

            async def work() -> None:
                nonlocal finished
                try:
                    await make()
                    finished = True
                except Exception as error:
                    problems.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                for _ in range(steps):
                    if not finished and not problems:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            for problem in problems:
                raise problem
            return finished

        return self.call(run)  # type: ignore[no-any-return]

    def close(self) -> None:
        super().close()
        self.token.run_sync_soon(self.end.set)
        self.thread.join(TIMEOUT)


class ReactorWorld(AsyncWorld):
    """Twisted in a thread: one reactor for good, since it cannot be started twice. Coroutines await Deferreds."""

    cancels = False

    @staticmethod
    @cache
    def reactor() -> Any:
        from twisted.internet import reactor

        # Until logging begins, Twisted keeps everything that is logged, and so every factory.
        globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
        threading.Thread(target=reactor.run, args=(False,), daemon=True).start()  # type: ignore[attr-defined, misc]
        return reactor

    def call(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        def run() -> defer.Deferred[Any]:
            return defer.Deferred.fromCoroutine(make()).addTimeout(TIMEOUT, self.reactor())

        return blockingCallFromThread(self.reactor(), run)

    def close(self) -> None:
        super().close()
        # The reactor keeps its latest call until the next: not one that knows this world.
        blockingCallFromThread(self.reactor(), int)


class DeferredEvent:
    """asyncio.Event, for Twisted."""

    def __init__(self) -> None:
        self.fired: defer.Deferred[None] = defer.Deferred()

    def set(self) -> None:
        if not self.fired.called:
            self.fired.callback(None)

    def clear(self) -> None:
        if self.fired.called:
            self.fired = defer.Deferred()

    def wait(self) -> defer.Deferred[None]:
        return self.fired
