"""The node lifecycle controller: what is true of a node, and of its pods, when nobody hears from it any more.

A kubelet renews its Lease (in ``kube-node-lease``) every ten seconds. When that stops for ``GRACE`` seconds, by this
process's own clock (the machines' clocks may differ), the node's conditions become Unknown, and its pods are no longer
ready, so that no Service sends anybody there. When the kubelet is back it says Ready again itself.

Pods bound to a node that no longer exists have nobody who could report their end: they are deleted, after a while in
which the node may come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.controllers.caches import Caches
from agent.controllers.objects import Lease, Node, Pod
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Key

log = logging.getLogger(__name__)
GRACE = 40.0  # seconds without a renewal, and seconds for which the pods of a missing node are left alone
LEASES = "kube-node-lease"
WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``unknown``: conditions to set; ``not_ready``: pods to take out of service; ``again``: seconds until then."""

    unknown: tuple[str, ...] = ()
    not_ready: tuple[Pod, ...] = ()
    again: float | None = None


class Lifecycle:
    """Watches the heartbeat of every node, and collects the pods of those that are gone."""

    def __init__(self, client: Client, caches: Caches, recorder: Recorder) -> None:
        self._client, self._caches, self._recorder, self._grace = client, caches, recorder, GRACE
        self._heard: dict[str, tuple[datetime | None, float]] = {}
        self._missing: dict[str, float] = {}
        self.nodes = Controller("node-lifecycle", self.reconcile, workers=1)
        self.pods = Controller("pod-garbage", self.reconcile_pod)
        caches.nodes.subscribe(self._node_changed)
        caches.leases.subscribe(self._lease_changed)
        caches.pods.subscribe(self._pod_changed)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.nodes.run())
            group.create_task(self.pods.run())

    async def reconcile(self, name: str) -> None:
        node = self._caches.nodes.cache.get(Key("", name))
        if node is None:
            self._heard.pop(name, None)
            return
        silent = time.monotonic() - self._hear(name)
        verdict = resolve_verdict(node, self._caches.pods_by_node.find(name), silent=silent, grace=self._grace)
        if verdict.unknown:
            await self._mark_unknown(node, verdict.unknown)
        for pod in verdict.not_ready:
            await self._mark_not_ready(pod)
        if verdict.again is not None:
            self.nodes.queue.add_after(name, verdict.again)

    def _hear(self, name: str) -> float:
        """When the Lease last changed, by our clock."""
        lease = self._caches.leases.cache.get(Key(LEASES, name))
        renewed = lease.spec.renew_time if lease is not None else None
        known = self._heard.get(name)
        if known is None or known[0] != renewed:
            known = self._heard[name] = (renewed, time.monotonic())
        return known[1]

    async def _mark_unknown(self, node: Node, types: Sequence[str]) -> None:
        meta, now = node.metadata, _now()
        log.warning("node %s: its kubelet has not been heard of for %.0f s: Ready is Unknown", meta.name, self._grace)
        conditions = [
            {
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            }
            for kind in types
        ]
        await self._patch(f"/api/v1/nodes/{meta.name}/status", meta.uid, {"conditions": conditions})
        self._recorder.event(
            Ref("Node", "", meta.name, uid=meta.uid),
            "Normal",
            "NodeNotReady",
            f"Node {meta.name} status is now: NodeNotReady",
        )

    async def _mark_not_ready(self, pod: Pod) -> None:
        meta = pod.metadata
        condition = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": _now()}
        await self._patch(_pod_path(pod) + "/status", meta.uid, {"conditions": [condition]})
        ref = Ref("Pod", meta.namespace, meta.name, uid=meta.uid)
        self._recorder.event(ref, "Warning", "NodeNotReady", "Node is not ready")

    async def _patch(self, path: str, uid: str, status: dict[str, Any]) -> None:
        try:
            await rest.patch_listed(self._client, path, {"metadata": {"uid": uid}, "status": status})
        except rest.ApiError as error:
            if not error.not_found:
                raise

    async def reconcile_pod(self, key: Key) -> None:
        """Delete the pod if its node has been missing for a while, or if it is to go and never had one."""
        pod = self._caches.pods.cache.get(key)
        if pod is None:
            return
        name = pod.spec.node_name
        if not name:
            if pod.terminating:
                await self._collect(pod)
            return
        if Key("", name) in self._caches.nodes.cache:
            return
        wait = self._missing.setdefault(name, time.monotonic()) + self._grace - time.monotonic()
        if wait > 0:
            self.pods.queue.add_after(key, wait)
        elif await self._node_is_gone(name):
            await self._collect(pod)

    async def _node_is_gone(self, name: str) -> bool:
        try:
            await rest.get(self._client, f"/api/v1/nodes/{name}")
        except rest.ApiError as error:
            if error.not_found:
                return True
            raise
        return False

    async def _collect(self, pod: Pod) -> None:
        log.info("deleting pod %s: no node %r will report its end", pod.metadata.key, pod.spec.node_name)
        try:
            await rest.delete(self._client, _pod_path(pod), uid=pod.metadata.uid, grace=0)
        except rest.ApiError as error:
            if not error.not_found:
                raise

    def _node_changed(self, change: Change[Node]) -> None:
        self.nodes.queue.add(change.key.name)
        if change.new is not None:
            self._missing.pop(change.key.name, None)
            return
        for pod in self._caches.pods_by_node.find(change.key.name):
            self.pods.queue.add(pod.metadata.key)

    def _lease_changed(self, change: Change[Lease]) -> None:
        if change.key.namespace == LEASES:
            self.nodes.queue.add(change.key.name)

    def _pod_changed(self, change: Change[Pod]) -> None:
        pod = change.new
        if pod is None:
            return
        if Key("", pod.spec.node_name) not in self._caches.nodes.cache:
            self.pods.queue.add(change.key)
        elif pod.ready and change.old is not None and not change.old.ready:
            self.nodes.queue.add(pod.spec.node_name)


def resolve_verdict(node: Node, pods: Sequence[Pod], *, silent: float, grace: float) -> Verdict:
    """``silent``: seconds since the node was last heard of."""
    if silent < grace:
        return Verdict(again=grace - silent)
    stale = {c.type for c in node.status.conditions if c.status != "Unknown" and c.type in WATCHED}
    known = {c.type for c in node.status.conditions}
    return Verdict(
        unknown=tuple(kind for kind in WATCHED if kind in stale or (kind == "Ready" and kind not in known)),
        not_ready=tuple(pod for pod in pods if pod.ready and not pod.finished),
    )


def _pod_path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
