"""Server-side apply (KEP-555): a manager sends what it wants to be so, and owns those fields.

What a manager applied last time and leaves out now goes, unless another manager applied it too. Setting a field that
another one applied to a different value is a conflict, unless ``force`` is given, which takes the field over. Who owns
what is kept in ``metadata.managedFields``, as upstream writes it.

Simpler than upstream in one respect: only what was *applied* has an owner; plain updates do not take part. So an apply
may overwrite what somebody changed by PUT or PATCH without being told of a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from agent.apiserver import body, objects
from agent.apiserver.admission.errors import required
from agent.apiserver.api import Api
from agent.apiserver.paths import Target
from agent.apiserver.query import WriteOptions
from agent.apiserver.registry import JSON
from agent.apiserver.shapes import Shape, shape_of
from agent.apiserver.status import StatusError, bad_request, conflict, invalid
from agent.apiserver.write import create_object, update_object

# Steps as in managedFields: ``f:name`` a field, ``k:{"name":"x"}`` an item by its keys, ``v:"x"`` a member of a set,
# and ``.`` at the end for the item itself.
Path = tuple[str, ...]
Fields = frozenset[Path]

IDENTITY = frozenset({("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace")})
TRIES = 5


@dataclass(frozen=True, slots=True)
class Owned:
    """What one manager has applied, and when."""

    manager: str
    fields: Fields
    time: str


async def apply_object(api: Api, target: Target, sent: Any, options: WriteOptions) -> tuple[JSON, bool]:
    """Returns the object, and whether it is new. Raises StatusError."""
    if not options.manager:
        cause = required("fieldManager", "is required for apply patch")
        raise invalid("PatchOptions", "", [cause], group="meta.k8s.io")
    config = body.place(target, body.check_kind(target.kind, sent))
    if config["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    body.check_object(target.kind, config, options.validation)
    options = replace(options, managed=True)
    for _ in range(TRIES):
        try:
            return await update_object(
                api, target, lambda live: _applied(target, live, config, options), options
            ), False
        except StatusError as error:
            if error.reason != "NotFound" or target.subresource:
                raise
        try:
            return await create_object(api, target, _applied(target, config, config, options), options), True
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise
    raise conflict(target.kind, target.name)


def _applied(target: Target, live: JSON, config: JSON, options: WriteOptions) -> JSON:
    """``live`` with ``config`` applied by ``options.manager``. Raises StatusError 409."""
    shape = shape_of(target.kind)
    wanted = fields_of(config, shape) - IDENTITY
    entries = read_managed(live)
    others = [entry for entry in entries if entry.manager != options.manager]
    mine = next((entry for entry in entries if entry.manager == options.manager), None)
    others = _settle(target, live, config, wanted, others, options)
    kept = wanted.union(*(entry.fields for entry in others))
    merged = merge(live, config, shape)
    for path in sorted((mine.fields if mine else frozenset()) - kept, key=_depth):  # items before what is in them
        if not any(_leads_to(path, other) for other in kept):
            remove(merged, path)
    unchanged = mine is not None and mine.fields == wanted
    time = mine.time if mine and unchanged else objects.now()
    managed = [*others, Owned(options.manager, wanted, time)]
    metadata = {**merged["metadata"], "managedFields": [render_managed(target, entry) for entry in managed]}
    return {**merged, "metadata": metadata}


def _depth(path: Path) -> int:
    return len(path) - 1 if path[-1] == "." else len(path)


def _leads_to(path: Path, other: Path) -> bool:
    """Is ``other`` within what ``path`` names?"""
    return other[: _depth(path)] == path[: _depth(path)]


def _settle(
    target: Target, live: JSON, config: JSON, wanted: Fields, others: list[Owned], options: WriteOptions
) -> list[Owned]:
    """The other managers after this apply. Raises StatusError 409 unless forced."""
    settled, conflicts = [], []
    for entry in others:
        lost = {path for path in wanted & entry.fields if _differ(value_of(live, path), value_of(config, path))}
        conflicts += [(entry.manager, path) for path in sorted(lost)]
        if entry.fields - lost:
            settled.append(replace(entry, fields=entry.fields - lost))
    if conflicts and not options.force:
        raise _conflict_error(target, conflicts)
    return settled


def _differ(live: Any, wanted: Any) -> bool:
    """An object without fields asks only that there be one."""
    return not isinstance(live, dict) if wanted == {} else bool(live != wanted)


def _conflict_error(target: Target, conflicts: list[tuple[str, Path]]) -> StatusError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": show(path)}
        for manager, path in conflicts
    ]
    listed = "; ".join(f'conflict with "{manager}": {show(path)}' for manager, path in conflicts)
    plural = "" if len(conflicts) == 1 else "s"
    error = conflict(target.kind, target.name)
    message = f"Apply failed with {len(conflicts)} conflict{plural}: {listed}"
    return StatusError(409, "Conflict", message, details={**error.details, "causes": causes})


def show(path: Path) -> str:
    """``.spec.containers[name="x"].image``"""
    return "".join(_show_step(step) for step in path if step != ".")


def _show_step(step: str) -> str:
    sign, _, rest = step.partition(":")
    if sign == "f":
        return f".{rest}"
    if sign == "v":
        return f"[={rest}]"
    keys = msgspec.json.decode(rest, type=dict[str, Any])
    return "[" + ",".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in keys.items()) + "]"


def fields_of(value: Any, shape: Shape) -> Fields:
    """The leaves of what was applied."""
    return frozenset(_leaves(value, shape, ()))


def _leaves(value: Any, shape: Shape, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            if item is not None:
                yield from _leaves(item, shape.of(name), (*path, f"f:{name}"))
    elif isinstance(value, list) and shape.key:
        for item in value:
            here = (*path, _item_step(item, shape))
            yield (*here, ".")
            yield from _leaves(item, Shape(shape.fields), here)
    elif isinstance(value, list) and shape.set:
        yield from ((*path, f"v:{msgspec.json.encode(item).decode()}") for item in value)
    else:
        yield path


def _item_step(item: Any, shape: Shape) -> str:
    if not isinstance(item, dict) or shape.key not in item:
        raise bad_request(f"an item of the list does not contain the merge key: {shape.key}")
    keys = {name: item.get(name, default) for name, default in shape.identity}
    return f"k:{msgspec.json.encode(keys).decode()}"


def merge(live: Any, config: Any, shape: Shape) -> Any:
    """``live`` with everything that ``config`` says."""
    if isinstance(config, dict) and isinstance(live, dict):
        said = {name: value for name, value in config.items() if value is not None}
        return {**live, **{name: merge(live.get(name), value, shape.of(name)) for name, value in said.items()}}
    if isinstance(config, list) and isinstance(live, list) and shape.key:
        return _merge_items(live, config, shape)
    if isinstance(config, list) and isinstance(live, list) and shape.set:
        return [*live, *(item for item in config if item not in live)]
    return config


def _merge_items(live: list[Any], config: list[Any], shape: Shape) -> list[Any]:
    said = {_item_step(item, shape): item for item in config}
    inner = Shape(shape.fields)
    merged = [merge(item, said.pop(_item_step(item, shape), {}), inner) for item in live]
    return merged + list(said.values())


def value_of(value: Any, path: Path) -> Any:
    """The value at a path; an item's own path has the value True if it is there."""
    for step in path:
        if step == ".":
            return True
        sign, _, rest = step.partition(":")
        if sign == "f":
            value = value.get(rest) if isinstance(value, dict) else None
        elif sign == "v":
            return isinstance(value, list) and msgspec.json.decode(rest) in value
        else:
            value = _find_item(value, rest)
        if value is None:
            return None
    return value


