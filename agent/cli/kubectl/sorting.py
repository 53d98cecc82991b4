"""``--sort-by``: the order of a Table's rows, or of objects, by one of their fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.cli.kubectl.jsonpath import Path, find
from agent.cli.kubectl.objects import name_of


def sort_rows(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The Table with its rows in the order of a field; rows without the field come first."""
    return {**table, "rows": sorted(table.get("rows") or [], key=lambda row: sort_key(row.get("object") or {}, path))}


def sort_key(obj: Mapping[str, Any], path: Path) -> tuple[int, float, str, str]:
    """Numbers by size, everything else by text; the name decides between equals."""
    found = find(path, obj)
    value = found[0] if found else None
    if value is None:
        return (0, 0, "", name_of(obj))
    if isinstance(value, int | float):
        return (1, value, "", name_of(obj))
    return (2, 0, str(value), name_of(obj))
