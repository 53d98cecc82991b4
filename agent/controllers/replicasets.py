"""Which pods a ReplicaSet has, needs and can spare: the pure half of its controller.

``claim`` sorts pods into those that are its own, those to adopt and those to let go. ``resolve_replicas`` says how many
pods to make, or which to delete. ``resolve_status`` says what the status should be. The I/O half is ``replicaset``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from agent.controllers.objects import Condition, Pod, ReplicaSet, ReplicaSetStatus, find_condition, without_nulls
from agent.kube.selectors import matches

BURST = 500  # pods made or deleted in one go
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class Claim:
    """Pods by what to do about their ownership."""

    own: tuple[Pod, ...] = ()
    adopt: tuple[Pod, ...] = ()
    release: tuple[Pod, ...] = ()


@dataclass(frozen=True, slots=True)
class Replicas:
    """``create`` pods more, or ``delete`` these."""

    create: int = 0
    delete: tuple[Pod, ...] = ()


def claim(owner: ReplicaSet, pods: Iterable[Pod]) -> Claim:
    """Sort the pods of a namespace by ownership, as upstream's ControllerRefManager.

    Own: its UID is in their controller reference. Of those, pods that the selector no longer chooses are released. Pods
    that it chooses and that nobody controls are adopted. An owner that is being deleted neither adopts nor releases.
    """
    own: list[Pod] = []
    adopt: list[Pod] = []
    release: list[Pod] = []
    leaving = owner.metadata.deletion_timestamp is not None
    for pod in pods:
        controller, chosen = pod.metadata.controller, matches(owner.spec.selector, pod.metadata.labels)
        if controller is not None and controller.uid == owner.metadata.uid:
            if chosen or leaving:
                own.append(pod)
            elif pod.active:
                release.append(pod)
        elif controller is None and chosen and pod.active and not leaving:
            adopt.append(pod)
    return Claim(tuple(own), tuple(adopt), tuple(release))


def resolve_replicas(owner: ReplicaSet, own: Sequence[Pod], related: Iterable[Pod], *, now: datetime) -> Replicas:
    """``own``: the ReplicaSet's active pods. ``related``: active pods whose number on a node makes one doubled up."""
    difference = owner.spec.replicas - len(own)
    if difference >= 0:
        return Replicas(create=min(difference, BURST))
    on_node = Counter(pod.spec.node_name for pod in related if pod.spec.node_name)
    ranked = sorted(own, key=lambda pod: deletion_order(pod, doubled=on_node[pod.spec.node_name], now=now))
    return Replicas(delete=tuple(ranked[: min(-difference, BURST)]))


def deletion_order(pod: Pod, *, doubled: int, now: datetime) -> tuple[Any, ...]:
    """Sorts pods by how little they would be missed (upstream's ActivePodsWithRanks).

    Unassigned before assigned, pending before unknown before running, not ready before ready, a low
    ``pod-deletion-cost`` before a high one, many of its kind on the node before few, ready for a short time before long
    (in powers of two, so that about equally old pods fall evenly), more restarts before fewer, new before old.
    """
    phase = {"Pending": 0, "Unknown": 1}.get(pod.status.phase, 2)
    restarts = max((status.restart_count for status in pod.status.container_statuses), default=0)
    return (
        bool(pod.spec.node_name),
        phase,
        pod.ready,
        deletion_cost(pod),
        -doubled,
        _age_rank(_ready_since(pod), now) if pod.ready else 0,
        -restarts,
        _age_rank(pod.metadata.creation_timestamp, now),
        pod.metadata.uid,
    )


def deletion_cost(pod: Pod) -> int:
    """The annotation's number; 0 for none, or for what is not a 32-bit number written plainly."""
    text = pod.metadata.annotations.get(DELETION_COST, "0")
    digits = text.removeprefix("-")
    plain = digits.isascii() and digits.isdecimal() and (digits == "0" or not digits.startswith("0"))
    value = int(text) if plain else 0
    return value if -(2**31) <= value < 2**31 else 0


