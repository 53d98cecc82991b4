"""kubectl's JSONPath dialect."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.kubectl.jsonpath import JsonPathError, find, parse_path, parse_relaxed, parse_template, render_template

PODS = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "web", "tier": "front"}},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53}], "weight": 1.5},
            "status": {"phase": "Running", "ready": True},
        },
        {"metadata": {"name": "b"}, "spec": {"ports": []}, "status": {"phase": "Pending", "ready": False}},
    ],
}


def render(template: str, data: Any = PODS) -> str:
    return render_template(parse_template(template), data)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        ("kind is {.kind}!", "kind is List!"),
        ("{$.kind}{@.kind}{$['kind']}", "ListListList"),
        ("{.items[*].metadata.name}", "a b"),
        ("{.items.*.metadata.name}", "a b"),
        ("{.items[0].metadata.name}", "a"),
        ("{.items[-1].metadata.name}", "b"),
        ("{.items[0:1].metadata.name}", "a"),
        ("{.items[::2].metadata.name}", "a"),
        ("{.items[:].metadata.name}", "a b"),
        ("{.items[0,1].metadata.name}", "a b"),
        ("{..name}", "a http dns b"),
        ("{.items[*]['metadata.name', 'status.phase']}", "a Running b Pending"),
        (r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "web"),
        (r"{.items[0].metadata.labels['app\.kubernetes\.io/name']}", "web"),
        ('{.items[?(@.status.phase=="Running")].metadata.name}', "a"),
        ("{.items[?(@.status.phase != 'Running')].metadata.name}", "b"),
        ("{.items[0].spec.ports[?(@.port>=80)].name}", "http"),
        ("{.items[0].spec.ports[?(@.port<80)].name}", "dns"),
        ("{.items[?(@.status.ready==true)].metadata.name}", "a"),
        ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}', "a\tRunning\nb\tPending\n"),
        ("{range .items[*]}[{range .spec.ports[*]}{.port},{end}]{end}", "[80,53,][]"),
        ("{range .items[*]}{$.kind} {end}", "List List "),
        ("{.items[0].spec.ports[0]}", '{"name":"http","port":80}'),
        ("{.items[1].spec.ports}", "[]"),
        ("{.items[0].status.ready} {.items[0].spec.weight}", "true 1.5"),
        ("{.nothing.at.all}", ""),
        ("{\"}\"}{'{'}", "}{"),
        ("", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(template) == text


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{.items", "unclosed action"),
        ("{.items[0}", "unterminated array"),
        ("{range .items[*]}", "{range} without {end}"),
        ("{end}", "{end} without {range}"),
        ("{.items[x]}", "invalid array index"),
        ("{.items[::-1]}", "step must be > 0"),
        ("{a b}", "unexpected"),
        ('{"no end}', "unclosed action"),
    ],
)
def test_what_cannot_be_parsed_is_quoted(template: str, complaint: str) -> None:
    with pytest.raises(JsonPathError, match=complaint.replace("{", "\\{").replace("}", "\\}")):
        parse_template(template)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{.items[7]}", "array index out of bounds: index 7, length 2"),
        ("{.kind[0]}", "is not array or slice"),
        ("{.items[?(@.status.phase==1)]}", "incompatible types for comparison"),
    ],
)
def test_what_does_not_fit_the_data(template: str, complaint: str) -> None:
    with pytest.raises(JsonPathError, match=complaint):
        render(template)


@pytest.mark.parametrize("spelling", ["{.metadata.name}", ".metadata.name", "metadata.name", " {metadata.name} "])
def test_relaxed_spellings(spelling: str) -> None:
    assert find(parse_relaxed(spelling), PODS["items"][0]) == ["a"]


@pytest.mark.parametrize("spelling", ["{.metadata.name", ".metadata.name}"])
def test_relaxed_needs_both_braces_or_none(spelling: str) -> None:
    with pytest.raises(JsonPathError, match="unexpected path string"):
        parse_relaxed(spelling)


NAMES = st.text(alphabet="abc./-_ []{}'\\", min_size=1, max_size=8)


@given(st.lists(NAMES, min_size=1, max_size=4), st.integers())
def test_every_field_can_be_reached_with_escapes(names: list[str], value: int) -> None:
    data: Any = value
    for name in reversed(names):
        data = {name: data}
    path = "".join("." + "".join(c if c in "abc" else "\\" + c for c in name) for name in names)
    assert find(parse_path(path), data) == [value]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def naive_walk(value: Any) -> list[Any]:
    below = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value] + [found for child in below for found in naive_walk(child)]


@given(JSON)
def test_recursion_finds_every_value_once(data: Any) -> None:
    def canonical(values: list[Any]) -> list[str]:
        return sorted(json.dumps(value, sort_keys=True) for value in values)

    assert canonical(find(parse_relaxed(".."), data)) == canonical(naive_walk(data))


@given(st.lists(st.integers(), max_size=6), st.none() | st.integers(-8, 8), st.none() | st.integers(-8, 8))
def test_slices_are_pythons(items: list[int], start: int | None, stop: int | None) -> None:
    text = f"[{'' if start is None else start}:{'' if stop is None else stop}]"
    assert find(parse_relaxed(text), items) == items[start:stop]


@given(st.text(alphabet="{}.[]()?@$*'\"=<>:,\\ ab01-\n", max_size=25), JSON)
def test_nothing_but_a_jsonpath_error_comes_out(template: str, data: Any) -> None:
    with contextlib.suppress(JsonPathError):
        assert isinstance(render(template, data), str)
