"""Strict field checking: what the object has that its kind does not, and what has the wrong type.

The kind's model, as a table of fields (``models``), is walked along with the object. What to do about an unknown
field is the request's choice (``fieldValidation=Strict|Warn|Ignore``); a value of the wrong type is always refused.
``null`` counts as absent, as in Go's decoder, but not as an item of a list. Messages for unknown fields are
upstream's, so that kubectl's users recognise them; duplicate keys are the reader's business: once JSON is a dict they
are gone.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lightkube.models import core_v1

from agent.apiserver.models import Type, fields_of
from agent.apiserver.registry import JSON, Kind

QUANTITY = re.compile(r"([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)")
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class FieldReport:
    """``unknown``: messages such as ``unknown field "spec.portz"``. ``errors``: values of the wrong type."""

    unknown: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Finding:
    path: str
    error: str = ""  # empty: the field is unknown


def check_fields(kind: Kind, obj: JSON) -> FieldReport:
    """Walk ``obj`` along the kind's model; findings come in the order of the object."""
    findings = list(_walk(Type("struct", model=kind.model), obj, ""))
    return FieldReport(
        unknown=tuple(f'unknown field "{finding.path}"' for finding in findings if not finding.error),
        errors=tuple(f"{finding.path or 'object'}: {finding.error}" for finding in findings if finding.error),
    )


def _walk(kind: Type, value: Any, path: str) -> Iterator[_Finding]:
    match kind.shape:
        case "any":
            return
        case "struct" | "map" if not isinstance(value, dict):
            yield _Finding(path, _mismatch(value, "object"))
        case "struct":
            yield from _walk_struct(kind, value, path)
        case "map":
            yield from _walk_map(kind, value, path)
        case "list" if not isinstance(value, list):
            yield _Finding(path, _mismatch(value, "array"))
        case "list":
            yield from _walk_list(kind, value, path)
        case shape:
            error = SCALARS[shape](value)
            if error:
                yield _Finding(path, error)


def _walk_struct(kind: Type, value: JSON, path: str) -> Iterator[_Finding]:
    assert kind.model is not None
    fields = fields_of(kind.model)
    for name, item in value.items():
        here = f"{path}.{name}" if path else name
        if name not in fields:
            yield _Finding(here)
        elif item is not None:
            yield from _walk(fields[name].type, item, here)
            if (kind.model, name) in BINARY and isinstance(item, dict):
                yield from _walk_binary(item, here)


def _walk_map(kind: Type, value: JSON, path: str) -> Iterator[_Finding]:
    assert kind.item is not None
    for name, item in value.items():
        if item is not None:
            yield from _walk(kind.item, item, f"{path}[{name}]")


def _walk_list(kind: Type, value: list[Any], path: str) -> Iterator[_Finding]:
    assert kind.item is not None
    for index, item in enumerate(value):
        yield from _walk(kind.item, item, f"{path}[{index}]")


# Maps whose values are bytes in base64.
BINARY = frozenset({(core_v1.Secret, "data"), (core_v1.ConfigMap, "binaryData")})


def _walk_binary(value: JSON, path: str) -> Iterator[_Finding]:
    for name, text in value.items():
        if isinstance(text, str):
            try:
                base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
            except binascii.Error as error:
                yield _Finding(f"{path}[{name}]", f"illegal base64 data: {error}")


def _mismatch(value: Any, wanted: str) -> str:
    return f"cannot unmarshal {_json_type(value)} into a field of type {wanted}"


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return f"number {value}"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _string(value: Any) -> str:
    return "" if isinstance(value, str) else _mismatch(value, "string")


def _integer(value: Any) -> str:
    return "" if isinstance(value, int) and not isinstance(value, bool) else _mismatch(value, "integer")


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else _mismatch(value, "boolean")


def _int_or_string(value: Any) -> str:
    return "" if not _integer(value) or not _string(value) else _mismatch(value, "integer or string")


def _quantity(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ""
    if not isinstance(value, str):
        return _mismatch(value, "quantity")
    if QUANTITY.fullmatch(value):
        return ""
    return f"quantities must match the regular expression '^{QUANTITY.pattern}$'"


def _time(value: Any) -> str:
    if not isinstance(value, str):
        return _mismatch(value, "time")
    return "" if TIME.fullmatch(value) else f'cannot parse "{value}" as an RFC 3339 time such as 2006-01-02T15:04:05Z'


SCALARS: dict[str, Callable[[Any], str]] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "int-or-string": _int_or_string,
    "quantity": _quantity,
    "time": _time,
    "microtime": _time,
}
