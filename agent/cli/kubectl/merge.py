"""What ``apply`` must change: a three-way strategic merge. Pure.

``original`` is what was applied last (an annotation remembers it), ``modified`` what is applied now, ``current`` what
the server has. A field is set where ``modified`` differs from ``current``, and removed where ``original`` had it and
``modified`` has it no more; everything else, such as defaults and what controllers wrote, is left alone.

Lists whose items have an identity are merged item by item, as upstream's patchMergeKey tags say; all others are
replaced whole. In a patch, ``$patch: delete`` removes an item, ``$patch: replace`` replaces a list, and
``$setElementOrder`` sorts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.kubectl.objects import LAST_APPLIED, Obj, go_json, meta

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "secrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
    "ownerReferences": "uid",
}
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


def with_last_applied(obj: Mapping[str, Any], namespace: str | None) -> Obj:
    """The object as ``apply`` sends it: its namespace named, and itself remembered in an annotation."""
    metadata = dict(meta(obj))
    if namespace:
        metadata["namespace"] = namespace
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
    bare = {**obj, "metadata": {**metadata, "annotations": annotations}}
    return {**bare, "metadata": {**metadata, "annotations": {**annotations, LAST_APPLIED: go_json(bare) + "\n"}}}


def last_applied(current: Mapping[str, Any]) -> Obj | None:
    """What the annotation remembers; None where there is none. Raises ValueError where it is not JSON."""
    text = (meta(current).get("annotations") or {}).get(LAST_APPLIED)
    if text is None:
        return None
    remembered: Obj = json.loads(text)
    return remembered


def three_way_patch(original: Mapping[str, Any], modified: Mapping[str, Any], current: Mapping[str, Any]) -> Obj:
    """The strategic merge patch from ``current`` to what ``modified`` asks for; empty where nothing is to change."""
    return _merge_maps(original, modified, current, path=())


def _merge_maps(
    original: Mapping[str, Any], modified: Mapping[str, Any], current: Mapping[str, Any], *, path: tuple[str, ...]
) -> Obj:
    patch: Obj = {}
    for field, wanted in modified.items():
        have, before, below = current.get(field), original.get(field), (*path, field)
        if isinstance(wanted, Mapping) and isinstance(have, Mapping):
            if inner := _merge_maps(before if isinstance(before, Mapping) else {}, wanted, have, path=below):
                patch[field] = inner
        elif isinstance(wanted, list) and isinstance(have, list):
            patch.update(_merge_lists(before if isinstance(before, list) else [], wanted, have, path=below))
        elif wanted != have:
            patch[field] = wanted
    patch.update({field: None for field in original if field not in modified and field in current})
    return patch


def merge_key(path: Sequence[str]) -> str | None:
    """The field that identifies the items of the list at a path (of field names); None: the list is one value."""
    if path[-1] == "ports":
        if len(path) > 1 and path[-2] in _CONTAINERS:
            return "containerPort"
        return "port" if tuple(path) == ("spec", "ports") else None
    return _MERGE_KEYS.get(path[-1])


def _merge_lists(before: list[Any], wanted: list[Any], have: list[Any], *, path: tuple[str, ...]) -> Obj:
    field = path[-1]
    if field == "finalizers":
        return _merge_finalizers(before, wanted, have)
    key = merge_key(path)
    if key is None:
        return {field: wanted} if wanted != have else {}
    indexed = [_by_key(items, key) for items in (before, wanted, have)]
    if any(items is None for items in indexed):
        # Two items with one identity (TCP and UDP on one port number) cannot be merged, only replaced.
        return {} if _covers(wanted, have) else {field: [*wanted, {"$patch": "replace"}]}
    old, new, now = (items or {} for items in indexed)
    changes: list[Any] = []
    for identity, item in new.items():
        if identity not in now:
            changes.append(item)
        elif inner := _merge_maps(old.get(identity, {}), item, now[identity], path=path):
            changes.append({key: identity, **inner})
    changes += [{"$patch": "delete", key: each} for each in old if each not in new and each in now]
    order = [{key: identity} for identity in new]
    return {f"$setElementOrder/{field}": order, field: changes} if changes else {}


def _merge_finalizers(before: list[Any], wanted: list[Any], have: list[Any]) -> Obj:
    added = [each for each in wanted if each not in have]
    removed = [each for each in before if each not in wanted and each in have]
    patch: Obj = {"finalizers": added} if added else {}
    return {**patch, **({"$deleteFromPrimitiveList/finalizers": removed} if removed else {})}


def _by_key(items: list[Any], key: str) -> dict[Any, Any] | None:
    """Items by their identity; None where one has none, or two have the same."""
    found: dict[Any, Any] = {}
    for item in items:
        if not isinstance(item, Mapping) or key not in item or item[key] in found:
            return None
        found[item[key]] = item
    return found


def _covers(wanted: list[Any], have: list[Any]) -> bool:
    """Whether each wanted item is already there, apart from what the server filled in."""
    if len(wanted) != len(have):
        return False
    return all(
        not _merge_maps({}, mine, theirs, path=()) if isinstance(mine, Mapping) else mine == theirs
        for mine, theirs in zip(wanted, have, strict=True)
    )
