"""The namespace controller: what every namespace has from its first moment, and what happens when it goes.

A namespace is born with the ServiceAccount ``default`` and the ConfigMap ``kube-root-ca.crt`` (the certificate that
pods need to trust the API server). When it is deleted the API server only marks it Terminating; everything in it is
deleted here, of every kind that discovery finds: pods first, and the rest only when they are gone, so that a policy
never disappears before what it protects (CVE-2024-7598). Then the finalizer ``kubernetes`` is taken off through
``/finalize``, and the API server lets the namespace go.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.controllers.caches import Caches
from agent.controllers.discovery import Resource, discover
from agent.controllers.objects import Namespace, Pod
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.informer import Change, Key

log = logging.getLogger(__name__)
FINALIZER = "kubernetes"
LOOK_AGAIN = 1.0  # seconds between looks at a namespace that still holds something
ROOT_CA = "kube-root-ca.crt"


class Namespaces:
    """``ca``: the file with the certificate that signs the API server's; without one there is no ConfigMap."""

    def __init__(self, client: Client, caches: Caches, *, ca: Path) -> None:
        self._client, self._caches, self._ca = client, caches, ca
        self.controller = Controller("namespaces", self.reconcile)
        caches.namespaces.subscribe(lambda change: self.controller.queue.add(change.key.name))
        caches.pods.subscribe(self._pod_changed)
        caches.service_accounts.subscribe(self._content_changed)
        caches.config_maps.subscribe(self._content_changed)

    async def reconcile(self, name: str) -> None:
        found = self._caches.namespaces.cache.get(Key("", name))
        if found is None:
            return
        if found.metadata.deletion_timestamp is None:
            await self._furnish(name)
        elif FINALIZER in found.spec.finalizers:
            await self._empty(found)

    async def _furnish(self, name: str) -> None:
        if Key(name, "default") not in self._caches.service_accounts.cache:
            await self._ensure(f"/api/v1/namespaces/{name}/serviceaccounts", render_service_account(name))
        if Key(name, ROOT_CA) not in self._caches.config_maps.cache and self._ca.exists():
            await self._ensure(f"/api/v1/namespaces/{name}/configmaps", render_root_ca(name, self._ca.read_text()))

    async def _ensure(self, path: str, body: dict[str, Any]) -> None:
        try:
            await rest.create(self._client, path, body)
        except rest.ApiError as error:
            if not (error.conflict or error.not_found or error.namespace_terminating):
                raise

    async def _empty(self, found: Namespace) -> None:
        """Delete what is left; when nothing is, let the namespace go."""
        name = found.metadata.name
        resources = [r for r in await discover(self._client) if r.namespaced and "delete" in r.verbs]
        remaining: dict[str, int] = {}
        for phase in deletion_phases(resources):
            for resource in phase:
                if count := await self._delete_all(resource, name):
                    remaining[resource.plural] = count
            if remaining:
                break
        if remaining:
            log.debug("namespace %s still holds %s", name, remaining)
            await self._tell(found, remaining)
            self.controller.queue.add_after(name, LOOK_AGAIN)
        else:
            await self._finalize(found)

    async def _delete_all(self, resource: Resource, namespace: str) -> int:
        """Ask for the deletion of every object of a kind. Returns how many are still there afterwards."""
        for item in await self._list(resource, namespace):
            meta = item["metadata"]
            if meta.get("deletionTimestamp"):
                continue
            try:
                path = resource.path(namespace, meta["name"])
                await rest.delete(self._client, path, uid=meta["uid"], propagation="Background")
            except rest.ApiError as error:
                if not error.not_found:
                    raise
        return len(await self._list(resource, namespace))

    async def _list(self, resource: Resource, namespace: str) -> list[dict[str, Any]]:
        return list((await rest.get(self._client, resource.path(namespace))).get("items") or [])

    async def _finalize(self, found: Namespace) -> None:
        path = f"/api/v1/namespaces/{found.metadata.name}"
        try:
            live = await rest.get(self._client, path)
            if live["metadata"]["uid"] != found.metadata.uid:
                return
            spec = live.get("spec", {})
            spec["finalizers"] = [entry for entry in spec.get("finalizers", []) if entry != FINALIZER]
            await rest.replace(self._client, f"{path}/finalize", {**live, "spec": spec})
        except rest.ApiError as error:
            if not error.not_found:
                raise

    async def _tell(self, found: Namespace, remaining: Mapping[str, int]) -> None:
        """Say in the status what keeps the namespace from going."""
        message = describe_remaining(remaining)
        if any(c.type == "NamespaceContentRemaining" and c.message == message for c in found.status.conditions):
            return
        condition = {
            "type": "NamespaceContentRemaining",
            "status": "True",
            "reason": "SomeResourcesRemain",
            "message": message,
        }
        body = {"metadata": {"uid": found.metadata.uid}, "status": {"conditions": [condition]}}
        try:
            await rest.patch_listed(self._client, f"/api/v1/namespaces/{found.metadata.name}/status", body)
        except rest.ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    def _pod_changed(self, change: Change[Pod]) -> None:
        """The last pod of a dying namespace is what its deletion waits for, mostly."""
        found = self._caches.namespaces.cache.get(Key("", change.key.namespace))
        if change.new is None and found is not None and found.metadata.deletion_timestamp is not None:
            self.controller.queue.add(change.key.namespace)

    def _content_changed(self, change: Change[Any]) -> None:
        if change.new is None and change.key.name in ("default", ROOT_CA):
            self.controller.queue.add(change.key.namespace)


def deletion_phases(resources: Iterable[Resource]) -> list[list[Resource]]:
    """Pods, then all the rest; each phase begins when the one before has left nothing."""
    everything = list(resources)
    pods = [r for r in everything if (r.prefix, r.plural) == ("/api/v1", "pods")]
    return [pods, [r for r in everything if r not in pods]]


def describe_remaining(remaining: Mapping[str, int]) -> str:
    listed = ", ".join(f"{plural} has {count} resource instances" for plural, count in sorted(remaining.items()))
    return f"Some resources are remaining: {listed}"


def render_service_account(namespace: str) -> dict[str, Any]:
    meta = {"name": "default", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


def render_root_ca(namespace: str, certificate: str) -> dict[str, Any]:
    why = "Contains a CA bundle that can be used to verify the API server of this cluster."
    meta = {"name": ROOT_CA, "namespace": namespace, "annotations": {"kubernetes.io/description": why}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"ca.crt": certificate}}
