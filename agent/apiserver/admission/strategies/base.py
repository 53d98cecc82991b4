"""The course every object takes, and the hooks in which kinds differ.

Create: defaults, then ``prepare_create`` (what clients do not get to set), then the rules, then ``allocate``.
Update: what the request may not touch is taken from the old object (the spec through ``status``, the status through the
main resource), then defaults and ``prepare_update``, then the rules for any object and those for the change, then
``allocate``. Rules come before allocation, so that a refused object has taken nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.apiserver.admission import names
from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import Cause, Invalid
from agent.apiserver.admission.metadata import check_metadata, check_metadata_update
from agent.apiserver.admission.rules import Causes, without_nulls
from agent.apiserver.registry import JSON, Kind

OMITTED_IF_EMPTY = ("annotations", "finalizers", "labels", "managedFields", "ownerReferences")


class Strategy:
    """The common course. Hooks change the object they are given; rules yield causes and change nothing."""

    name_check: names.Check = staticmethod(names.dns_subdomain)

    def create(self, kind: Kind, obj: JSON, context: Context) -> JSON:
        obj = canonical(obj)
        self.default(obj)
        self.prepare_create(obj, context)
        refuse(self._check_any(kind, obj), self.validate(obj))
        self.allocate(obj, None, context)
        return obj

    def update(self, kind: Kind, subresource: str | None, new: JSON, old: JSON, context: Context) -> JSON:
        new, old = canonical(new), canonical(old)
        if subresource == "status":
            return self._update_status(kind, new, old)
        if "status" in kind.subresources:
            keep(new, old, "status")
        self.default(new)
        self.prepare_update(new, old, subresource, context)
        metadata = check_metadata_update(new.get("metadata") or {}, old.get("metadata") or {})
        refuse(self._check_any(kind, new), metadata, self.validate(new), self.validate_update(new, old, subresource))
        self.allocate(new, old, context)
        return new

    def release(self, obj: JSON, context: Context) -> None:
        """Free what the deleted object held."""

    def _update_status(self, kind: Kind, new: JSON, old: JSON) -> JSON:
        for name in self.fields_beside_status(old) | self.fields_beside_status(new):
            keep(new, old, name)
        self.prepare_status(new, old)
        metadata = check_metadata_update(new.get("metadata") or {}, old.get("metadata") or {})
        refuse(self._check_any(kind, new), metadata, self.validate_status(new, old))
        return new

    def _check_any(self, kind: Kind, obj: JSON) -> Causes:
        return check_metadata(obj.get("metadata") or {}, namespaced=kind.namespaced, name_check=self.name_check)

    @staticmethod
    def fields_beside_status(obj: JSON) -> set[str]:
        """What a status update leaves alone."""
        return obj.keys() - {"apiVersion", "kind", "metadata", "status"}

    def default(self, obj: JSON) -> None:
        """Fill in what may be left out."""

    def prepare_create(self, obj: JSON, context: Context) -> None:
        """Reset what clients do not get to set."""

    def prepare_update(self, new: JSON, old: JSON, subresource: str | None, context: Context) -> None:
        """Take over what the client left out and the old object has."""

    def prepare_status(self, new: JSON, old: JSON) -> None:
        """Fill in what a status may leave out."""

    def validate(self, obj: JSON) -> Causes:
        """Rules that every version of the object keeps."""
        return iter(())

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        """Rules for the change."""
        return iter(())

    def validate_status(self, new: JSON, old: JSON) -> Causes:
        """Rules for a change of the status."""
        return iter(())

    def allocate(self, obj: JSON, old: JSON | None, context: Context) -> None:
        """Take, through the context, what the object needs, and free what it no longer needs. Raises Invalid."""


def canonical(obj: JSON) -> JSON:
    """A copy without what says nothing: fields set to null, and metadata's lists and maps that hold nothing."""
    obj = without_nulls(obj)
    metadata = obj.get("metadata") or {}
    obj["metadata"] = {name: value for name, value in metadata.items() if value or name not in OMITTED_IF_EMPTY}
    return obj


def keep(new: JSON, old: JSON, name: str) -> None:
    """Take a top-level field from the old object."""
    new.pop(name, None)
    if name in old:
        new[name] = old[name]


def refuse(*rules: Iterable[Cause]) -> None:
    """Raise Invalid if any rule found a cause."""
    causes = [cause for rule in rules for cause in rule]
    if causes:
        raise Invalid(causes)
