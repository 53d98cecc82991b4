"""kubectl's JSONPath: a template in, a list of values or a text out. Pure.

The dialect is kubectl's own, not RFC 9535: a template mixes text with ``{expressions}``; ``{range LIST}...{end}``
repeats; ``{"text\\n"}`` is text with escapes. A path is made of steps: ``.name``, ``['name']``, ``[0]``, ``[-1]``,
``[1:3]``, ``[0,2]``, ``[*]``, ``.*``, ``..name``, ``[?(@.type=="Ready")]``; ``\\.`` in a name is a dot that does not
separate. A step maps a list of values to a list of values, so a path is just its steps one after the other.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cli.kubectl.objects import go_json


class JsonPathError(Exception):
    """The template cannot be parsed, or does not fit the data; the message quotes the part that is wrong."""


@dataclass(frozen=True, slots=True)
class Field:
    """``.name``: values of maps; a list or a scalar has no fields."""

    name: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    """``[*]`` or ``.*``: every item of a list, every value of a map."""


@dataclass(frozen=True, slots=True)
class Index:
    """``[2]``; negative counts from the end. Out of range is an error, as in kubectl."""

    at: int


@dataclass(frozen=True, slots=True)
class Slice:
    """``[from:to:step]``."""

    start: int | None
    stop: int | None
    step: int | None


@dataclass(frozen=True, slots=True)
class Recursive:
    """``..``: the value and all values below it."""


@dataclass(frozen=True, slots=True)
class Union:
    """``[0,2]`` or ``['a','b']``: the results of each path, one after the other."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """``[?(left op right)]``: the items for which it holds; without an operator: for which ``left`` is there."""

    left: Path | Literal
    op: str
    right: Path | Literal | None


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number or truth value inside a filter."""

    value: Any


Step = Field | Wildcard | Index | Slice | Recursive | Union | Filter


@dataclass(frozen=True, slots=True)
class Path:
    """Steps from the current value, or from the top where it starts with ``$``."""

    steps: tuple[Step, ...]
    from_root: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Range:
    path: Path
    body: tuple[Node, ...]


Node = Text | Path | Range


# --- parsing --------------------------------------------------------------------------------------------------


def parse_template(template: str) -> tuple[Node, ...]:
    """A template such as ``{range .items[*]}{.metadata.name}{"\\n"}{end}``. Raises JsonPathError."""
    stack: list[tuple[Path | None, list[Node]]] = [(None, [])]
    for node in _actions(template):
        if isinstance(node, Range):
            stack.append((node.path, []))
        elif node is None:
            path, body = stack.pop()
            if path is None:
                raise JsonPathError("{end} without {range}")
            stack[-1][1].append(Range(path, tuple(body)))
        else:
            stack[-1][1].append(node)
    if len(stack) > 1:
        raise JsonPathError("{range} without {end}")
    return tuple(stack[0][1])


def parse_relaxed(expression: str) -> Path:
    """One path, with or without braces and leading dot: ``{.metadata.name}``, ``.metadata.name``, ``metadata.name``."""
    inner = expression.strip()
    if inner.startswith("{") != inner.endswith("}"):
        raise JsonPathError(f"unexpected path string {expression!r}: expected '.name' or '{{.name}}'")
    inner = inner.removeprefix("{").removesuffix("}").strip()
    return parse_path(inner if inner.startswith((".", "[", "$", "@")) else f".{inner}")


def _actions(template: str) -> Iterator[Node | None]:
    """Text, paths, openings of ranges (with an empty body) and ``None`` for ``{end}``."""
    position = 0
    while position < len(template):
        opening = template.find("{", position)
        if opening < 0:
            yield Text(template[position:])
            return
        if opening > position:
            yield Text(template[position:opening])
        closing = _closing(template, opening)
        yield from _action(template[opening + 1 : closing].strip())
        position = closing + 1


