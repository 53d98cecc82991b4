"""Getting and listing.

Most objects leave as they lie in the store. Only who selects by fields, or wants Tables, makes us read them; that, and
putting together what is long, happens in a thread, so that a list of thousands does not hold up everybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from agent.apiserver import objects
from agent.apiserver.api import Api, get_stored
from agent.apiserver.negotiate import Form, partial_metadata
from agent.apiserver.paths import Target
from agent.apiserver.query import Continue, ListOptions, Selection, render_continue
from agent.apiserver.registry import JSON, Kind
from agent.apiserver.status import StatusError, expired, too_large_version
from agent.store import Gone, Page, Stored

CHUNK = 500  # objects read at once when some may be sorted out
TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. "
    "You must start a new list without the continue parameter."
)


@dataclass(frozen=True, slots=True)
class Found:
    """Objects that match, in order of their keys, as of ``revision``; ``place`` says where the next page begins."""

    items: list[Stored]
    revision: int
    place: Continue | None

    def metadata(self, prefix: str) -> JSON:
        """The list's own metadata."""
        token = {"continue": render_continue(self.place, prefix)} if self.place else {}
        return {"resourceVersion": str(self.revision), **token}


async def get_body(api: Api, target: Target, form: Form) -> bytes:
    """One object as JSON. Raises StatusError 404."""
    stored = await get_stored(api, target)
    if not form.shape:
        return objects.render(target.kind, stored.value, stored.revision)
    return msgspec.json.encode(form.render(target.kind, objects.read(target.kind, stored)))


async def list_body(api: Api, target: Target, options: ListOptions, form: Form) -> list[bytes]:
    """A list as JSON, in pieces. Raises StatusError (400, 410, 504)."""
    found = await find(api, target, options)
    return await asyncio.to_thread(render_list, target, found, form)


def render_list(target: Target, found: Found, form: Form) -> list[bytes]:
    kind, metadata = target.kind, found.metadata(target.prefix)
    if not form.shape:
        return objects.list_parts(
            kind, metadata, [objects.render(kind, item.value, item.revision) for item in found.items]
        )
    items = [objects.read(kind, item) for item in found.items]
    if form.shape == "Table":
        return [msgspec.json.encode(form.table(kind, items, metadata))]
    head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return [msgspec.json.encode({**head, "items": [partial_metadata(item) for item in items]})]


async def find(api: Api, target: Target, options: ListOptions) -> Found:
    """All that match, or one page of them. Raises StatusError (410, 504)."""
    try:
        return await _find(api, target, options)
    except Gone as error:
        raise _translated(error, options) from error


def _translated(error: Gone, options: ListOptions) -> StatusError:
    if options.place is not None:
        return expired(TOO_OLD)
    if error.revision > error.current:
        return too_large_version(error.revision, error.current)
    return expired(f"The resourceVersion for the provided list is too old: {error.revision} ({error.oldest})")


async def _find(api: Api, target: Target, options: ListOptions) -> Found:
    if options.at_least:
        current = await api.store.revision()
        if options.at_least > current:
            raise Gone(options.at_least, oldest=current, current=current)
    after = options.place.after if options.place else ""
    revision = options.place.revision if options.place else options.exact
    matching: list[Stored] = []
    while True:
        page = await _read(api, target, options, after, revision)
        revision = page.revision
        matching += await _select(target.kind, page.items, options.selection)
        if options.limit and len(matching) > options.limit:
            matching = matching[: options.limit]
            return Found(matching, revision, Continue(revision, matching[-1].key))
        if not page.more:
            return Found(matching, revision, None)
        after = page.items[-1].key
        if options.limit and len(matching) == options.limit:
            return Found(matching, revision, Continue(revision, after))


async def _read(api: Api, target: Target, options: ListOptions, after: str, revision: int | None) -> Page:
    """The next objects to look at: all, as many as asked for, or (if some will be sorted out) a chunk."""
    name = options.selection.single_name()
    if name is not None and target.namespace and revision is None and "/" not in name:
        return await _read_one(api, f"{target.prefix}{name}")
    limit = options.limit if options.selection.everything or not options.limit else max(CHUNK, options.limit)
    return await api.store.list(target.prefix, after=after, limit=limit, revision=revision)


async def _read_one(api: Api, key: str) -> Page:
    """The revision first: the object may be newer than the list then says, but never older."""
    revision = await api.store.revision()
    stored = await api.store.get(key)
    return Page((stored,) if stored else (), max(revision, stored.revision if stored else 0), more=False)


async def _select(kind: Kind, items: Sequence[Stored], selection: Selection) -> list[Stored]:
    if selection.everything:
        return list(items)
    return await asyncio.to_thread(_matching, items, matcher(kind, selection))


def _matching(items: Sequence[Stored], matches: Callable[[bytes, int], bool]) -> list[Stored]:
    return [item for item in items if matches(item.value, item.revision)]


def matcher(kind: Kind, selection: Selection) -> Callable[[bytes, int], bool]:
    """From a selection to a question about stored objects; labels alone can be read without the rest."""
    if selection.by_labels_only:
        return lambda value, _: selection.matches_labels(objects.labels_of(value))
    return lambda value, revision: selection.matches(objects.decode(kind, value, revision))
