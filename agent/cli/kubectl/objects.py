"""Kubernetes objects as the JSON they are, and the few things every verb asks of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Obj = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def meta(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    return obj.get("metadata") or {}


def name_of(obj: Mapping[str, Any]) -> str:
    return str(meta(obj).get("name") or "")


def namespace_of(obj: Mapping[str, Any]) -> str:
    return str(meta(obj).get("namespace") or "")


def group_of(obj: Mapping[str, Any]) -> str:
    """``apps`` of ``apps/v1``; the core group is empty."""
    group, _, version = str(obj.get("apiVersion") or "").rpartition("/")
    return group if version else ""


def qualified_kind(obj: Mapping[str, Any]) -> str:
    """``replicaset.apps``, ``service``: how kubectl names what it acted on."""
    kind, group = str(obj.get("kind") or "").lower(), group_of(obj)
    return f"{kind}.{group}" if group else kind


def reference(obj: Mapping[str, Any]) -> str:
    """``replicaset.apps/go-demo-2``."""
    return f"{qualified_kind(obj)}/{name_of(obj)}"


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference that is the object's controller."""
    return next((owner for owner in meta(obj).get("ownerReferences") or [] if owner.get("controller")), None)


def as_list(items: Iterable[Mapping[str, Any]]) -> Obj:
    """Several objects as one v1 List, as ``get -o yaml`` prints them."""
    return {"apiVersion": "v1", "items": list(items), "kind": "List", "metadata": {"resourceVersion": ""}}


def without_managed_fields(obj: Mapping[str, Any]) -> Obj:
    shown = {key: value for key, value in obj.items() if key != "managedFields"}
    if isinstance(shown.get("metadata"), Mapping):
        shown["metadata"] = {key: value for key, value in shown["metadata"].items() if key != "managedFields"}
    if isinstance(shown.get("items"), list):
        shown["items"] = [without_managed_fields(item) for item in shown["items"]]
    return shown


def go_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as Go's encoding/json writes it: sorted keys, ``<``, ``>`` and ``&`` escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, separators=separators)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def go_value(value: Any) -> str:
    """A value as Go's ``%v`` prints it: ``map[a:1]``, ``[a b]``, ``true``, ``<nil>``."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{go_value(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_value(item) for item in value) + "]"
    return str(value)


def parse_time(stamp: str | None) -> datetime | None:
    """An API timestamp (RFC 3339, with or without fractions of a second)."""
    return datetime.fromisoformat(stamp) if stamp else None


def rfc1123(stamp: str | None) -> str:
    """``Mon, 02 Jan 2006 15:04:05 +0000`` in local time; Go's zero time where there is none."""
    moment = parse_time(stamp)
    if moment is None:
        return "Mon, 01 Jan 0001 00:00:00 +0000"
    return moment.astimezone().strftime("%a, %d %b %Y %H:%M:%S %z")


def age(stamp: str | None, now: datetime | None = None) -> str:
    """How long ago, as kubectl rounds it."""
    moment = parse_time(stamp)
    if moment is None:
        return "<unknown>"
    return human_duration(((now or datetime.now(UTC)) - moment).total_seconds())


def human_duration(seconds: float) -> str:
    """``38s``, ``4m``, ``3m7s``, ``5h``, ``2d3h``, ``40d``: two units while the larger is small, then one."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    if whole < 120:
        return f"{whole}s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