def _closing(template: str, opening: int) -> int:
    """The brace that ends the action, past quoted text."""
    quote = ""
    position = opening + 1
    while position < len(template):
        character = template[position]
        if quote:
            if character == "\\":
                position += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character == "}":
            return position
        position += 1
    raise JsonPathError(f"unclosed action: {template[opening:]}")


def _action(inner: str) -> Iterator[Node | None]:
    if inner == "end":
        yield None
    elif inner.startswith("range"):
        yield Range(parse_path(inner.removeprefix("range").strip()), ())
    elif inner[:1] in ("'", '"'):
        yield Text(_unquote(inner))
    elif inner:
        yield parse_path(inner)


def _unquote(quoted: str) -> str:
    if len(quoted) < 2 or quoted[-1] != quoted[0]:
        raise JsonPathError(f"unterminated quoted string: {quoted}")
    try:
        return str(ast.literal_eval(quoted))
    except (SyntaxError, ValueError) as error:
        raise JsonPathError(f"invalid quoted string: {quoted}") from error


_NAME = re.compile(r"(?:\\.|[^.\[\]{}()\s\\,<>=!|&])+")


def parse_path(text: str) -> Path:
    """``.spec.ports[0].port``, ``$.items[*]``, ``@.name``. Raises JsonPathError."""
    from_root, position, steps = text.startswith("$"), int(text[:1] in ("$", "@")), list[Step]()
    while position < len(text):
        if text.startswith("..", position):
            steps.append(Recursive())
            position += 2
            if position < len(text) and text[position] != "[":
                position = _name(text, position, steps)
        elif text[position] == ".":
            position += 1
            if position < len(text) and text[position] != "[":
                position = _name(text, position, steps)
        elif text[position] == "[":
            closing = _bracket(text, position)
            steps.append(_subscript(text[position + 1 : closing].strip()))
            position = closing + 1
        else:
            raise JsonPathError(f"unexpected {text[position:]!r} in {text!r}: expected .name or [...]")
    return Path(tuple(steps), from_root)


def _name(text: str, position: int, steps: list[Step]) -> int:
    if text[position] == "*":
        steps.append(Wildcard())
        return position + 1
    found = _NAME.match(text, position)
    if found is None:
        raise JsonPathError(f"unexpected {text[position:]!r} in {text!r}: expected a field's name")
    steps.append(Field(re.sub(r"\\(.)", r"\1", found.group())))
    return found.end()


def _bracket(text: str, opening: int) -> int:
    """The bracket that ends the subscript, past quoted text and nested brackets."""
    depth, quote = 0, ""
    for position in range(opening, len(text)):
        character = text[position]
        if quote:
            quote = "" if character == quote and text[position - 1] != "\\" else quote
        elif character in "\"'":
            quote = character
        elif character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
            if depth == 0:
                return position
    raise JsonPathError(f"unterminated array: {text[opening:]}")


def _subscript(inner: str) -> Step:
    if inner == "*":
        return Wildcard()
    if inner.startswith("?(") and inner.endswith(")"):
        return _filter(inner[2:-1].strip())
    if re.fullmatch(r"-?\d+", inner):
        return Index(int(inner))
    if (found := re.fullmatch(r"(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?", inner)) is not None:
        start, stop, step = (int(part) if part else None for part in found.groups())
        if step is not None and step <= 0:
            raise JsonPathError(f"step must be > 0 in [{inner}]")
        return Slice(start, stop, step)
    parts = _split(inner)
    if len(parts) > 1:
        return Union(tuple(Path((_subscript(part),)) for part in parts))
    if len(inner) > 1 and inner[0] == inner[-1] and inner[0] in "\"'":
        # kubectl reads a quoted name as a path of its own, which is why dots in it need a backslash there too.
        return Union((parse_path(f".{inner[1:-1]}"),))
    raise JsonPathError(f"invalid array index [{inner}]")


