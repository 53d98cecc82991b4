"""A controller must not decide upon a cache that is older than its own last writes.

It would create the same pods, or the same slice, a second time. client-go's controllers count the events they expect
("expectations"); here the question is asked of the cache itself: has it come as far as the ``resourceVersion`` of what
I wrote (KEP-5504 makes that comparison legal), and is what I deleted gone or going? Nothing is lost when events are
missed during a broken watch, because the answer does not depend on events. (Kubernetes 1.36 goes this way: KEP-5647.)
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from agent.controllers.objects import Meta
from agent.kube.informer import Informer, Key

PATIENCE = 30.0  # seconds after which a write that the cache never showed is given up (a server that was reset)
LOOK_AGAIN = 0.5  # seconds: when no event tells that the cache caught up


class HasMeta(Protocol):
    @property
    def metadata(self) -> Meta: ...


K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Note:
    version: int = 0
    deleted: set[tuple[Key, str]] = field(default_factory=set)
    until: float = 0.0


class Expectations(Generic[K]):
    """What was written on behalf of each key, and whether the cache of the written kind knows it."""

    def __init__(self, informer: Informer[Any]) -> None:
        self._informer = informer
        self._notes: dict[K, _Note] = {}

    def wrote(self, key: K, stored: dict[str, Any]) -> None:
        """``stored``: the object as the server answered to a create, replace or patch."""
        version = str(stored.get("metadata", {}).get("resourceVersion", ""))
        note = self._note(key)
        note.version = max(note.version, int(version) if version.isdecimal() else 0)

    def deleted(self, key: K, value: HasMeta) -> None:
        self._note(key).deleted.add((value.metadata.key, value.metadata.uid))

    def fulfilled(self, key: K) -> bool:
        """Whether the cache shows everything that was written for ``key``."""
        note = self._notes.get(key)
        if note is None:
            return True
        note.deleted = {entry for entry in note.deleted if self._still_there(*entry)}
        if time.monotonic() < note.until and (self._informer.version < note.version or note.deleted):
            return False
        del self._notes[key]
        return True

    def _note(self, key: K) -> _Note:
        note = self._notes.setdefault(key, _Note())
        note.until = time.monotonic() + PATIENCE
        return note

    def _still_there(self, key: Key, uid: str) -> bool:
        value: HasMeta | None = self._informer.cache.get(key)
        return value is not None and value.metadata.uid == uid and value.metadata.deletion_timestamp is None
