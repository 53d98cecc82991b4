"""The scheduler: binds pods that have no node to one (``placement`` decides which).

A pod that fits nowhere stays pending with the condition PodScheduled false and an Event, and is looked at again when
something changes that could help: a node, or a pod that went.
"""

from __future__ import annotations

from collections import defaultdict

from agent.controllers.caches import Caches
from agent.controllers.objects import Node, Pod
from agent.controllers.placement import Placement, resolve_placement
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Key

NAME = "default-scheduler"


class Scheduler:
    """Handles pods whose ``schedulerName`` is the default one. One at a time, so that each sees the one before."""

    def __init__(self, client: Client, caches: Caches, recorder: Recorder) -> None:
        self._client, self._caches, self._recorder = client, caches, recorder
        self._assumed: dict[Key, str] = {}  # bound, and not yet seen so in the cache
        self._pending: set[Key] = set()
        self.controller = Controller("scheduler", self.reconcile, workers=1)
        caches.pods.subscribe(self._pod_changed)
        caches.nodes.subscribe(self._node_changed)

    async def reconcile(self, key: Key) -> None:
        pod = self._caches.pods.cache.get(key)
        self._pending.discard(key)
        if pod is None or pod.spec.node_name or not pod.active or pod.spec.scheduler_name != NAME:
            return
        if key in self._assumed or pod.spec.scheduling_gates:
            return
        placement = resolve_placement(pod, self._caches.nodes.cache.values(), self._pods_on())
        if placement.node:
            await self._bind(key, pod, placement.node)
        else:
            self._pending.add(key)
            await self._refuse(pod, placement)

    def _pods_on(self) -> dict[str, list[Pod]]:
        bound: defaultdict[str, list[Pod]] = defaultdict(list)
        for name in (key.name for key in self._caches.nodes.cache):
            bound[name] += self._caches.pods_by_node.find(name)
        for key, name in self._assumed.items():
            if (pod := self._caches.pods.cache.get(key)) is not None and not pod.spec.node_name:
                bound[name].append(pod)
        return bound

    async def _bind(self, key: Key, pod: Pod, node: str) -> None:
        meta = {"namespace": key.namespace, "name": key.name, "uid": pod.metadata.uid}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
        try:
            await rest.create(self._client, f"/api/v1/namespaces/{key.namespace}/pods/{key.name}/binding", body)
        except rest.ApiError as error:
            if error.not_found:
                return
            raise
        seen = self._caches.pods.cache.get(key)
        if seen is not None and not seen.spec.node_name:
            self._assumed[key] = node
        message = f"Successfully assigned {key.namespace}/{key.name} to {node}"
        self._recorder.event(_ref(pod), "Normal", "Scheduled", message)

    async def _refuse(self, pod: Pod, placement: Placement) -> None:
        found = pod.condition("PodScheduled")
        if found is not None and (found.status, found.message) == ("False", placement.message):
            return
        self._recorder.event(_ref(pod), "Warning", "FailedScheduling", placement.message)
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": placement.message,
        }
        meta = pod.metadata
        body = {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}}
        try:
            await rest.patch_listed(self._client, f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}/status", body)
        except rest.ApiError as error:
            if not error.not_found:
                raise

    def _pod_changed(self, change: Change[Pod]) -> None:
        pod = change.new
        if pod is None or pod.spec.node_name:
            self._assumed.pop(change.key, None)
        if pod is None or pod.finished:
            self._retry_pending()
        elif not pod.spec.node_name:
            self.controller.queue.add(change.key)

    def _node_changed(self, change: Change[Node]) -> None:
        old, new = change.old, change.new
        if old and new and _view(old) == _view(new):
            return
        self._retry_pending()

    def _retry_pending(self) -> None:
        for key in self._pending:
            self.controller.queue.add(key)


def _view(node: Node) -> object:
    """What of a node matters here; its heartbeat does not."""
    return (node.ready, node.spec, node.metadata.labels, node.status.allocatable)


def _ref(pod: Pod) -> Ref:
    return Ref("Pod", pod.metadata.namespace, pod.metadata.name, uid=pod.metadata.uid)
