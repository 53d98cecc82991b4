"""When did the change happen that a slice is being written for?

The answer travels as an annotation (``endpoints.kubernetes.io/last-change-trigger-time``), from which a proxy computes
how long a change took from the cluster into the kernel (``network_programming_duration_seconds``). A pod's change dates
from the last transition of its Ready condition, a Service's from its creation. Of several changes the earliest counts;
at the first look at a Service, when nobody knows what is new, the latest.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from agent.controllers.objects import Pod, Service
from agent.kube.informer import Key


class TriggerTimes:
    """Remembers, per Service, the times that were already accounted for."""

    def __init__(self) -> None:
        self._known: dict[Key, dict[str, datetime]] = {}

    def since_last(self, key: Key, service: Service, pods: Iterable[Pod]) -> datetime | None:
        """The change since the last call, or None when nothing with a date changed."""
        times = {pod.metadata.uid: found for pod in pods if (found := _ready_since(pod)) is not None}
        if service.metadata.creation_timestamp is not None:
            times[service.metadata.uid] = service.metadata.creation_timestamp
        known, self._known[key] = self._known.get(key), times
        if known is None:
            return max(times.values(), default=None)
        return min((at for uid, at in times.items() if known.get(uid) != at), default=None)

    def forget(self, key: Key) -> None:
        self._known.pop(key, None)


def _ready_since(pod: Pod) -> datetime | None:
    found = pod.condition("Ready")
    return found.last_transition_time if found is not None else None
