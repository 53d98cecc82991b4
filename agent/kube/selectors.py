"""Label selectors as controllers see them: does this selector choose these labels?

The string form (``a=b,c in (d,e),!f``) is the API server's and the command line's business; here is the structured form
that ReplicaSets (``LabelSelector``) and Services (a plain map) carry.
"""

from __future__ import annotations

from collections.abc import Mapping

from lightkube.models.meta_v1 import LabelSelector, LabelSelectorRequirement


def matches_map(selector: Mapping[str, str] | None, labels: Mapping[str, str] | None) -> bool:
    """A Service's selector: every pair must be there. An empty one chooses nothing (endpoints are managed by hand)."""
    have = labels or {}
    return bool(selector) and all(have.get(name) == value for name, value in (selector or {}).items())


def matches(selector: LabelSelector | None, labels: Mapping[str, str] | None) -> bool:
    """A LabelSelector: None chooses nothing, an empty one everything (meta/v1 LabelSelectorAsSelector)."""
    if selector is None:
        return False
    have = labels or {}
    pairs = (selector.matchLabels or {}).items()
    return all(have.get(n) == v for n, v in pairs) and all(_meets(r, have) for r in selector.matchExpressions or [])


def _meets(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(requirement.key), requirement.values or []
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
