"""Events: what a component tells the people who look at an object with ``describe``.

core/v1 Events, counted instead of repeated as client-go's EventCorrelator does: the same message about the same object
within ten minutes raises ``count`` and ``lastTimestamp`` of the Event that is there. Recording never fails its caller:
an Event that cannot be written is a line in the log. While the API server is away (it may just be restarting) an Event
waits for it, a few seconds; a server that answers "no" is believed at once.

An Event's name ends in the nanosecond it was noted, as client-go's do: its times have whole seconds only, and lists are
sorted by name, so this is what keeps ``describe`` in the order in which things happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import httpx2

from agent.kube.client import Client

log = logging.getLogger(__name__)

NAME_LIMIT = 253  # characters (RFC 1123 subdomain)
WINDOW = 600.0  # seconds in which equal events are counted together
REMEMBERED = 4096
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds between attempts to reach the API server


@dataclass(frozen=True, slots=True)
class Ref:
    """The object an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    api_version: str = "v1"
    field_path: str = ""


class Recorder:
    """Writes Events for one component, in the background and in order. ``run`` must be running."""

    def __init__(self, client: Client, component: str, *, host: str = "") -> None:
        self._client, self._component, self._host = client, component, host
        self._queue: asyncio.Queue[tuple[int, Ref, str, str, str]] = asyncio.Queue(maxsize=1000)
        self._known: dict[tuple[Ref, str, str, str], tuple[str, int, float]] = {}

    def event(self, ref: Ref, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Note an Event; ``reason`` is CamelCase, ``message`` a sentence for a person."""
        try:
            self._queue.put_nowait((time.time_ns(), ref, kind, reason, message))
        except asyncio.QueueFull:
            log.warning("event dropped, too many at once: %s %s: %s", reason, ref.name, message)

    async def run(self) -> None:
        while True:
            at, ref, kind, reason, message = await self._queue.get()
            try:
                await self._deliver(at, ref, kind, reason, message)
            except (httpx2.HTTPError, OSError) as error:
                log.warning("cannot record event %s about %s/%s: %s", reason, ref.namespace, ref.name, error)

    async def _deliver(self, at: int, ref: Ref, kind: str, reason: str, message: str) -> None:
        for pause in PAUSES:
            try:
                return await self._write(at, ref, kind, reason, message)
            except httpx2.TransportError as error:
                log.debug("event %s about %s/%s waits %.1f s: %s", reason, ref.namespace, ref.name, pause, error)
            await asyncio.sleep(pause)
        return await self._write(at, ref, kind, reason, message)

    async def _write(self, at: int, ref: Ref, kind: str, reason: str, message: str) -> None:
        known = self._known.get((ref, kind, reason, message))
        if (
            known is not None
            and time.monotonic() - known[2] < WINDOW
            and await self._count(at, ref, known[0], known[1] + 1)
        ):
            self._known[(ref, kind, reason, message)] = (known[0], known[1] + 1, known[2])
            return
        body = self._body(at, ref, kind, reason, message)
        response = await self._client.http.post(_path(ref), json=body)
        if response.status_code == 404 or (response.status_code == 403 and "being terminated" in response.text):
            log.debug("event %s about %s/%s: its namespace is going or gone", reason, ref.namespace, ref.name)
            return
        response.raise_for_status()
        if len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[(ref, kind, reason, message)] = (str(body["metadata"]["name"]), 1, time.monotonic())  # type: ignore[index]

    async def _count(self, at: int, ref: Ref, name: str, count: int) -> bool:
        patch = {"count": count, "lastTimestamp": _timestamp(at)}
        headers = {"Content-Type": "application/merge-patch+json"}
        response = await self._client.http.patch(f"{_path(ref)}/{name}", json=patch, headers=headers)
        return response.is_success

    def _body(self, at: int, ref: Ref, kind: str, reason: str, message: str) -> dict[str, object]:
        now = _timestamp(at)
        involved = {
            "apiVersion": ref.api_version,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "uid": ref.uid,
            "fieldPath": ref.field_path,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": _event_name(ref.name, at), "namespace": ref.namespace or "default"},
            "involvedObject": {name: value for name, value in involved.items() if value},
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component, **({"host": self._host} if self._host else {})},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }


def _path(ref: Ref) -> str:
    return f"/api/v1/namespaces/{ref.namespace or 'default'}/events"


def _timestamp(at: int) -> str:
    return datetime.fromtimestamp(at // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _event_name(name: str, at: int) -> str:
    """An object's name may itself be as long as a name can be; then it is cut (client-go's GenerateEventName)."""
    end = f".{at:x}"
    return name[: NAME_LIMIT - len(end)].rstrip(".-") + end
