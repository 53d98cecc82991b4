"""The course every object takes, and the hooks in which kinds differ.

Create: defaults, then ``prepare_create`` (fields that clients do not get to set), then the rules, then ``allocate``.
Update: fields that the request may not touch are taken from the old object (spec through ``status``, status through the
main resource), then defaults, ``prepare_update``, the rules, ``allocate_update``.
"""

from __future__ import annotations

from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import Cause, Invalid
from agent.apiserver.registry import JSON, Kind


class Strategy:
    """The common course. Hooks change the object they are given; rules return causes and change nothing."""

    def create(self, kind: Kind, obj: JSON, context: Context) -> JSON:
        self.default(obj)
        self.prepare_create(obj)
        _check(self.validate(obj, context))
        return obj

    def update(self, kind: Kind, subresource: str | None, new: JSON, old: JSON, context: Context) -> JSON:
        if "status" in kind.subresources:
            _keep(new, old, subresource)
        self.default(new)
        _check(self.validate(new, context))
        return new

    def release(self, obj: JSON, context: Context) -> None:
        """Free what the deleted object held."""

    def default(self, obj: JSON) -> None:
        """Fill in what may be left out."""

    def prepare_create(self, obj: JSON) -> None:
        """Reset what clients do not get to set."""

    def validate(self, obj: JSON, context: Context) -> list[Cause]:
        """Rules that hold for every version of the object."""
        return []


def _keep(new: JSON, old: JSON, subresource: str | None) -> None:
    """Take from the old object what this request may not touch."""
    kept = "status" if subresource is None else "spec"
    new.pop(kept, None)
    if kept in old:
        new[kept] = old[kept]


def _check(causes: list[Cause]) -> None:
    if causes:
        raise Invalid(causes)