def _split(inner: str) -> list[str]:
    """At commas outside quotes."""
    return [part.strip() for part in re.findall(r"""(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|[^,])+""", inner)]


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_OPERAND = r"""(?:'(?:\\.|[^'])*'|"(?:\\.|[^"])*"|[^'"<>=!])+?"""
_COMPARISON = re.compile(rf"\s*({_OPERAND})\s*(==|!=|<=|>=|<|>)\s*({_OPERAND})\s*", re.DOTALL)


def _filter(inner: str) -> Filter:
    if (found := _COMPARISON.fullmatch(inner)) is not None:
        return Filter(_operand(found[1]), found[2], _operand(found[3]))
    return Filter(_operand(inner), "exists", None)


def _operand(text: str) -> Path | Literal:
    stripped = text.strip()
    if stripped[:1] in ("'", '"'):
        return Literal(_unquote(stripped))
    if stripped in ("true", "false"):
        return Literal(stripped == "true")
    if re.fullmatch(r"[+-]?\d+", stripped):
        return Literal(int(stripped))
    if re.fullmatch(r"[+-]?\d*\.\d+", stripped):
        return Literal(float(stripped))
    return parse_path(stripped)


# --- evaluating -----------------------------------------------------------------------------------------------


def find(path: Path, value: Any, *, root: Any = None) -> list[Any]:
    """The values at a path; a field that is not there gives none. ``root``: what ``$`` means (default: ``value``)."""
    top = value if root is None else root
    values = [top if path.from_root else value]
    for step in path.steps:
        values = [result for each in values for result in _apply(step, each, top)]
    return values


def render_template(nodes: Sequence[Node], data: Any) -> str:
    """The text a template makes of ``data``; several results of one expression are joined by a space."""
    return "".join(_render(nodes, data, data))


def _render(nodes: Sequence[Node], value: Any, root: Any) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Text):
            yield node.text
        elif isinstance(node, Range):
            for item in find(node.path, value, root=root):
                yield from _render(node.body, item, root)
        else:
            yield " ".join(to_text(result) for result in find(node, value, root=root))


def to_text(value: Any) -> str:
    """One result as text: strings as they are, maps and lists as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    return go_json(value)


def _apply(step: Step, value: Any, root: Any) -> Iterator[Any]:
    match step:
        case Field(name):
            if isinstance(value, Mapping) and name in value:
                yield value[name]
        case Wildcard():
            yield from _children(value)
        case Index(at):
            yield from _index(at, value)
        case Slice(start, stop, each):
            yield from _list(value)[start:stop:each]
        case Recursive():
            yield from _descend(value)
        case Union(paths):
            for path in paths:
                yield from find(path, value, root=root)
        case Filter():
            yield from (item for item in _list(value) if _holds(step, item, root))


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from (value[key] for key in sorted(value))
    elif isinstance(value, list):
        yield from value


def _descend(value: Any) -> Iterator[Any]:
    yield value
    for child in _children(value):
        yield from _descend(child)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise JsonPathError(f"{to_text(value)[:60]} is not array or slice and cannot be sliced or filtered")
    return value


def _index(at: int, value: Any) -> list[Any]:
    items = _list(value)
    if not -len(items) <= at < len(items):
        if value is None:
            return []
        raise JsonPathError(f"array index out of bounds: index {at}, length {len(items)}")
    return [items[at]]


def _holds(condition: Filter, item: Any, root: Any) -> bool:
    left = _values(condition.left, item, root)
    if condition.right is None:
        return bool(left)
    right = _values(condition.right, item, root)
    if not left or not right:
        return False
    if len(left) > 1 or len(right) > 1:
        raise JsonPathError("can only compare one element at a time")
    if _family(left[0]) != _family(right[0]):
        raise JsonPathError(f"incompatible types for comparison: {to_text(left[0])} and {to_text(right[0])}")
    return _OPERATORS[condition.op](left[0], right[0])


def _values(operand: Path | Literal, item: Any, root: Any) -> list[Any]:
    return [operand.value] if isinstance(operand, Literal) else find(operand, item, root=root)


def _family(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__
