"""The STATUS of a pod, as ``kubectl get pods`` shows it: a judgement over phase, containers and deletion.

The first init container that is not done decides; with all of them done, the last container that waits or has ended
does; being deleted overrules both (pkg/printers/internalversion/printers.go: printPod).
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.apiserver.durations import NONE
from agent.apiserver.registry import JSON, value_at


@dataclass(frozen=True, slots=True)
class Summary:
    """``ready`` of ``total`` containers; ``last_restart`` is an RFC 3339 time or empty."""

    reason: str
    ready: int
    total: int
    restarts: int
    last_restart: str


@dataclass(slots=True)
class _Tally:
    """What is counted while the containers are looked at."""

    ready: int = 0
    restarts: int = 0
    last: str = ""

    def add(self, status: JSON) -> None:
        self.restarts += status.get("restartCount") or 0
        ended = value_at(status, "lastState.terminated.finishedAt") or ""
        self.last = max(self.last, ended)


def summarize(pod: JSON) -> Summary:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    sidecars = {c["name"] for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    reason = _from_phase(status)
    tally = _Tally()
    initializing, sidecar_tally = _look_at_init(spec, status, sidecars, tally)
    if initializing:
        reason = initializing
    if not initializing or _has(status, "Initialized"):
        tally = sidecar_tally
        reason = _look_at_containers(status, reason, tally)
    total = len(spec.get("containers") or []) + len(sidecars)
    return Summary(_from_deletion(pod, reason), tally.ready, total, tally.restarts, tally.last)


def _from_phase(status: JSON) -> str:
    gated = any(
        entry.get("type") == "PodScheduled" and entry.get("reason") == "SchedulingGated"
        for entry in status.get("conditions") or []
    )
    return "SchedulingGated" if gated else str(status.get("reason") or status.get("phase") or "")


def _look_at_init(spec: JSON, status: JSON, sidecars: set[str], tally: _Tally) -> tuple[str, _Tally]:
    """What initialization waits for (empty: it is over), and the tally of the sidecars alone."""
    count, own = len(spec.get("initContainers") or []), _Tally()
    for index, container in enumerate(status.get("initContainerStatuses") or []):
        sidecar = container.get("name") in sidecars
        tally.add(container)
        if sidecar:
            own.add(container)
        state = container.get("state") or {}
        if (ended := state.get("terminated")) is not None and not ended.get("exitCode"):
            continue
        if sidecar and container.get("started"):
            ready = 1 if container.get("ready") else 0
            tally.ready, own.ready = tally.ready + ready, own.ready + ready
            continue
        return _init_reason(state, index, count), own
    return "", own


def _init_reason(state: JSON, index: int, count: int) -> str:
    ended, waiting = state.get("terminated"), (state.get("waiting") or {}).get("reason")
    if ended is not None:
        return f"Init:{_end_reason(ended)}"
    if waiting and waiting != "PodInitializing":
        return f"Init:{waiting}"
    return f"Init:{index}/{count}"


def _end_reason(ended: JSON) -> str:
    """Why a container is over: what was said, else its signal or exit code."""
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _look_at_containers(status: JSON, reason: str, tally: _Tally) -> str:
    """From the last to the first, so that the first has the last word."""
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        tally.add(container)
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), (state.get("waiting") or {}).get("reason")
        if waiting:
            reason = waiting
        elif ended is not None:
            reason = _end_reason(ended)
        elif container.get("ready") and "running" in state:
            running = True
            tally.ready += 1
    if reason == "Completed" and running:
        return "Running" if _has(status, "Ready") else "NotReady"
    return reason


def _has(status: JSON, condition: str) -> bool:
    conditions = status.get("conditions") or []
    return any(entry.get("type") == condition and entry.get("status") == "True" for entry in conditions)


def _from_deletion(pod: JSON, reason: str) -> str:
    if not value_at(pod, "metadata.deletionTimestamp"):
        return reason
    if value_at(pod, "status.reason") == "NodeLost":
        return "Unknown"
    return reason if value_at(pod, "status.phase") in ("Succeeded", "Failed") else "Terminating"


def readiness_gates(pod: JSON) -> str:
    """How many of the pod's readiness gates are open: ``1/2``."""
    gates = value_at(pod, "spec.readinessGates") or []
    status = pod.get("status") or {}
    return f"{sum(_has(status, gate['conditionType']) for gate in gates)}/{len(gates)}" if gates else NONE


def row_conditions(pod: JSON) -> list[JSON]:
    """Conditions of a table row: a pod that is over is ``Completed``, so that clients may leave it out."""
    phase = value_at(pod, "status.phase")
    messages = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}
    if phase not in messages:
        return []
    return [{"type": "Completed", "status": "True", "reason": phase, "message": messages[phase]}]