def _age_rank(since: datetime | None, now: datetime) -> int:
    """The power of two of an age in nanoseconds; -1 for none, or for a moment to come."""
    age = (now - since).total_seconds() * 1e9 if since is not None else 0.0
    return int(math.log2(age)) if age >= 1 else -1


def _ready_since(pod: Pod) -> datetime | None:
    found = pod.condition("Ready")
    return found.last_transition_time if found is not None else None


def is_available(pod: Pod, *, min_ready_seconds: int, now: datetime) -> bool:
    """Ready, and for at least ``min_ready_seconds``."""
    if not pod.ready:
        return False
    since = _ready_since(pod)
    return min_ready_seconds == 0 or (since is not None and since + timedelta(seconds=min_ready_seconds) <= now)


def next_available(pods: Iterable[Pod], *, min_ready_seconds: int, now: datetime) -> float | None:
    """Seconds until the next ready pod becomes available; None when none is waiting for that."""
    waits = [
        (since + timedelta(seconds=min_ready_seconds) - now).total_seconds()
        for pod in pods
        if pod.ready and min_ready_seconds and (since := _ready_since(pod)) is not None
    ]
    return min((wait for wait in waits if wait > 0), default=None)


def resolve_status(
    owner: ReplicaSet, own: Sequence[Pod], *, terminating: int, failure: Condition | None, now: datetime
) -> ReplicaSetStatus:
    """The status that ``own`` (active pods) amount to. ``failure``: why pods could not be made or deleted, if so."""
    wanted = template_of(owner).get("metadata", {}).get("labels", {})
    ready = [pod for pod in own if pod.ready]
    others = [c for c in owner.status.conditions if c.type != "ReplicaFailure"]
    return ReplicaSetStatus(
        replicas=len(own),
        fully_labeled_replicas=sum(wanted.items() <= pod.metadata.labels.items() for pod in own),
        ready_replicas=len(ready),
        available_replicas=sum(
            is_available(pod, min_ready_seconds=owner.spec.min_ready_seconds, now=now) for pod in ready
        ),
        terminating_replicas=terminating,
        observed_generation=owner.metadata.generation,
        conditions=[*others, _kept(owner, failure)] if failure is not None else others,
    )


def _kept(owner: ReplicaSet, failure: Condition) -> Condition:
    """The failure as it stands already, if it does: its time says when it began."""
    found = find_condition(owner.status.conditions, failure.type)
    same = found is not None and (found.status, found.reason) == (failure.status, failure.reason)
    return found if found is not None and same else failure


def template_of(owner: ReplicaSet) -> dict[str, Any]:
    decoded: dict[str, Any] = without_nulls(msgspec.json.decode(owner.spec.template))
    return decoded


def render_pod(owner: ReplicaSet) -> dict[str, Any]:
    """The pod to create: the template's labels, annotations, finalizers and spec, controlled by ``owner``."""
    template = template_of(owner)
    meta = template.get("metadata", {})
    copied = {name: meta[name] for name in ("labels", "annotations", "finalizers") if meta.get(name)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **copied,
            "namespace": owner.metadata.namespace,
            "generateName": f"{owner.metadata.name}-",
            "ownerReferences": [render_controller_reference(owner)],
        },
        "spec": template.get("spec", {}),
    }


def render_controller_reference(owner: ReplicaSet) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


@dataclass(slots=True)
class SlowStart:
    """Batch sizes 1, 2, 4, 8 ... for as long as everything in a batch succeeded.

    When the first pod is refused (a quota, an invalid template) one request was wasted, not five hundred.
    """

    left: int
    _size: int = field(default=1)

    def __iter__(self) -> SlowStart:
        return self

    def __next__(self) -> int:
        if self.left <= 0:
            raise StopIteration
        batch = min(self._size, self.left)
        self.left -= batch
        self._size *= 2
        return batch