def _find_item(items: Any, keys: str) -> Any:
    wanted = msgspec.json.decode(keys, type=dict[str, Any])
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and all(item.get(name, _default(name)) == value for name, value in wanted.items()):
            return item
    return None


def _default(name: str) -> Any:
    return "TCP" if name == "protocol" else None


def remove(obj: JSON, path: Path) -> None:
    """Take away what is at a path, if it is there; ``obj`` is changed, in fresh copies of what leads there."""
    *way, last = path[:-1] if path[-1] == "." else path
    value: Any = obj
    for step in way:
        value = _enter(value, step)
        if value is None:
            return
    _drop(value, last)


def _enter(value: Any, step: str) -> Any:
    """The value behind one step, copied, so that what it came from stays as it was."""
    sign, _, rest = step.partition(":")
    if sign == "f" and isinstance(value, dict) and isinstance(value.get(rest), (dict, list)):
        value[rest] = value[rest].copy()
        return value[rest]
    if sign == "k" and (item := _find_item(value, rest)) is not None:
        at = value.index(item)
        value[at] = dict(item)
        return value[at]
    return None


def _drop(value: Any, step: str) -> None:
    sign, _, rest = step.partition(":")
    if sign == "f" and isinstance(value, dict):
        value.pop(rest, None)
    elif sign == "k" and (item := _find_item(value, rest)) is not None:
        value.remove(item)
    elif sign == "v" and isinstance(value, list) and (member := msgspec.json.decode(rest)) in value:
        value.remove(member)


def read_managed(obj: JSON) -> list[Owned]:
    return [
        Owned(entry["manager"], frozenset(_read_tree(entry.get("fieldsV1") or {}, ())), entry.get("time", ""))
        for entry in obj["metadata"].get("managedFields") or []
        if entry.get("operation") == "Apply"
    ]


def _read_tree(tree: JSON, path: Path) -> Iterable[Path]:
    for step, inner in tree.items():
        if inner:
            yield from _read_tree(inner, (*path, step))
        else:
            yield (*path, step)


def render_managed(target: Target, owned: Owned) -> JSON:
    tree: JSON = {}
    for path in sorted(owned.fields):
        place = tree
        for step in path:
            place = place.setdefault(step, {})
    subresource = {"subresource": target.subresource} if target.subresource else {}
    return {
        "manager": owned.manager,
        "operation": "Apply",
        "apiVersion": target.kind.api_version,
        "time": owned.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": tree,
        **subresource,
    }
