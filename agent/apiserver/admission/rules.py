"""Small rules of which the kinds' own are made: they look at one value under one path and tell what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import Cause, forbidden, invalid, not_supported, required, too_long
from agent.apiserver.registry import JSON

Causes = Iterator[Cause]

NON_NEGATIVE = "must be greater than or equal to 0"
IMMUTABLE = "field is immutable"


def formed(path: str, value: Any, check: names.Check) -> Causes:
    """The value must pass a check of ``names``."""
    for complaint in check(value):
        yield invalid(path, value, complaint)


def required_name(path: str, value: str | None, check: names.Check) -> Causes:
    if not value:
        yield required(path)
    else:
        yield from formed(path, value, check)


def one_of(path: str, value: Any, supported: Iterable[str]) -> Causes:
    """A required choice."""
    if value is None or value == "":
        yield required(path)
    elif value not in (choices := sorted(supported)):
        yield not_supported(path, value, choices)


def at_least_zero(path: str, value: int | None) -> Causes:
    if value is not None and value < 0:
        yield invalid(path, value, NON_NEGATIVE)


def positive(path: str, value: int | None) -> Causes:
    if value is not None and value <= 0:
        yield invalid(path, value, "must be greater than 0")


def same(path: str, new: Any, old: Any) -> Causes:
    """The field cannot change any more."""
    if new != old:
        yield invalid(path, new, IMMUTABLE)


def port_reference(path: str, value: int | str | None) -> Causes:
    """A port by number or by name."""
    if isinstance(value, str):
        yield from formed(path, value, names.port_name)
    else:
        for complaint in names.port_number(value or 0):
            yield invalid(path, value or 0, complaint)


def labels(path: str, values: JSON | None) -> Causes:
    for key, value in (values or {}).items():
        for complaint in names.qualified_name(key):
            yield invalid(path, key, complaint)
        for complaint in names.label_value(value):
            yield invalid(path, value, complaint)


def label_selector(path: str, selector: JSON) -> Causes:
    """A meta/v1 LabelSelector."""
    yield from labels(f"{path}.matchLabels", selector.get("matchLabels"))
    for index, requirement in enumerate(selector.get("matchExpressions") or []):
        yield from _requirement(f"{path}.matchExpressions[{index}]", requirement)


def _requirement(path: str, requirement: JSON) -> Causes:
    operator, values = requirement.get("operator", ""), requirement.get("values") or []
    if operator in ("In", "NotIn"):
        if not values:
            yield required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            yield forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    else:
        yield invalid(f"{path}.operator", operator, "not a valid selector operator")
    yield from formed(f"{path}.key", requirement.get("key", ""), names.qualified_name)
    for index, value in enumerate(values):
        yield from formed(f"{path}.values[{index}]", value, names.label_value)


def total_size(path: str, sizes: Collection[int], limit: int) -> Causes:
    if sum(sizes) > limit:
        yield too_long(path, limit)


def without_nulls(value: Any) -> Any:
    """A copy in which fields set to null are left out: JSON's null and absence mean the same to the API."""
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def selects(selector: JSON, labels_: JSON) -> bool:
    """Does a meta/v1 LabelSelector choose these labels?"""
    pairs = (selector.get("matchLabels") or {}).items()
    return all(labels_.get(key) == value for key, value in pairs) and all(
        _meets(requirement, labels_) for requirement in selector.get("matchExpressions") or []
    )


def _meets(requirement: JSON, labels_: JSON) -> bool:
    value, values = labels_.get(requirement["key"]), requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
    return value is None
