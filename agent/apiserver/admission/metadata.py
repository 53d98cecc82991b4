"""Rules for ``metadata``, the same for all kinds (apimachinery: api/validation/objectmeta.go)."""

from __future__ import annotations

import json

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import forbidden, invalid, required
from agent.apiserver.admission.rules import Causes, formed, labels, same, total_size
from agent.apiserver.registry import JSON

ANNOTATIONS_LIMIT = 256 << 10  # bytes, names and values together
FINALIZERS = ("foregroundDeletion", "orphan", "kubernetes")
IMMUTABLE = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def check_metadata(metadata: JSON, *, namespaced: bool, name_check: names.Check) -> Causes:
    name, prefix = metadata.get("name"), metadata.get("generateName")
    if prefix:
        yield from _check_prefix(prefix, name_check)
    if not name:
        yield required("metadata.name", "name or generateName is required")
    else:
        yield from formed("metadata.name", name, name_check)
    yield from _check_namespace(metadata.get("namespace"), namespaced=namespaced)
    yield from labels("metadata.labels", metadata.get("labels"))
    yield from _check_annotations(metadata.get("annotations") or {})
    yield from _check_owners(metadata.get("ownerReferences") or [])
    for index, finalizer in enumerate(metadata.get("finalizers") or []):
        yield from _check_finalizer(f"metadata.finalizers[{index}]", finalizer)


def check_metadata_update(new: JSON, old: JSON) -> Causes:
    for name in IMMUTABLE:
        if new.get(name) is not None or name in ("name", "namespace"):
            yield from same(f"metadata.{name}", new.get(name), old.get(name))
    added = [entry for entry in new.get("finalizers") or [] if entry not in (old.get("finalizers") or [])]
    if added and old.get("deletionTimestamp"):
        shown = json.dumps(added, separators=(",", ":"))
        yield forbidden(
            "metadata.finalizers",
            f"no new finalizers can be added if the object is being deleted, found new finalizers {shown}",
        )


def _check_prefix(prefix: str, name_check: names.Check) -> Causes:
    """A prefix may end in a dash, since letters will follow."""
    for complaint in name_check(f"{prefix.rstrip('-')}x"):
        yield invalid("metadata.generateName", prefix, complaint)


def _check_namespace(namespace: str | None, *, namespaced: bool) -> Causes:
    if not namespaced:
        if namespace:
            yield forbidden("metadata.namespace", "not allowed on this type")
    elif not namespace:
        yield required("metadata.namespace")
    else:
        yield from formed("metadata.namespace", namespace, names.dns_label)


def _check_annotations(annotations: JSON) -> Causes:
    for key in annotations:
        for complaint in names.qualified_name(key.lower()):
            yield invalid("metadata.annotations", key, complaint)
    sizes = [len(key.encode()) + len(value.encode()) for key, value in annotations.items()]
    yield from total_size("metadata.annotations", sizes, ANNOTATIONS_LIMIT)


def _check_owners(owners: list[JSON]) -> Causes:
    for index, owner in enumerate(owners):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                complaint = "version must not be empty" if name == "apiVersion" else "must not be empty"
                yield invalid(f"metadata.ownerReferences[{index}].{name}", owner.get(name, ""), complaint)
        if owner.get("kind") == "Event":
            yield invalid(f"metadata.ownerReferences[{index}]", owner, "Event is disallowed from being an owner")
    managing = [owner for owner in owners if owner.get("controller")]
    if len(managing) > 1:
        kinds = ", ".join(f"{owner.get('kind')}/{owner.get('name')}" for owner in managing)
        complaint = "Only one reference can have Controller set to true. Found " + f'"true" in references for {kinds}'
        yield invalid("metadata.ownerReferences", owners, complaint)


def _check_finalizer(path: str, finalizer: str) -> Causes:
    yield from formed(path, finalizer, names.qualified_name)
    if "/" not in finalizer and finalizer not in FINALIZERS:
        yield invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified")
