"""Tables as the server makes them, laid out as kubectl prints them. Pure.

What a column shows is decided in the API server (``Accept: ...;as=Table``), for kubectl and for podwire alike; here
is only layout: which columns are wanted, where they align, and what is added in front (NAMESPACE, the kind) or behind
(labels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.cli.kubectl.objects import go_value, meta, name_of, namespace_of
from agent.cli.kubectl.tabwriter import align

PADDING, MINIMUM = 3, 6  # of a column, in characters


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a Table to show, and how. ``kind`` is put before names where several kinds are listed."""

    wide: bool = False
    headers: bool = True
    namespaces: bool = False
    kind: str = ""
    label_columns: tuple[str, ...] = ()
    show_labels: bool = False


Rows = list[list[str]]


def table_rows(table: Mapping[str, Any], layout: Layout) -> Rows:
    """The Table's lines (the header first, where wanted), each a list of cells. No objects: no lines."""
    definitions = table.get("columnDefinitions") or []
    chosen = [at for at, column in enumerate(definitions) if layout.wide or not column.get("priority")]
    body = [_row(row, chosen, definitions, layout) for row in table.get("rows") or []]
    if not body or not layout.headers:
        return body
    head = ["NAMESPACE"] if layout.namespaces else []
    head += [str(definitions[at]["name"]).upper() for at in chosen]
    head += [label.rsplit("/", 1)[-1].upper() for label in layout.label_columns]
    head += ["LABELS"] if layout.show_labels else []
    return [head, *body]


def _row(row: Mapping[str, Any], chosen: Sequence[int], definitions: Sequence[Any], layout: Layout) -> list[str]:
    cells, obj = row.get("cells") or [], row.get("object") or {}
    labels = meta(obj).get("labels") or {}
    line = [namespace_of(obj)] if layout.namespaces else []
    for at in chosen:
        text = render_cell(cells[at] if at < len(cells) else None)
        is_name = definitions[at].get("format") == "name" or definitions[at].get("name") == "Name"
        line.append(f"{layout.kind}/{text}" if layout.kind and is_name else text)
    line += [labels.get(label, "") for label in layout.label_columns]
    if layout.show_labels:
        line.append(",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "<none>")
    return line


def render_cell(cell: Any) -> str:
    """One line of text: a longer one is cut at its first line break, control characters are made visible."""
    if cell is None:
        return ""
    text = go_value(cell)
    first = text.splitlines()[0] if text.splitlines() else ""
    cut = first + "..." if len(first) < len(text) else first
    return cut.replace("\t", " ").replace("\x1b", "^[")


def render_rows(rows: Rows) -> str:
    return align("".join("\t".join(row) + "\n" for row in rows), padding=PADDING, minimum=MINIMUM)


@dataclass
class Columns:
    """Lays out rows that come one at a time (``--watch``): a column only ever grows."""

    widths: list[int]

    def render(self, rows: Rows) -> str:
        for row in rows:
            self.widths += [MINIMUM] * (len(row) - 1 - len(self.widths))
            for at, cell in enumerate(row[:-1]):
                self.widths[at] = max(self.widths[at], len(cell) + PADDING)
        return "".join(
            "".join(cell.ljust(self.widths[at]) for at, cell in enumerate(row[:-1])) + row[-1] + "\n" for row in rows
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """One answer of the server: a Table of one kind of object."""

    kind: str  # as it is put before names: service, replicaset.apps
    namespaced: bool
    table: Mapping[str, Any]


def render_tables(listed: Iterable[Listed], layout: Layout, *, with_kind: bool) -> str:
    """All Tables one below the other; one header per run of a kind, and an empty line before the next kind."""
    groups: list[tuple[Listed, Rows]] = []
    for each in listed:
        same = bool(groups) and groups[-1][0].kind == each.kind
        shown = replace(
            layout,
            kind=each.kind if with_kind else "",
            namespaces=layout.namespaces and each.namespaced,
            headers=layout.headers and not (same and groups[-1][1]),
        )
        rows = table_rows(each.table, shown)
        if same:
            groups[-1][1].extend(rows)
        else:
            groups.append((each, rows))
    between = "\n" if layout.headers else ""
    return between.join(render_rows(rows) for _, rows in groups if rows)


def table_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A Table of names, for servers that make none for a kind."""
    columns = [{"name": "Name", "format": "name"}, {"name": "Created At"}]
    rows = [{"cells": [name_of(obj), meta(obj).get("creationTimestamp")], "object": obj} for obj in objects]
    return {"kind": "Table", "columnDefinitions": columns, "rows": rows}
