"""Telling the API a pod's status: the latest wins, one request at a time.

The worker says what the status is as often as it likes; what has not been sent when the next comes is never sent. So a
slow API delays a report, it never delays a pod, and many quick changes are one request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from agent.kube import rest
from agent.kube.client import Client, KubeError
from agent.kubelet.spec import Condition, Pod

log = logging.getLogger(__name__)

Json = dict[str, Any]
BACKOFF = (0.5, 30.0)  # seconds: first and last pause after a failure


def resolve_patch(pod: Pod, status: Json) -> Json:
    """The strategic merge patch for a status. Addresses are merged by ``ip``, so an old one must be taken out."""
    changed = dict(status)
    for field, old, new in (
        ("podIPs", pod.status.pod_ip, status.get("podIP")),
        ("hostIPs", pod.status.host_ip, status.get("hostIP")),
    ):
        if old and new and old != new:
            changed[field] = [*status[field], {"$patch": "delete", "ip": old}]
    return {"metadata": {"uid": pod.uid}, "status": changed}


def conditions_of(status: Json) -> tuple[Condition, ...]:
    """The conditions of a status that was made by ``resolve_status``."""
    return tuple(
        Condition(
            type=c["type"],
            status=c["status"],
            reason=c.get("reason") or "",
            message=c.get("message") or "",
            last_transition_time=c["lastTransitionTime"],
        )
        for c in status["conditions"]
    )


class Reporter:
    """Reports the status of one pod. ``run`` must be running."""

    def __init__(self, client: Client, pod: Pod) -> None:
        self._client, self.pod = client, pod
        self._wanted: Json | None = None
        self._sent: Json | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._over = False

    def want(self, status: Json) -> None:
        """Have this status reported, unless it is what was reported last."""
        self._wanted = status
        if status != self._sent:
            self._settled.clear()
            self._changed.set()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """As they were last wanted; at first, as the API has them."""
        return self.pod.status.conditions if self._wanted is None else conditions_of(self._wanted)

    async def flush(self, seconds: float) -> None:
        """Wait until the API knows the latest status, but not longer than ``seconds``."""
        if self._over or self._wanted is None or self._wanted == self._sent:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            log.warning("%s: its last status is not reported yet", self.pod)

    async def run(self) -> None:
        """Until cancelled, or until there is nobody left to report to: the pod is gone, or another has its name."""
        pause = BACKOFF[0]
        while True:
            await self._changed.wait()
            self._changed.clear()
            status = self._wanted
            if status is None or status == self._sent:
                continue
            try:
                await self._send(status)
                pause = BACKOFF[0]
            except KubeError as error:
                if await self._is_gone(error):
                    self._over = True
                    self._settled.set()
                    return
                log.warning("%s: status not reported, trying again in %.1f s: %s", self.pod, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
                self._changed.set()

    async def _send(self, status: Json) -> None:
        patch = resolve_patch(self.pod, status)
        await rest.patch(self._client, f"{self._path}/status", patch, content_type=rest.STRATEGIC_MERGE_PATCH)
        self._sent = status
        if status == self._wanted:
            self._settled.set()

    async def _is_gone(self, error: KubeError) -> bool:
        """After a refusal: has the API forgotten this pod? (409 may also mean that two wrote at once: then again.)"""
        if not isinstance(error, rest.ApiError):
            return False
        if not error.conflict:
            return error.not_found
        try:
            current = await rest.get(self._client, self._path)
        except KubeError as second:
            return isinstance(second, rest.ApiError) and second.not_found
        return bool(current["metadata"]["uid"] != self.pod.uid)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.pod.metadata.namespace}/pods/{self.pod.metadata.name}"
