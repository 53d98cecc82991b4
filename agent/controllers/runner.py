"""The engine of every controller: a queue of keys, and workers that reconcile them.

Changes say only *that* an object needs a look; ``reconcile(key)`` reads what is true now and moves the world one step
towards what should be. So changes may be merged, repeated or seen late without harm. The queue gives what client-go's
workqueue gives:

- a key is worked on by one worker at a time; adding it meanwhile makes it run once more afterwards;
- a key that waits already is not queued twice, so a burst of changes is one run;
- a key whose ``reconcile`` failed comes back after 5 ms, 10 ms, 20 ms ... up to ``LONGEST``; success forgets that.

client-go's longest pause is 1000 s. Here it is short: on one machine a failure is mostly an API server that is being
restarted, and a person who waits for a Service should not wait for a timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NoReturn, TypeVar

from agent.kube.client import KubeError

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)

FIRST, LONGEST = 0.005, 30.0  # seconds: pause after the first failure, longest pause
QUIET = 4  # failures in a row that are ordinary (a cache that lags, a conflict) and told only at DEBUG


class Queue(Generic[K]):
    """Keys to be worked on, each at most once at a time. For one event loop."""

    def __init__(self) -> None:
        self._order: deque[K] = deque()
        self._dirty: set[K] = set()  # to be worked on, waiting in ``_order`` or for ``done``
        self._active: set[K] = set()
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._ready = asyncio.Semaphore(0)

    def __len__(self) -> int:
        """Keys that could be worked on now."""
        return len(self._order)

    def add(self, key: K) -> None:
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._active:
            self._push(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add ``key`` after a while; of several such wishes for a key the earliest counts."""
        loop = asyncio.get_running_loop()
        planned = self._later.get(key)
        if planned is not None:
            if planned.when() <= loop.time() + seconds:
                return
            planned.cancel()
        self._later[key] = loop.call_later(seconds, self._due, key)

    def retry(self, key: K) -> float:
        """Add ``key`` after a pause that doubles with each failure in a row; returns the pause in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(FIRST * 2.0 ** min(failures, 32), LONGEST)
        self.add_after(key, pause)
        return pause

    def forget(self, key: K) -> None:
        """``key`` succeeded: its next failure is the first."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; it must be given back with ``done``."""
        await self._ready.acquire()
        key = self._order.popleft()
        self._dirty.discard(key)
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        self._active.discard(key)
        if key in self._dirty:
            self._push(key)

    def close(self) -> None:
        """Cancel every timer."""
        for handle in self._later.values():
            handle.cancel()
        self._later.clear()

    def _push(self, key: K) -> None:
        self._order.append(key)
        self._ready.release()

    def _due(self, key: K) -> None:
        del self._later[key]
        self.add(key)


class Controller(Generic[K]):
    """A named ``reconcile`` with its queue. ``run`` works until cancelled; a key that fails never stops the others."""

    def __init__(self, name: str, reconcile: Callable[[K], Awaitable[None]], *, workers: int = 4) -> None:
        self.name, self.queue = name, Queue[K]()
        self._reconcile, self._workers = reconcile, workers

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        except asyncio.CancelledError:
            self.queue.close()
            raise

    async def _work(self) -> NoReturn:
        while True:
            key = await self.queue.get()
            try:
                await self._once(key)
            finally:
                self.queue.done(key)

    async def _once(self, key: K) -> None:
        try:
            await self._reconcile(key)
        except KubeError as error:
            self._tell(key, error, self.queue.retry(key))
        except Exception:
            pause = self.queue.retry(key)
            log.exception("%s: %s: unexpected failure, trying again in %.3g s", self.name, key, pause)
        else:
            self.queue.forget(key)

    def _tell(self, key: K, error: KubeError, pause: float) -> None:
        level = logging.DEBUG if self.queue.failures(key) <= QUIET else logging.WARNING
        log.log(level, "%s: %s: %s: trying again in %.3g s", self.name, key, error, pause)
