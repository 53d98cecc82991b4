"""The ReplicaSet controller: as many pods as asked for, no more, no fewer.

``reconcile(replicaset)``: wait until the cache knows what was written last -> claim pods (adopt orphans, let go those
the selector no longer chooses) -> make or delete -> write the status. What to do is decided in ``replicasets``; here it
is done, with events for the person who runs `kubectl describe rs`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from agent.controllers.caches import Caches
from agent.controllers.consistency import LOOK_AGAIN, Expectations
from agent.controllers.objects import Condition, Pod, ReplicaSet, ReplicaSetStatus
from agent.controllers.replicasets import (
    SlowStart,
    claim,
    next_available,
    render_controller_reference,
    render_pod,
    resolve_replicas,
    resolve_status,
)
from agent.controllers.runner import Controller
from agent.kube import rest
from agent.kube.client import Client, KubeError
from agent.kube.events import Recorder, Ref
from agent.kube.informer import Change, Key
from agent.kube.selectors import matches

log = logging.getLogger(__name__)
Job = Callable[[], Awaitable[KubeError | None]]
AT_ONCE = 16  # requests under way for one ReplicaSet


class ReplicaSets:
    """Keeps every ReplicaSet at its number of replicas."""

    def __init__(self, client: Client, caches: Caches, recorder: Recorder) -> None:
        self._client, self._caches, self._recorder = client, caches, recorder
        self._expectations = Expectations[Key](caches.pods)
        self.controller = Controller("replicasets", self.reconcile)
        caches.replicasets.subscribe(lambda change: self.controller.queue.add(change.key))
        caches.pods.subscribe(self._pod_changed)

    async def reconcile(self, key: Key) -> None:
        owner = self._caches.replicasets.cache.get(key)
        if owner is None:
            return
        if not self._expectations.fulfilled(key):
            self.controller.queue.add_after(key, LOOK_AGAIN)
            return
        own = await self._claim(owner)
        active = [pod for pod in own if pod.active]
        failure: KubeError | None = None
        if owner.metadata.deletion_timestamp is None:
            failure = await self._manage(owner, active)
        await self._write_status(owner, own, active, failure)
        wait = next_available(active, min_ready_seconds=owner.spec.min_ready_seconds, now=datetime.now(UTC))
        if wait is not None:
            self.controller.queue.add_after(key, wait)
        if failure is not None and not (isinstance(failure, rest.ApiError) and failure.namespace_terminating):
            raise failure

    async def _claim(self, owner: ReplicaSet) -> list[Pod]:
        """Adopt and release; returns the pods that are the ReplicaSet's own afterwards."""
        candidates = self._caches.pods_by_owner.find(owner.metadata.uid)
        candidates += self._caches.orphan_pods.find(owner.metadata.namespace)
        claimed = claim(owner, {pod.metadata.uid: pod for pod in candidates}.values())
        for pod in claimed.release:
            kept = [ref for ref in pod.metadata.owner_references if ref.uid != owner.metadata.uid]
            await self._own(owner, pod, [render_reference(ref) for ref in kept])
        if not claimed.adopt or not await self._still_there(owner):
            return list(claimed.own)
        for pod in claimed.adopt:
            references = [render_reference(ref) for ref in pod.metadata.owner_references]
            await self._own(owner, pod, [*references, render_controller_reference(owner)])
        return [*claimed.own, *claimed.adopt]

    async def _own(self, owner: ReplicaSet, pod: Pod, references: list[dict[str, Any]]) -> None:
        meta = pod.metadata
        change = {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references}
        try:
            stored = await rest.patch(self._client, _pod_path(pod), {"metadata": change})
        except rest.ApiError as error:
            if not error.not_found:
                raise
        else:
            self._expectations.wrote(owner.metadata.key, stored)

    async def _still_there(self, owner: ReplicaSet) -> bool:
        """Ask the server, not the cache: whoever is being deleted must not adopt (its pods would go with it)."""
        try:
            found = await rest.get(self._client, _path(owner))
        except rest.ApiError as error:
            if error.not_found:
                return False
            raise
        meta = found["metadata"]
        return bool(meta.get("uid") == owner.metadata.uid and not meta.get("deletionTimestamp"))

    async def _manage(self, owner: ReplicaSet, active: Sequence[Pod]) -> KubeError | None:
        """Make or delete pods. Returns what went wrong, if something did."""
        plan = resolve_replicas(owner, active, self._related(owner), now=datetime.now(UTC))
        errors = await self._create(owner, plan.create) if plan.create else await self._delete(owner, plan.delete)
        return errors[0] if errors else None

    def _related(self, owner: ReplicaSet) -> Iterator[Pod]:
        """Active pods of all ReplicaSets with the same controller (the revisions of one Deployment), else its own."""
        controller = owner.metadata.controller
        family = [owner]
        if controller is not None:
            everyone = self._caches.replicasets.cache.values()
            family = [s for s in everyone if s.metadata.controller and s.metadata.controller.uid == controller.uid]
        for member in family:
            yield from (pod for pod in self._caches.pods_by_owner.find(member.metadata.uid) if pod.active)

    async def _create(self, owner: ReplicaSet, count: int) -> list[KubeError]:
        body = render_pod(owner)
        for batch in SlowStart(count):
            results = await self._together([partial(self._create_one, owner, body)] * batch)
            errors = [error for error in results if error is not None]
            if errors:
                return errors
        return []

    async def _create_one(self, owner: ReplicaSet, body: dict[str, Any]) -> KubeError | None:
        try:
            stored = await rest.create(self._client, f"/api/v1/namespaces/{owner.metadata.namespace}/pods", body)
        except rest.ApiError as error:
            if not error.namespace_terminating:
                self._event(owner, "Warning", "FailedCreate", f"Error creating: {error.message}")
            return error
        except KubeError as error:
            return error
        self._expectations.wrote(owner.metadata.key, stored)
        self._event(owner, "Normal", "SuccessfulCreate", f"Created pod: {stored['metadata']['name']}")
        return None

    async def _delete(self, owner: ReplicaSet, pods: Sequence[Pod]) -> list[KubeError]:
        results = await self._together([partial(self._delete_one, owner, pod) for pod in pods])
        return [error for error in results if error is not None]

    async def _delete_one(self, owner: ReplicaSet, pod: Pod) -> KubeError | None:
        try:
            await rest.delete(self._client, _pod_path(pod), uid=pod.metadata.uid)
        except rest.ApiError as error:
            if not error.not_found:
                self._event(owner, "Warning", "FailedDelete", f"Error deleting: {error.message}")
                return error
        except KubeError as error:
            return error
        else:
            self._event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod.metadata.name}")
        self._expectations.deleted(owner.metadata.key, pod)
        return None

    async def _together(self, jobs: Sequence[Job]) -> list[KubeError | None]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(job: Job) -> KubeError | None:
            async with limit:
                return await job()

        return list(await asyncio.gather(*(one(job) for job in jobs)))

    async def _write_status(
        self, owner: ReplicaSet, own: Sequence[Pod], active: Sequence[Pod], failure: KubeError | None
    ) -> None:
        now = datetime.now(UTC)
        status = resolve_status(
            owner,
            active,
            terminating=sum(pod.terminating and not pod.finished for pod in own),
            failure=_condition(len(active) - owner.spec.replicas, failure, now) if failure is not None else None,
            now=now,
        )
        if status == owner.status:
            return
        body = {"metadata": {"uid": owner.metadata.uid}, "status": render_status(status)}
        try:
            await rest.patch(self._client, f"{_path(owner)}/status", body)
        except rest.ApiError as error:
            if not error.not_found:
                raise

    def _event(self, owner: ReplicaSet, kind: Any, reason: str, message: str) -> None:
        meta = owner.metadata
        ref = Ref("ReplicaSet", meta.namespace, meta.name, uid=meta.uid, api_version="apps/v1")
        self._recorder.event(ref, kind, reason, message)

    def _pod_changed(self, change: Change[Pod]) -> None:
        for pod in (change.old, change.new):
            if pod is not None:
                for key in self._owners(pod):
                    self.controller.queue.add(key)

    def _owners(self, pod: Pod) -> Iterator[Key]:
        """Whose business a pod is: its controller's; an orphan's: every ReplicaSet that would adopt it."""
        controller = pod.metadata.controller
        if controller is not None:
            if controller.kind == "ReplicaSet":
                yield Key(pod.metadata.namespace, controller.name)
            return
        for key, owner in self._caches.replicasets.cache.items():
            if key.namespace == pod.metadata.namespace and matches(owner.spec.selector, pod.metadata.labels):
                yield key


def render_reference(reference: Any) -> dict[str, Any]:
    rendered: dict[str, Any] = msgspec.to_builtins(reference)
    return rendered


def render_status(status: ReplicaSetStatus) -> dict[str, Any]:
    """As JSON, zeros included (a merge patch must say them); without conditions the list goes."""
    rendered: dict[str, Any] = msgspec.to_builtins(status)
    rendered["conditions"] = [
        {name: value for name, value in condition.items() if value} for condition in rendered["conditions"]
    ] or None
    return rendered


def _condition(surplus: int, failure: KubeError, now: datetime) -> Condition:
    return Condition(
        type="ReplicaFailure",
        status="True",
        reason="FailedCreate" if surplus < 0 else "FailedDelete",
        message=failure.message if isinstance(failure, rest.ApiError) else str(failure),
        last_transition_time=now.replace(microsecond=0),
    )


def _path(owner: ReplicaSet) -> str:
    return f"/apis/apps/v1/namespaces/{owner.metadata.namespace}/replicasets/{owner.metadata.name}"


def _pod_path(pod: Pod) -> str:
    return f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}"
