"""Selectors: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.apiserver.selectors import (
    FieldTerm,
    LabelTerm,
    SelectorError,
    match_labels,
    parse_fields,
    parse_labels,
)

LABELS = {"app": "web", "tier": "", "example.com/n": "7"}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("  ", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("other!=x", True),
        ("tier=", True),
        ("tier=,app=web", True),
        ("app=", False),
        ("app", True),
        ("other", False),
        ("!other", True),
        ("! app", False),
        ("app in (db, web)", True),
        ("app in (db)", False),
        ("app in(web)", True),
        ("tier in (,x)", True),
        ("app notin (db,cache)", True),
        ("app notin (web)", False),
        ("other notin (web)", True),
        ("example.com/n>6", True),
        ("example.com/n>7", False),
        ("example.com/n < 8", True),
        ("app>1", False),
        ("other<1", False),
        ("app=web,tier,example.com/n in (7),!other", True),
        ("app=web,tier=x", False),
        ("in in (x)", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert match_labels(parse_labels(selector), LABELS) is matches


@pytest.mark.parametrize(
    "selector",
    [
        *("=x", "app in", "app in (", "app in web", "app in (a b)", "a=b c", "a,,b", "!", "a>x"),
        *("-a", "a=b/c", "a=b,", "a/b/c", "x in (a", ",", "a(b)"),
    ],
)
def test_label_selectors_that_mean_nothing(selector: str) -> None:
    with pytest.raises(SelectorError):
        parse_labels(selector)


keys = st.from_regex(r"[a-z]([a-z0-9.-]{0,5}[a-z0-9])?(/[A-Za-z]{1,4})?", fullmatch=True)
values = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,5}[A-Za-z0-9])?)?", fullmatch=True)
value_sets = st.frozensets(values.filter(bool), min_size=1, max_size=3)
terms = st.one_of(
    st.builds(lambda key: LabelTerm(key, "exists"), keys),
    st.builds(lambda key: LabelTerm(key, "absent"), keys),
    st.builds(lambda key, chosen: LabelTerm(key, "in", chosen), keys, value_sets),
    st.builds(lambda key, chosen: LabelTerm(key, "notin", chosen), keys, value_sets),
)


def render(term: LabelTerm) -> str:
    match term.operator:
        case "exists":
            return term.key
        case "absent":
            return f"!{term.key}"
        case _:
            return f"{term.key} {term.operator} ({','.join(sorted(term.values))})"


@given(st.lists(terms, max_size=4))
def test_reading_what_was_written(written: list[LabelTerm]) -> None:
    assert parse_labels(",".join(map(render, written))) == tuple(written)


@given(terms, st.dictionaries(keys, values, max_size=3))
def test_a_term_and_its_opposite(term: LabelTerm, labels: dict[str, str]) -> None:
    opposite = {"exists": "absent", "absent": "exists", "in": "notin", "notin": "in"}[term.operator]
    assert term.matches(labels) is not LabelTerm(term.key, opposite, term.values).matches(labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", ()),
        ("metadata.name=x", (FieldTerm("metadata.name", "x"),)),
        ("metadata.name==x", (FieldTerm("metadata.name", "x"),)),
        ("a.b!=Running,c=", (FieldTerm("a.b", "Running", False), FieldTerm("c", ""))),
        (r"reason=a\,b\=c\\", (FieldTerm("reason", "a,b=c\\"),)),
        ("a=1,,b=2,", (FieldTerm("a", "1"), FieldTerm("b", "2"))),
    ],
)
def test_field_selectors(selector: str, expected: tuple[FieldTerm, ...]) -> None:
    assert parse_fields(selector) == expected


@pytest.mark.parametrize("selector", ["name", "a=b=c", r"a=b\c", "a>b", "a=1,b"])
def test_field_selectors_that_mean_nothing(selector: str) -> None:
    with pytest.raises(SelectorError):
        parse_fields(selector)


@given(st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=8))
def test_an_escaped_value_is_read_as_it_was(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")
    read = parse_fields(f"f={escaped}")
    assert read[0].value == value.rstrip()
