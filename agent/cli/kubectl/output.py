"""``-o``: how objects are printed when not as the server's Table. Pure; JSON in, text out.

``parse_output`` turns the flag into a value once, so that a mistyped format is refused before anything is asked or
changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import as_list, go_json, reference, without_managed_fields
from agent.cli.kubectl.tables import render_rows

if TYPE_CHECKING:
    from agent.cli.kubectl.columns import Column
    from agent.cli.kubectl.jsonpath import Node

FORMATS = "custom-columns,custom-columns-file,json,jsonpath,jsonpath-file,name,wide,yaml"


@dataclass(frozen=True, slots=True)
class Output:
    """A parsed ``-o``. ``mode``: "" (the Table), wide, json, yaml, name, jsonpath or custom-columns."""

    mode: str = ""
    template: tuple[Node, ...] = ()
    columns: tuple[Column, ...] = ()

    @property
    def is_table(self) -> bool:
        return self.mode in ("", "wide")


def parse_output(flag: str | None) -> Output:
    """``yaml``, ``jsonpath={...}``, ``custom-columns=...``; raises KubectlError for anything kubectl would not know."""
    mode, _, argument = (flag or "").partition("=")
    if mode in ("", "wide", "json", "yaml", "name"):
        return Output(mode)
    if mode.endswith("-file"):
        mode, argument = mode.removesuffix("-file"), _read(argument)
        if mode == "custom-columns":
            from agent.cli.kubectl.columns import parse_columns_file

            return Output(mode, columns=parse_columns_file(argument))
    if mode == "custom-columns":
        from agent.cli.kubectl.columns import parse_columns

        return Output(mode, columns=parse_columns(argument))
    if mode == "jsonpath":
        return Output(mode, template=_template(argument))
    raise client_error(
        f'unable to match a printer suitable for the output format "{flag}", allowed formats are: {FORMATS}'
    )


def _read(name: str) -> str:
    try:
        return File(name).read_text()
    except OSError as error:
        raise client_error(f"error reading template {name}, {error.strerror}") from error


def _template(text: str) -> tuple[Node, ...]:
    from agent.cli.kubectl.jsonpath import JsonPathError, parse_template

    if not text:
        raise client_error("template format specified but no template given")
    try:
        return parse_template(text)
    except JsonPathError as error:
        raise client_error(f"error parsing jsonpath {text}, {error}") from error


def render_objects(
    output: Output, objects: Sequence[Mapping[str, Any]], *, single: bool, headers: bool = True, managed: bool = False
) -> str:
    """Objects in the chosen format. ``single``: one object was asked for by name, so it is not wrapped in a List."""
    if output.mode == "name":
        return "".join(f"{reference(obj)}\n" for obj in objects)
    if output.mode == "custom-columns":
        from agent.cli.kubectl.columns import column_rows

        return render_rows(column_rows(output.columns, objects, headers=headers))
    shown = objects if managed else [without_managed_fields(obj) for obj in objects]
    whole = shown[0] if single and len(shown) == 1 else as_list(shown)
    if output.mode == "json":
        return go_json(whole, indent=4) + "\n"
    if output.mode == "yaml":
        from agent.cli.kubectl.yamltext import dump_document

        return dump_document(whole)
    from agent.cli.kubectl.jsonpath import JsonPathError, render_template

    try:
        return render_template(output.template, whole)
    except JsonPathError as error:
        raise client_error(f"error executing jsonpath: {error}") from error
