"""What is wrong with an object, in the words people know: one Cause per field, one exception for all of them.

Wording and reasons are those of apimachinery's field errors (util/validation/field/errors.go), because people search
for these sentences and programs compare them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """One wrong field: an entry of ``Status.details.causes``. ``message`` does not repeat the field."""

    reason: str
    message: str
    field: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Invalid(Exception):
    """The object breaks the rules (HTTP 422, reason Invalid). Its text: one cause, or ``[cause, cause]``."""

    def __init__(self, causes: Sequence[Cause]) -> None:
        self.causes = tuple(causes)
        super().__init__(aggregate(self.causes))


class Forbidden(Exception):
    """The request is understood and refused (HTTP 403, reason Forbidden)."""


def aggregate(causes: Iterable[Cause]) -> str:
    """Causes as one text: each distinct one once; several are listed in brackets."""
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def invalid(field: str, value: Any, detail: str) -> Cause:
    return _with_value("FieldValueInvalid", "Invalid value", field, value, detail)


def duplicate(field: str, value: Any) -> Cause:
    return _with_value("FieldValueDuplicate", "Duplicate value", field, value, "")


def not_found(field: str, value: Any) -> Cause:
    return _with_value("FieldValueNotFound", "Not found", field, value, "")


def not_supported(field: str, value: Any, supported: Iterable[str]) -> Cause:
    detail = "supported values: " + ", ".join(json.dumps(value) for value in supported)
    return _with_value("FieldValueNotSupported", "Unsupported value", field, value, detail)


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", _sentence("Required value", detail), field)


def forbidden(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueForbidden", _sentence("Forbidden", detail), field)


def too_long(field: str, limit: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", field)


def too_many(field: str, count: int, limit: int) -> Cause:
    return _with_value("FieldValueTooMany", "Too many", field, count, f"must have at most {limit} items")


def _with_value(reason: str, title: str, field: str, value: Any, detail: str) -> Cause:
    shown = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Cause(reason, _sentence(f"{title}: {shown}", detail), field)


def _sentence(start: str, detail: str) -> str:
    return f"{start}: {detail}" if detail else start
