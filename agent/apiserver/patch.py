"""From an object and a patch to the object that is meant. Pure; nothing that is passed in is changed.

Three kinds of patch: JSON patch (RFC 6902, a list of operations), merge patch (RFC 7386, null deletes), and Kubernetes'
strategic merge patch, which knows lists whose items have names (``shapes``) and these directives:

=================================  =================================================================================
``$patch: replace`` in an object   take the patch's object instead of merging; in a list: the patch's items only
``$patch: delete``                 drop the object; in a list: the item with the same key
``$deleteFromPrimitiveList/F``     values to drop from the list of scalars F
``$setElementOrder/F``             keys (or values) in the order in which F shall have them
``$retainKeys``                    drop the object's fields that are not in this list (for unions such as a volume's)
=================================  =================================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import jsonpatch

from agent.apiserver.registry import JSON, Kind
from agent.apiserver.shapes import Shape, shape_of
from agent.apiserver.status import StatusError, bad_request

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)

OPERATIONS_LIMIT = 10_000
DIRECTIVE, RETAIN = "$patch", "$retainKeys"
DELETE_FROM, ORDER = "$deleteFromPrimitiveList/", "$setElementOrder/"


def patch_object(kind: Kind, media_type: str, obj: JSON, patch: Any) -> JSON:
    """``obj`` with a JSON, merge or strategic patch applied. Raises StatusError (400, 422)."""
    if media_type == JSON_PATCH:
        return json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise bad_request(f"a patch of type {media_type} must be an object, not {type(patch).__name__}")
    return merge_patch(obj, patch) if media_type == MERGE_PATCH else strategic_patch(obj, patch, shape_of(kind))


def json_patch(obj: JSON, patch: Any) -> JSON:
    if not isinstance(patch, list):
        raise bad_request("a JSON patch must be a list of operations")
    if len(patch) > OPERATIONS_LIMIT:
        raise bad_request(f"the JSON patch has {len(patch)} operations; at most {OPERATIONS_LIMIT} are allowed")
    patched: Any = copy.deepcopy(obj)
    for operation in patch:
        patched = _operate(patched, operation)
    if not isinstance(patched, dict):
        raise bad_request("the JSON patch leaves no object")
    return patched


def _operate(obj: Any, operation: Any) -> Any:
    """One operation, in place."""
    try:
        return jsonpatch.apply_patch(obj, [operation], in_place=True)
    except (jsonpatch.InvalidJsonPatch, TypeError) as error:
        raise bad_request(f"the JSON patch cannot be read: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        message = f"the server rejected our request due to an error in our request: {_why_not(operation)}"
        raise StatusError(422, "Invalid", message) from error


def _why_not(operation: JSON) -> str:
    if operation["op"] == "test":
        return f"testing value {operation['path']} failed"
    return f"{operation['op']} operation does not apply: no such path: {operation.get('from') or operation['path']}"


def merge_patch(obj: Any, patch: JSON) -> JSON:
    merged = dict(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value) if isinstance(value, dict) else value
    return merged


def strategic_patch(obj: Any, patch: JSON, shape: Shape) -> JSON:
    directive = patch.get(DIRECTIVE)
    if directive == "delete":
        return {}
    if directive not in (None, "merge", "replace"):
        raise bad_request(f"unknown patch directive: {directive!r}; expected replace, merge or delete")
    merged: JSON = dict(obj) if isinstance(obj, dict) and directive != "replace" else {}
    _retain(merged, patch)
    for name, value in patch.items():
        if name.startswith(DELETE_FROM):
            _delete_from(merged, name.removeprefix(DELETE_FROM), value)
    for name, value in patch.items():
        if not name.startswith("$"):
            _merge_field(merged, name, value, shape.of(name))
    for name, value in patch.items():
        if name.startswith(ORDER):
            _order_field(merged, obj, name.removeprefix(ORDER), value, shape)
    return merged


def _retain(merged: JSON, patch: JSON) -> None:
    kept = patch.get(RETAIN)
    if kept is None:
        return
    if not isinstance(kept, list) or {name for name in patch if not name.startswith("$")} - set(kept):
        raise bad_request(f"{RETAIN} must list every field that the patch sets")
    for name in merged.keys() - set(kept):
        del merged[name]


def _delete_from(merged: JSON, name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise bad_request(f"{DELETE_FROM}{name} must be a list")
    if isinstance(merged.get(name), list):
        merged[name] = [value for value in merged[name] if value not in values]


def _merge_field(merged: JSON, name: str, value: Any, shape: Shape) -> None:
    if value is None:
        merged.pop(name, None)
    elif isinstance(value, dict):
        if value.get(DIRECTIVE) == "delete":
            merged.pop(name, None)
        else:
            merged[name] = strategic_patch(merged.get(name), value, shape)
    elif isinstance(value, list):
        merged[name] = _merge_list(name, merged.get(name), value, shape)
    else:
        merged[name] = value


def _merge_list(name: str, old: Any, patch: list[Any], shape: Shape) -> list[Any]:
    old = old if isinstance(old, list) else []
    if shape.key:
        return _merge_items(name, old, patch, shape)
    if shape.set:
        return [*old, *dict.fromkeys(value for value in patch if value not in old)]
    return patch


def _merge_items(name: str, old: list[Any], patch: list[Any], shape: Shape) -> list[Any]:
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if item != {DIRECTIVE: "replace"}]  # as they are, even two with one key
    merged = list(old)
    for item in patch:
        key = _key(name, item, shape)
        found = next((n for n, candidate in enumerate(merged) if _has_key(candidate, shape.key, key)), None)
        if item.get(DIRECTIVE) == "delete":
            merged = [candidate for candidate in merged if not _has_key(candidate, shape.key, key)]
        elif found is None:
            merged.append(strategic_patch({}, item, shape))
        else:
            merged[found] = strategic_patch(merged[found], item, shape)
    return merged


def _key(name: str, item: Any, shape: Shape) -> Any:
    if not isinstance(item, dict) or shape.key not in item:
        raise bad_request(f"an item of {name} does not contain the declared merge key: {shape.key}")
    return item[shape.key]


def _has_key(item: Any, field: str, key: Any) -> bool:
    return isinstance(item, dict) and field in item and bool(item[field] == key)


def _order_field(merged: JSON, before: Any, name: str, order: Any, shape: Shape) -> None:
    items, key = merged.get(name), shape.of(name).key
    if not isinstance(order, list):
        raise bad_request(f"{ORDER}{name} must be a list")
    if isinstance(items, list):
        wanted = [_identity(entry, key) for entry in order]
        previous = before.get(name) if isinstance(before, dict) else None
        known = [_identity(item, key) for item in previous] if isinstance(previous, list) else []
        merged[name] = _order(items, wanted, known, key)


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if key and isinstance(item, dict) else item


def _order(items: list[Any], wanted: Sequence[Any], known: Sequence[Any], key: str) -> list[Any]:
    """The wanted ones in their order; between them the others, each where it stood relative to them (KEP-188).

    ``known`` is the order before the patch. An item that was not there before comes as early as it can.
    """
    named = [item for item in items if _identity(item, key) in wanted]
    named.sort(key=lambda item: wanted.index(_identity(item, key)))
    others = [item for item in items if _identity(item, key) not in wanted]
    ordered: list[Any] = []
    while named and others:
        first, second = _identity(named[0], key), _identity(others[0], key)
        before = first not in known or second not in known or known.index(first) < known.index(second)
        ordered.append(named.pop(0) if before else others.pop(0))
    return ordered + named + others
