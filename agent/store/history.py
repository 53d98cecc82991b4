"""The recent past in memory, so that a change is read from disk by nobody and kept once for all who watch.

Every watch is a cursor into one shared window of changes. A write wakes only those whose prefix it touches. A cursor
that has fallen out of the window reads the engine's log instead, so a client that stopped reading costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

from agent.store import Batch, Change

WINDOW = 2048  # changes
STRIDE = 1000  # revisions read from the engine's log at once
# The engine's own log: changes under a prefix, later than the first and up to the second revision.
ReadLog = Callable[[str, int, int], Awaitable[tuple[Change, ...]]]


class History:
    """What happened lately. All of it lives in one event loop; ``publish`` is called in the order of revisions."""

    def __init__(self, revision: int, read_log: ReadLog, *, window: int = WINDOW) -> None:
        self._before = revision  # the window holds every change later than this
        self._changes: deque[Change] = deque()
        self._limit = window
        self._watches: set[Cursor] = set()
        self.read_log = read_log
        self.revision = revision

    def publish(self, changes: Iterable[Change]) -> None:
        """Add committed changes and wake those concerned. Revisions have no gaps."""
        for change in changes:
            assert change.revision == self.revision + 1, "revisions are published in order"
            self.revision = change.revision
            self._changes.append(change)
            for watch in self._watches:
                if change.key.startswith(watch.prefix):
                    watch.changed.set()
        while len(self._changes) > self._limit:
            self._before = self._changes.popleft().revision

    def since(self, revision: int) -> Iterable[Change] | None:
        """The changes later than ``revision``; None if the window does not reach back so far."""
        if revision < self._before:
            return None
        return islice(self._changes, revision - self._before, None)

    def watch(self, prefix: str, *, after: int) -> Cursor:
        cursor = Cursor(self, prefix, after)
        self._watches.add(cursor)
        return cursor

    def forget(self, watch: Cursor) -> None:
        self._watches.discard(watch)


class Cursor:
    """A watch (see ``agent.store.Watch``)."""

    def __init__(self, history: History, prefix: str, after: int) -> None:
        self._history, self._position = history, after
        self.prefix = prefix
        self.changed = asyncio.Event()
        self.changed.set()  # there may be changes from before

    async def next(self, timeout: float) -> Batch:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.changed.wait()
                    batch = await self._read()
                    if batch.changes:
                        return batch
        except TimeoutError:
            return self._idle()

    async def _read(self) -> Batch:
        until = self._history.revision
        found = self._history.since(self._position)
        if found is None or self._position > until:
            until = min(until, self._position + STRIDE)
            changes = await self._history.read_log(self.prefix, self._position, until)
        else:
            changes = tuple(change for change in found if change.key.startswith(self.prefix))
        self._position = max(self._position, until)
        if self._position >= self._history.revision:
            self.changed.clear()
        return Batch(changes, self._position)

    def _idle(self) -> Batch:
        """Nothing came. What others wrote meanwhile moves the position on: it was not under this prefix."""
        if not self.changed.is_set():
            self._position = max(self._position, self._history.revision)
        return Batch((), self._position)

    def close(self) -> None:
        self._history.forget(self)
