"""Where objects are kept: bytes under keys, one number that grows with every write.

The contract is etcd's, as far as Kubernetes needs it:

- One *revision* for the whole store. Every write takes the next one; an object's ``revision`` is that of its last
  write, and the API shows it as ``metadata.resourceVersion``.
- Writes are compare-and-swap: who updates or deletes names the revision it has seen and is told ``Conflict`` if the
  object has moved on. A write that returned is durable.
- History is kept for a while: ``list`` can look back at a revision, ``watch`` can start from one. Older than what is
  kept: ``Gone``, and the client lists again.

Keys are paths without a leading slash: ``services/default/web``, ``nodes/node-1``. Prefixes end in a slash. Values are
opaque here; what they mean is the API server's business. ``sqlite`` is the engine of a single machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store cannot be used: what, where, and what to do."""


class AlreadyExists(Exception):
    """There is an object under this key."""


class NotFound(Exception):
    """There is no object under this key."""


class Conflict(Exception):
    """The object's revision is not the one that was expected."""


class Gone(Exception):
    """The history no longer reaches back to this revision (or does not reach it yet).

    ``current`` is the store's revision, ``oldest`` the first one that can be asked for.
    """

    def __init__(self, revision: int, *, oldest: int, current: int) -> None:
        self.revision, self.oldest, self.current = revision, oldest, current
        super().__init__(f"revision {revision} is not in the history, which covers {oldest} to {current}")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it lies in the store."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a collection, ordered by key, as it was at ``revision``. ``more``: keys follow the last one."""

    items: tuple[Stored, ...]
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One write. ``old`` is None for a creation, ``new`` is None for a deletion; ``revision`` is the write's own."""

    key: str
    old: bytes | None
    new: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in order. Nothing else happened under the watch's prefix up to and including ``revision``."""

    changes: tuple[Change, ...]
    revision: int


class Watch(Protocol):
    """A place in the history. It holds no queue: a reader that is slow falls back, it does not make the store grow."""

    async def next(self, timeout: float) -> Batch:
        """Wait at most ``timeout`` seconds for changes; an empty batch says that there were none. Raises Gone.

        Cancelling loses nothing: the next call continues where the last batch ended.
        """

    def close(self) -> None:
        """Give it up. Closing twice is fine."""


class Store(Protocol):
    """All methods raise StoreError if the engine fails."""

    async def revision(self) -> int:
        """The revision of the last write (1 for a store that has never been written to)."""

    async def get(self, key: str) -> Stored | None:
        """One object, or None."""

    async def list(self, prefix: str, *, after: str = "", limit: int = 0, revision: int | None = None) -> Page:
        """Objects under ``prefix`` whose key is greater than ``after``, at most ``limit`` (0: all).

        ``revision`` asks for the state at that revision (None: now). Raises Gone.
        """

    async def create(self, key: str, value: bytes) -> int:
        """Returns the write's revision. Raises AlreadyExists."""

    async def update(self, key: str, value: bytes, *, revision: int) -> int:
        """Replace the object last written at ``revision``. Returns the new one. Raises NotFound, Conflict."""

    async def delete(self, key: str, *, revision: int) -> int:
        """Remove the object last written at ``revision``. Returns the removal's own. Raises NotFound, Conflict."""

    def watch(self, prefix: str, *, after: int) -> Watch:
        """All changes under ``prefix`` (empty: of everything) later than revision ``after``."""

    async def close(self) -> None:
        """Finish what was accepted, then let go of everything."""
