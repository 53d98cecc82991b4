"""Tables, columns and the other formats of ``get``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.kubectl.columns import column_rows, parse_columns, parse_columns_file
from agent.cli.kubectl.errors import KubectlError
from agent.cli.kubectl.jsonpath import parse_relaxed
from agent.cli.kubectl.output import parse_output, render_objects
from agent.cli.kubectl.sorting import sort_rows
from agent.cli.kubectl.tables import (
    Columns,
    Layout,
    Listed,
    render_cell,
    render_rows,
    render_tables,
    table_of,
    table_rows,
)
from agent.cli.kubectl.tabwriter import align

COLUMNS = [
    {"name": "Name", "type": "string", "format": "name", "priority": 0},
    {"name": "Ready", "type": "string", "priority": 0},
    {"name": "Age", "type": "string", "priority": 0},
    {"name": "Node", "type": "string", "priority": 1},
]


def row(name: str, *cells: Any, labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", **({"labels": labels} if labels else {})}
    return {"cells": [name, *cells], "object": {"metadata": metadata, **fields}}


def table(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Table", "columnDefinitions": COLUMNS, "rows": list(rows)}


PODS = table(
    row("go-demo-2-api-x", "1/1", "5m", "n1", labels={"type": "api", "service": "go-demo-2"}),
    row("go-demo-2-db-y", "0/1", "10s", "n1", labels={"type": "db"}),
)


def listed(kind: str, shown: dict[str, Any], *, namespaced: bool = True) -> Listed:
    return Listed(kind, namespaced, shown)


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout(), "NAME              READY   AGE\ngo-demo-2-api-x   1/1     5m\ngo-demo-2-db-y    0/1     10s\n"),
        (Layout(headers=False), "go-demo-2-api-x   1/1   5m\ngo-demo-2-db-y    0/1   10s\n"),
        (
            Layout(wide=True),
            "NAME              READY   AGE   NODE\ngo-demo-2-api-x   1/1     5m    n1\ngo-demo-2-db-y    0/1     10s   n1\n",
        ),
        (
            Layout(namespaces=True),
            "NAMESPACE   NAME              READY   AGE\n"
            "default     go-demo-2-api-x   1/1     5m\n"
            "default     go-demo-2-db-y    0/1     10s\n",
        ),
        (
            Layout(show_labels=True),
            "NAME              READY   AGE   LABELS\n"
            "go-demo-2-api-x   1/1     5m    service=go-demo-2,type=api\n"
            "go-demo-2-db-y    0/1     10s   type=db\n",
        ),
        (
            Layout(label_columns=("type", "example.com/service")),
            "NAME              READY   AGE   TYPE   SERVICE\n"
            "go-demo-2-api-x   1/1     5m    api    \n"
            "go-demo-2-db-y    0/1     10s   db     \n",
        ),
    ],
)
def test_layouts(layout: Layout, text: str) -> None:
    assert render_tables([listed("pod", PODS)], layout, with_kind=False) == text


def test_one_header_for_a_run_of_one_kind() -> None:
    single = [listed("pod", table(each)) for each in PODS["rows"]]
    assert render_tables(single, Layout(), with_kind=False) == render_tables(
        [listed("pod", PODS)], Layout(), with_kind=False
    )


def test_several_kinds_are_parted_and_named() -> None:
    services = table(row("go-demo-2-db", "1", "10s", ""))
    text = render_tables(
        [listed("pod", table(PODS["rows"][1])), listed("secret", table()), listed("service", services)],
        Layout(),
        with_kind=True,
    )
    assert text == (
        "NAME                 READY   AGE\npod/go-demo-2-db-y   0/1     10s\n\n"
        "NAME                   READY   AGE\nservice/go-demo-2-db   1       10s\n"
    )


def test_no_objects_no_header() -> None:
    assert render_tables([listed("pod", table())], Layout(), with_kind=False) == ""


def test_a_cluster_wide_kind_has_no_namespace_column() -> None:
    text = render_tables(
        [listed("node", table(row("n1", "1", "1s", "")), namespaced=False)], Layout(namespaces=True), with_kind=False
    )
    assert text.startswith("NAME")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (3, "3"),
        (True, "true"),
        ("a\nb", "a..."),
        ("a\tb", "a b"),
        ("\x1b[31m", "^[[31m"),
        (["a", 1], "[a 1]"),
    ],
)
def test_cells(cell: Any, text: str) -> None:
    assert render_cell(cell) == text


def test_sorting_by_a_field_numbers_by_size_and_missing_first() -> None:
    shown = table(row("a", spec={"n": 10}), row("b", spec={"n": 9}), row("c"))
    ordered = sort_rows(shown, parse_relaxed(".spec.n"))
    assert [each["cells"][0] for each in ordered["rows"]] == ["c", "b", "a"]


def test_a_watch_keeps_its_columns_and_only_widens_them() -> None:
    columns = Columns([])
    first = columns.render(table_rows(PODS, Layout()))
    assert first == render_tables([listed("pod", PODS)], Layout(), with_kind=False)
    assert columns.render([["short", "1/1", "1s"]]) == "short             1/1     1s\n"
    assert columns.render([["a-name-that-is-longer", "1/1", "1s"]]) == "a-name-that-is-longer   1/1     1s\n"


def test_a_server_without_tables() -> None:
    made = table_of([{"metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"}}])
    assert render_rows(table_rows(made, Layout())) == "NAME   CREATED AT\na      2024-01-01T00:00:00Z\n"


@given(st.lists(st.lists(st.text(alphabet="ab ", max_size=6), min_size=3, max_size=3), min_size=1, max_size=5))
def test_columns_line_up(rows: list[list[str]]) -> None:
    lines = align("\n".join("\t".join(cells) for cells in rows)).split("\n")
    widths = [max(len(cells[at]) for cells in rows) + 2 for at in range(2)]
    assert lines == [cells[0].ljust(widths[0]) + cells[1].ljust(widths[1]) + cells[2] for cells in rows]


def test_a_line_without_the_cell_ends_the_column() -> None:
    assert align("a\tb\nlonger\tb\nplain\nx\ty") == "a       b\nlonger  b\nplain\nx  y"


# --- custom columns and other formats ----------------------------------------------------------------------------

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "labels": {"x": "1"}, "managedFields": [{"manager": "podwire"}]},
    "spec": {"containers": [{"name": "c", "ports": [80, 81]}, {"name": "d"}], "on": True},
}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("NAME:.metadata.name", "NAME\na\n"),
        ("NAME:metadata.name,NS:{.metadata.namespace}", "NAME   NS\na      <none>\n"),
        ("C:.spec.containers[*].name,P:.spec.containers[0].ports", "C     P\nc,d   [80 81]\n"),
        ("L:.metadata.labels,ON:.spec.on", "L          ON\nmap[x:1]   true\n"),
        ('D:.spec.containers[?(@.name=="d")].name,X:.spec.containers[0,1].name', "D     X\nd     c,d\n"),
    ],
)
def test_custom_columns(spec: str, text: str) -> None:
    assert render_objects(parse_output(f"custom-columns={spec}"), [POD], single=True) == text


def test_the_documents_columns_without_headers() -> None:
    output = parse_output("custom-columns=NAME:.metadata.name")
    assert render_objects(output, [POD, POD], single=False, headers=False) == "a\na\n"


def test_columns_from_a_file() -> None:
    columns = parse_columns_file("NAME  PHASE\n.metadata.name  .status.phase\n")
    assert column_rows(columns, [POD], headers=True) == [["NAME", "PHASE"], ["a", "<none>"]]


@pytest.mark.parametrize("spec", ["", "NAME", "NAME:", "NAME:.a["])
def test_bad_columns(spec: str) -> None:
    with pytest.raises(KubectlError):
        parse_columns(spec)


def test_yaml_of_one_object_and_of_several() -> None:
    one = render_objects(parse_output("yaml"), [POD], single=True)
    assert one.startswith(
        'apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    x: "1"\n  name: a\nspec:\n  containers:\n  - name: c\n'
    )
    assert "managedFields" not in one
    several = render_objects(parse_output("yaml"), [POD, POD], single=False)
    assert several.startswith("apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n")
    assert several.endswith('kind: List\nmetadata:\n  resourceVersion: ""\n')
    assert "managedFields" not in several


def test_json_is_gos() -> None:
    obj = {"kind": "ConfigMap", "apiVersion": "v1", "data": {"b": "<&>", "a": "é"}, "empty": {}}
    assert render_objects(parse_output("json"), [obj], single=True) == (
        '{\n    "apiVersion": "v1",\n    "data": {\n        "a": "é",\n        "b": "\\u003c\\u0026\\u003e"\n    },\n'
        '    "empty": {},\n    "kind": "ConfigMap"\n}\n'
    )


def test_names() -> None:
    replicaset = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}}
    assert render_objects(parse_output("name"), [POD, replicaset], single=False) == "pod/a\nreplicaset.apps/r\n"


def test_jsonpath_sees_the_list() -> None:
    assert render_objects(parse_output("jsonpath={.items[*].metadata.name}"), [POD, POD], single=False) == "a a"
    assert render_objects(parse_output("jsonpath={.metadata.name}"), [POD], single=True) == "a"


@pytest.mark.parametrize("flag", ["xml", "jsonpath=", "jsonpath={", "go-template={{.a}}", "jsonpath-file=/nonexistent"])
def test_a_mistyped_format_is_refused(flag: str) -> None:
    with pytest.raises(KubectlError, match="error: "):
        parse_output(flag)
