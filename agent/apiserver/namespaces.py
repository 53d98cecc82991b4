"""What a namespace means to the objects in it, and its own peculiar way of going.

Nothing is created in a namespace that is missing or going. Deleting a namespace only marks it: its controller empties
it, takes itself off ``spec.finalizers`` through the ``finalize`` subresource, and then it goes.
"""

from __future__ import annotations

from agent.apiserver import objects
from agent.apiserver.admission.errors import Cause
from agent.apiserver.api import Api, find_object, kind_of
from agent.apiserver.registry import JSON, Kind, value_at
from agent.apiserver.status import forbidden, not_found

DEFAULT = ("default", "kube-node-lease", "kube-public", "kube-system")
IMMORTAL = ("default", "kube-public", "kube-system")  # plugin/namespace/lifecycle

NAMESPACES = kind_of("namespaces")


async def check_can_create(api: Api, kind: Kind, namespace: str, name: str) -> None:
    """Raises StatusError: 404 if there is no such namespace, 403 if it is being deleted."""
    found = await find_object(api, NAMESPACES, "", namespace)
    if found is None:
        raise not_found(NAMESPACES, namespace)
    if is_terminating(found):
        cause = Cause("NamespaceTerminating", f"namespace {namespace} is being terminated", "metadata.namespace")
        why = f"unable to create new content in namespace {namespace} because it is being terminated"
        raise forbidden(kind, name, why, [cause])


def is_terminating(namespace: JSON) -> bool:
    return (
        value_at(namespace, "status.phase") == "Terminating"
        or value_at(namespace, "metadata.deletionTimestamp") is not None
    )


def check_can_delete(kind: Kind, name: str) -> None:
    if kind is NAMESPACES and name in IMMORTAL:
        raise forbidden(kind, name, "this namespace may not be deleted")


def mark_terminating(namespace: JSON) -> JSON:
    metadata = {"deletionTimestamp": objects.now(), **namespace["metadata"]}
    status = {**(namespace.get("status") or {}), "phase": "Terminating"}
    return {**namespace, "metadata": metadata, "status": status}


def is_finalized(namespace: JSON) -> bool:
    return not value_at(namespace, "spec.finalizers")
