"""``-o custom-columns=NAME:.metadata.name,...``: a table whose columns the caller chooses. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.jsonpath import JsonPathError, Path, find, parse_relaxed
from agent.cli.kubectl.objects import go_value
from agent.cli.kubectl.tables import Rows

EXAMPLE = "NAME:.metadata.name,IP:.status.podIP"


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    path: Path


def parse_columns(spec: str) -> tuple[Column, ...]:
    """``HEADER:PATH`` parted by commas; a path may be written with or without braces and leading dot."""
    if not spec:
        raise client_error(f"custom-columns format specified but no custom columns given, e.g. {EXAMPLE}")
    return tuple(_column(part) for part in _split(spec))


def parse_columns_file(text: str) -> tuple[Column, ...]:
    """Two lines: the headers and, below them, the paths."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or len(lines[0]) != len(lines[1]):
        raise client_error("a custom-columns file has one line of headers and one line with as many paths")
    return tuple(_column(f"{header}:{path}") for header, path in zip(lines[0], lines[1], strict=True))


def _split(spec: str) -> list[str]:
    """At commas outside brackets, so that ``[?(@.a=="b,c")]`` and ``[0,1]`` stay whole."""
    parts, depth = [""], 0
    for character in spec:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _column(part: str) -> Column:
    header, colon, path = part.partition(":")
    if not colon or not path:
        raise client_error(f"unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>")
    try:
        return Column(header, parse_relaxed(path))
    except JsonPathError as error:
        raise client_error(f"cannot use custom column {part}: {error}") from error


def column_rows(columns: Sequence[Column], objects: Sequence[Mapping[str, Any]], *, headers: bool) -> Rows:
    body = [[_cell(column, obj) for column in columns] for obj in objects]
    return [[column.header for column in columns], *body] if headers else body


def _cell(column: Column, obj: Mapping[str, Any]) -> str:
    try:
        found = find(column.path, obj)
    except JsonPathError as error:
        raise client_error(f"column {column.header}: {error}") from error
    return ",".join(go_value(value) for value in found) or "<none>"
