"""How objects lie in the store, and how they leave it.

An object is stored as JSON, as it was sent, without its ``resourceVersion``: that is the store's revision of the write
and is put in when the object is read. ``apiVersion``, ``kind`` and ``metadata`` come first, so that it can be put in by
cutting the bytes, without reading them: lists and watches send most objects exactly as they lie there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from agent.apiserver.registry import JSON, Kind, find_by_storage
from agent.store import Stored

FIRST = ("apiVersion", "kind", "metadata")
_METADATA = b'"metadata":{'


def encode(kind: Kind, obj: JSON) -> bytes:
    """The stored form of ``obj`` (in the kind's own spelling)."""
    obj = kind.to_storage(obj)
    metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
    head = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}
    return msgspec.json.encode({**head, **{name: value for name, value in obj.items() if name not in FIRST}})


def decode(kind: Kind, value: bytes, revision: int) -> JSON:
    """A stored object in the kind's own spelling, with its resourceVersion."""
    obj: JSON = kind.from_storage(msgspec.json.decode(value))
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}


def render(kind: Kind, value: bytes, revision: int) -> bytes:
    """The same as JSON."""
    if find_by_storage(kind.storage) is not kind:  # stored in another kind's spelling
        return msgspec.json.encode(decode(kind, value, revision))
    at = value.index(_METADATA) + len(_METADATA)
    return b'%s"resourceVersion":"%d",%s' % (value[:at], revision, value[at:])


def read(kind: Kind, stored: Stored) -> JSON:
    return decode(kind, stored.value, stored.revision)


def with_version(obj: JSON, revision: int) -> JSON:
    """``obj`` as it was written at ``revision``."""
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}


class _Labels(msgspec.Struct):
    labels: dict[str, Any] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Labels


_labelled = msgspec.json.Decoder(_Labelled)


def labels_of(value: bytes) -> dict[str, Any]:
    """The labels of a stored object, without decoding the rest."""
    return _labelled.decode(value).metadata.labels or {}


def list_parts(kind: Kind, metadata: JSON, items: Iterable[bytes]) -> list[bytes]:
    """A list in pieces, to be sent one after the other."""
    head = msgspec.json.encode({"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": metadata})
    parts = [head[:-1] + b',"items":[']
    for item in items:
        if len(parts) > 1:
            parts.append(b",")
        parts.append(item)
    parts.append(b"]}\n")
    return parts


def now() -> str:
    """The present as the API writes it (RFC 3339, seconds)."""
    return timestamp(datetime.now(UTC))


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
