"""Label and field selectors as clients write them.

``a=b,c!=d,e in (f,g),h,!i`` selects by labels, ``metadata.name=x,status.phase!=y`` by fields. The grammar is that of
apimachinery's labels and fields packages. A selector is a tuple of terms, all of which must hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Operator = Literal["in", "notin", "exists", "absent", "gt", "lt"]

KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
TOKEN = re.compile(r"\s*(!=|==|[=!<>(),]|[^\s=!<>(),]+)")
COMPARE: Mapping[str, Operator] = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}
END = ""


class SelectorError(ValueError):
    """The selector cannot be read; says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class LabelTerm:
    """One requirement. ``values`` is empty for exists and absent, and has one number for gt and lt."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, Any]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return self.key in labels
            case "absent":
                return self.key not in labels
            case "in":
                return value in self.values
            case "notin":  # also true of what has no such label
                return value not in self.values
            case "gt" | "lt":
                return self._compares(value)

    def _compares(self, value: Any) -> bool:
        (limit,) = self.values
        if not isinstance(value, str) or not re.fullmatch(r"[+-]?\d+", value):
            return False
        return int(value) > int(limit) if self.operator == "gt" else int(value) < int(limit)


@dataclass(frozen=True, slots=True)
class FieldTerm:
    """``field=value`` or, if not ``equal``, ``field!=value``."""

    field: str
    value: str
    equal: bool = True


def match_labels(terms: tuple[LabelTerm, ...], labels: Mapping[str, Any]) -> bool:
    return all(term.matches(labels) for term in terms)


def parse_labels(text: str) -> tuple[LabelTerm, ...]:
    """Raises SelectorError."""
    tokens = _Tokens(text)
    terms: list[LabelTerm] = []
    if tokens.peek() == END:
        return ()
    while True:
        terms.append(_term(tokens))
        if (token := tokens.take()) == END:
            return tuple(terms)
        if token != ",":
            raise SelectorError(f"found '{token}', expected: ',' or 'end of string'")


class _Tokens:
    """The words of a selector, with one of look-ahead."""

    def __init__(self, text: str) -> None:
        self._left = list(_split(text))

    def peek(self) -> str:
        return self._left[0] if self._left else END

    def take(self) -> str:
        return self._left.pop(0) if self._left else END


def _split(text: str) -> Iterator[str]:
    at, text = 0, text.strip()
    while at < len(text):
        found = TOKEN.match(text, at)
        assert found is not None, "every character belongs to some token"
        yield found[1]
        at = found.end()


def _term(tokens: _Tokens) -> LabelTerm:
    absent = tokens.peek() == "!"
    if absent:
        tokens.take()
    key = tokens.take()
    _check_key(key)
    if absent:
        return LabelTerm(key, "absent")
    token = tokens.peek()
    if token in (",", END):
        return LabelTerm(key, "exists")
    tokens.take()
    if token in ("in", "notin"):
        return LabelTerm(key, "in" if token == "in" else "notin", frozenset(_set(tokens)))
    if token in COMPARE:
        return _comparison(key, COMPARE[token], tokens)
    raise SelectorError(f"found '{token}', expected: in, notin, =, ==, !=, gt, lt")


def _comparison(key: str, operator: Operator, tokens: _Tokens) -> LabelTerm:
    value = END if tokens.peek() == "," else tokens.take()
    if operator in ("gt", "lt") and not re.fullmatch(r"[+-]?\d+", value):
        raise SelectorError(
            f"values: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must be an integer"
        )
    _check_value(value)
    return LabelTerm(key, operator, frozenset([value]))


def _set(tokens: _Tokens) -> Iterator[str]:
    """``(a,b,c)``; an item may be empty."""
    if (token := tokens.take()) != "(":
        raise SelectorError(f"found '{token}' expected: '('")
    while True:
        value = END if tokens.peek() in (",", ")") else tokens.take()
        _check_value(value)
        yield value
        token = tokens.take()
        if token == ")":
            return
        if token != ",":
            raise SelectorError(f"found '{token}', expected: ',' or ')'")


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise SelectorError(f'unable to parse requirement: "{key}" is not a label key')


def _check_value(value: str) -> None:
    if not VALUE.fullmatch(value):
        raise SelectorError(f'unable to parse requirement: "{value}" is not a label value')


def parse_fields(text: str) -> tuple[FieldTerm, ...]:
    """``\\`` before ``,``, ``=`` or itself takes the meaning away from it. Raises SelectorError."""
    return tuple(_field_term(part) for part in _split_terms(text) if part)


def _split_terms(text: str) -> list[str]:
    """At commas that are not escaped."""
    return [part.strip() for part in re.findall(r"((?:[^,\\]|\\.|\\$)*)(?:,|$)", text)]


def _field_term(text: str) -> FieldTerm:
    found = re.match(r"((?:[^=!\\]|\\.|!(?!=))*)(==|=|!=)(.*)", text, re.DOTALL)
    if found is None:
        raise SelectorError(f"invalid selector: '{text}'; can't understand '{text}'")
    field, sign, value = found[1], found[2], found[3]
    return FieldTerm(field.strip(), _unescape(value), sign != "!=")


def _unescape(value: str) -> str:
    if not re.fullmatch(r"(?:[^,=\\]|\\[,=\\])*", value):
        raise SelectorError(f"invalid field selector value '{value}': a backslash, comma or equals sign is not escaped")
    return re.sub(r"\\([,=\\])", r"\1", value)
