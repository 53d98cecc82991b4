"""Watching: what happens to the selected objects, one JSON line each.

A watch sees the collection through its selector: an object that begins to match is ADDED, one that ceases to is
DELETED, whatever really happened to it. Bookmarks (KEP-956) tell how far a quiet watch has come; with
``sendInitialEvents`` (KEP-3157) a watch begins with everything that is there and marks the end of that with one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from agent.apiserver import objects
from agent.apiserver.api import Api
from agent.apiserver.negotiate import Form
from agent.apiserver.paths import Target
from agent.apiserver.query import ListOptions, Selection, WatchOptions
from agent.apiserver.read import find, matcher
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.status import StatusError, expired
from agent.store import Change, Gone

LONGEST = 1800.0  # seconds; a watch without timeoutSeconds ends after one to two times this, as upstream's
BOOKMARK_EVERY = 60.0  # seconds


async def watch_lines(api: Api, target: Target, options: WatchOptions, form: Form) -> AsyncGenerator[bytes, None]:
    """Lines until the time is over. Problems become a line of type ERROR, which is the last one."""
    try:
        after = options.after
        if after is None:
            found = await find(api, target, ListOptions(options.selection, 0, None, None, None))
            after = found.revision
            yield b"".join(_line(form, target.kind, "ADDED", item.value, item.revision) for item in found.items)
            if options.initial_events and options.bookmarks:
                yield _bookmark(target.kind, form, after, initial=True)
        async with aclosing(_follow(api, target, options, form, after)) as lines:
            async for line in lines:
                yield line
    except Gone as error:
        yield _error(expired(f"too old resource version: {error.revision} ({error.oldest})"))
    except StatusError as error:
        yield _error(error)


async def _follow(
    api: Api, target: Target, options: WatchOptions, form: Form, after: int
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    end = loop.time() + (options.seconds or LONGEST * random.uniform(1, 2))
    watch = api.store.watch(target.prefix, after=after)
    view = _View(api, target.kind, options.selection, form)
    try:
        while (left := end - loop.time()) > 0:
            batch = await watch.next(min(left, BOOKMARK_EVERY))
            if batch.changes:
                yield b"".join(view.lines(batch.changes))
            elif options.bookmarks:
                yield _bookmark(target.kind, form, batch.revision)
    finally:
        watch.close()


class _View:
    """Changes as one watch sees them."""

    def __init__(self, api: Api, kind: Kind, selection: Selection, form: Form) -> None:
        self._cache, self._kind, self._form = api.rendered, kind, form
        self._everything = selection.everything
        self._matches = matcher(kind, selection)

    def lines(self, changes: tuple[Change, ...]) -> Iterator[bytes]:
        for change in changes:
            seen = self._event(change)
            if seen is not None:
                yield self._render(change, *seen)

    def _event(self, change: Change) -> tuple[str, bytes] | None:
        """The event's type and the object it shows: what was, if it is no longer seen."""
        before, after = self._sees(change.old, change.revision), self._sees(change.new, change.revision)
        if after is not None:
            return ("MODIFIED" if before is not None else "ADDED"), after
        return None if before is None else ("DELETED", before)

    def _sees(self, value: bytes | None, revision: int) -> bytes | None:
        return value if value is not None and (self._everything or self._matches(value, revision)) else None

    def _render(self, change: Change, event: str, value: bytes) -> bytes:
        if self._form.shape:  # ages are relative to now, and few people look at the same time
            return _line(self._form, self._kind, event, value, change.revision)
        key = (change.revision, event, self._kind.api_version)
        return self._cache.get(key, lambda: _line(self._form, self._kind, event, value, change.revision))


def _line(form: Form, kind: Kind, event: str, value: bytes, revision: int) -> bytes:
    if form.shape:
        shown = msgspec.json.encode(form.render(kind, objects.decode(kind, value, revision)))
    else:
        shown = objects.render(kind, value, revision)
    return b'{"type":"%s","object":%s}\n' % (event.encode(), shown)


def _bookmark(kind: Kind, form: Form, revision: int, *, initial: bool = False) -> bytes:
    metadata: JSON = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    obj: JSON = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
    if form.shape == "Table":
        obj = {**form.table(kind, [], {"resourceVersion": str(revision)}), "rows": [_bare_row(obj)]}
    elif form.shape:
        obj = {**obj, "kind": form.shape, "apiVersion": "meta.k8s.io/v1"}
    return msgspec.json.encode({"type": "BOOKMARK", "object": obj}) + b"\n"


def _bare_row(obj: JSON) -> JSON:
    """A Table's bookmark is a row without cells: its object carries the revision."""
    return {"cells": [], "object": {**obj, "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}}


def _error(error: StatusError) -> bytes:
    return msgspec.json.encode({"type": "ERROR", "object": error.status()}) + b"\n"
