"""What many watches need of the same change, made once: the decoded object and the line that is sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
LIMIT = 1024


class WatchCache:
    """The last ``LIMIT`` things made, by key."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._made: OrderedDict[Hashable, Any] = OrderedDict()
        self._limit = limit

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        try:
            made: T = self._made[key]
        except KeyError:
            made = self._made[key] = make()
            if len(self._made) > self._limit:
                self._made.popitem(last=False)
        return made
