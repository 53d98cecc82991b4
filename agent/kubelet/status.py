"""What the API is told about a pod (pure): manifest and observation -> the ``status`` object.

Phases and conditions follow upstream (kubelet_pods.go getPhase, status/generate.go):

| phase | when |
|---|---|
| Pending | something has not been started yet: no sandbox, init containers (each time they run), a missing image |
| Running | all have been started; also while a container waits for its next attempt |
| Succeeded, Failed | nothing will be started again and nothing runs; all exited with 0, or not |

A container that waits for its next attempt is ``waiting`` (CrashLoopBackOff) with its death as ``lastState``; one that
died and is about to be started at once is still ``terminated``. When the sandbox was made anew, what waits for init
containers is ``waiting`` (PodInitializing), as in the beginning. ``previous`` conditions keep their
``lastTransitionTime`` while their status does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.kubelet.containers import Container
from agent.kubelet.pod import (
    TERMINAL,
    Observed,
    backoff_left,
    deadline_passed,
    has_initialized,
    init_failed,
    is_due_again,
    is_over,
    is_sidecar,
    newest,
    previous,
    probe_state,
    restarts,
    running,
    succeeded,
)
from agent.kubelet.quantity import parse_quantity
from agent.kubelet.spec import Condition, ContainerSpec, Pod

Json = dict[str, Any]
RUNTIME = "runc"


def resolve_status(pod: Pod, seen: Observed, *, host_ip: str, start: str, known: Sequence[Condition]) -> Json:
    """The status to report. ``start``: when this node took the pod on; ``known``: the conditions reported last."""
    init = [_describe(pod, seen, spec) for spec in pod.spec.init_containers]
    main = [_describe(pod, seen, spec) for spec in pod.spec.containers]
    phase = resolve_phase(pod, seen)
    status: Json = {"phase": phase, "hostIP": host_ip, "hostIPs": [{"ip": host_ip}], "qosClass": resolve_qos(pod)}
    status |= _reason(pod, seen, phase)
    address = seen.address or pod.status.pod_ip
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    status["startTime"] = pod.status.start_time or start
    status["conditions"] = _conditions(pod, seen, phase, init, main, known)
    status["containerStatuses"] = main
    if init:
        status["initContainerStatuses"] = init
    return status


def resolve_phase(pod: Pod, seen: Observed) -> str:
    """Pending, Running, Succeeded or Failed."""
    if pod.status.phase in TERMINAL:
        return pod.status.phase
    if is_finished(pod, seen):
        failed = deadline_passed(pod, seen) or init_failed(pod, seen) or not _all_succeeded(pod, seen)
        return "Failed" if failed else "Succeeded"
    latest = [newest(seen, spec.name) for spec in pod.spec.containers]
    attempts = [None if c is not None and is_due_again(pod, seen, c) else c for c in latest]
    begun = all(attempts) or any(c is not None and c.state == "exited" for c in attempts)
    return "Running" if begun else "Pending"


def is_finished(pod: Pod, seen: Observed) -> bool:
    """Nothing runs and nothing will: the pod is over, or deleted and all its containers are dead."""
    return not running(seen) and (pod.deleted or is_over(pod, seen))


def resolve_qos(pod: Pod) -> str:
    """Guaranteed, Burstable or BestEffort (pkg/apis/core/v1/helper/qos): by requests and limits of cpu and memory."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    pairs = [_compute(c.resources.requests, c.resources.limits) for c in containers]
    if not any(requests or limits for requests, limits in pairs):
        return "BestEffort"
    complete = all(limits.keys() == {"cpu", "memory"} and requests == limits for requests, limits in pairs)
    return "Guaranteed" if complete else "Burstable"


def stamp(seconds: float) -> str:
    """Epoch seconds as the API writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(pod: Pod, seen: Observed, phase: str) -> Json:
    if pod.status.phase in TERMINAL and pod.status.reason:
        return {"reason": pod.status.reason, "message": pod.status.message}
    if phase == "Failed" and deadline_passed(pod, seen):
        return {
            "reason": "DeadlineExceeded",
            "message": "Pod was active on the node longer than the specified deadline",
        }
    if phase == "Failed" and _is_cut_off(pod, seen):
        message = "Pod was stopped before it was done: the machine shut down, or the pod's sandbox was lost."
        return {"reason": "Terminated", "message": message}
    return {}


def _is_cut_off(pod: Pod, seen: Observed) -> bool:
    """Was work interrupted that nobody takes up again? Sidecars do none of their own."""
    sidecars = [spec.name for spec in pod.spec.init_containers if is_sidecar(spec)]
    cut = any(c.interrupted and c.container not in sidecars for c in seen.containers)
    return cut and pod.spec.restart_policy == "Never"


def _all_succeeded(pod: Pod, seen: Observed) -> bool:
    return all((c := newest(seen, spec.name)) is not None and succeeded(c) for spec in pod.spec.containers)


# Containers


def _describe(pod: Pod, seen: Observed, spec: ContainerSpec) -> Json:
    container, before = newest(seen, spec.name), previous(seen, spec.name)
    state, last = _states(pod, seen, spec, container, before)
    alive = container is not None and container.state == "running"
    probes = probe_state(spec, seen, container) if container is not None else None
    started = alive and probes is not None and probes.started
    ready = started and probes is not None and probes.ready
    if spec in pod.spec.init_containers and not is_sidecar(spec):
        ready = container is not None and _is_complete(pod, seen, container)
    image = seen.images.get(spec.name, "")
    return {
        "name": spec.name,
        "image": spec.image,
        "imageID": image if container is not None else "",
        **({"containerID": container_id(container)} if container is not None else {}),
        "restartCount": container.attempt if container is not None else 0,
        "ready": ready,
        "started": started,
        "state": state,
        "lastState": last,
    }


def _is_complete(pod: Pod, seen: Observed, init: Container) -> bool:
    """Has an init container done its work, as far as this life of the pod needs it?"""
    return init.state == "exited" and succeeded(init) and not is_due_again(pod, seen, init)


def container_id(container: Container) -> str:
    """As in ``containerStatuses``: the runtime's name and its id."""
    return f"{RUNTIME}://{container.id}"


def _states(
    pod: Pod, seen: Observed, spec: ContainerSpec, container: Container | None, before: Container | None
) -> tuple[Json, Json]:
    """``state`` and ``lastState``."""
    if container is None:
        return _never_started(pod, seen, spec), {}
    last = _terminated(before) if before is not None else {}
    if container.state == "running":
        return {"running": {"startedAt": stamp(container.started_at)}}, last
    if pod.deleted or is_over(pod, seen) or not restarts(pod, seen, spec, container):
        return _terminated(container), last
    waiting = _between_attempts(pod, seen, spec, container)
    return (waiting, _terminated(container)) if waiting else (_terminated(container), last)


def _never_started(pod: Pod, seen: Observed, spec: ContainerSpec) -> Json:
    if is_finished(pod, seen) and not init_failed(pod, seen):
        message = "The container could not be located when the pod was terminated"
        return {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message}}
    failure = seen.failures.get(spec.name)
    if failure is not None:
        return {"waiting": {"reason": failure.reason, "message": failure.message}}
    reason = "PodInitializing" if pod.spec.init_containers else "ContainerCreating"
    return {"waiting": {"reason": reason}}


def _between_attempts(pod: Pod, seen: Observed, spec: ContainerSpec, dead: Container) -> Json | None:
    """Why a dead container is not running again yet; None if it is about to."""
    failure = seen.failures.get(spec.name)
    if failure is not None:
        return {"waiting": {"reason": failure.reason, "message": failure.message}}
    if backoff_left(seen, dead) <= 0:
        return {"waiting": {"reason": "PodInitializing"}} if is_due_again(pod, seen, dead) else None
    delay = seen.backoffs[spec.name].delay
    message = f"back-off {_duration(delay)} restarting failed container={spec.name} pod={pod_name(pod)}"
    return {"waiting": {"reason": "CrashLoopBackOff", "message": message}}


def pod_name(pod: Pod) -> str:
    """The name under which logs and messages speak of a pod: ``name_namespace(uid)``."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.uid})"


def _terminated(container: Container) -> Json:
    code = container.exit_code if container.exit_code is not None else 255
    finished = container.finished_at if container.finished_at is not None else container.started_at
    return {
        "terminated": {
            "exitCode": code,
            "reason": container.reason or ("Completed" if code == 0 else "Error"),
            **({"message": container.message} if container.message else {}),
            "startedAt": stamp(container.started_at),
            "finishedAt": stamp(finished),
            "containerID": container_id(container),
        }
    }


def _duration(seconds: float) -> str:
    """As Go prints durations: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


# Conditions


def _conditions(
    pod: Pod, seen: Observed, phase: str, init: list[Json], main: list[Json], known: Sequence[Condition]
) -> list[Json]:
    containers = _containers_ready(pod, phase, init, main)
    wanted = [
        ("PodReadyToStartContainers", "True" if seen.address is not None else "False", "", ""),
        ("Initialized", *_initialized(pod, seen, phase, init)),
        ("Ready", *_ready(pod, seen, containers)),
        ("ContainersReady", *containers),
        ("PodScheduled", "True", "", ""),
    ]
    before = {condition.type: condition for condition in known}
    return [_condition(before.get(kind), kind, *rest, now=seen.now) for kind, *rest in wanted]


def _condition(before: Condition | None, kind: str, status: str, reason: str, message: str, *, now: float) -> Json:
    since = before.last_transition_time if before is not None and before.status == status else ""
    condition: Json = {"type": kind, "status": status, "lastTransitionTime": since or stamp(now)}
    # Conditions are merged by type, field by field: a null takes the old text away.
    for name, text, old in (
        ("reason", reason, before and before.reason),
        ("message", message, before and before.message),
    ):
        if text or old:
            condition[name] = text or None
    return condition


def _initialized(pod: Pod, seen: Observed, phase: str, init: list[Json]) -> tuple[str, str, str]:
    if phase == "Succeeded":
        return "True", "PodCompleted", ""
    specs = pod.spec.init_containers
    missing = [s.name for s, c in zip(specs, init, strict=True) if not (c["started"] if is_sidecar(s) else c["ready"])]
    if not missing or has_initialized(pod, seen):
        return "True", "", ""
    return "False", "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(missing)}]"


def _containers_ready(pod: Pod, phase: str, init: list[Json], main: list[Json]) -> tuple[str, str, str]:
    if phase in TERMINAL:
        return "False", "PodCompleted" if phase == "Succeeded" else "PodFailed", ""
    sidecars = [c for s, c in zip(pod.spec.init_containers, init, strict=True) if is_sidecar(s)]
    unready = [c["name"] for c in (*sidecars, *main) if not c["ready"]]
    if unready:
        return "False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return "True", "", ""


def _ready(pod: Pod, seen: Observed, containers: tuple[str, str, str]) -> tuple[str, str, str]:
    """Ready: ContainersReady and all readiness gates, which somebody else sets. Not while the machine shuts down:
    Services send their connections elsewhere while the containers finish their work.
    """
    if containers[0] != "True":
        return containers
    if seen.shutdown is not None:
        return "False", "NodeShutdown", "the machine is shutting down"
    have = {condition.type: condition.status for condition in pod.status.conditions}
    messages = list(_gates([gate.condition_type for gate in pod.spec.readiness_gates], have))
    return ("False", "ReadinessGatesNotReady", ", ".join(messages)) if messages else containers


def _gates(gates: Iterable[str], have: Mapping[str, str]) -> Iterable[str]:
    for gate in gates:
        if gate not in have:
            yield f'corresponding condition of pod readiness gate "{gate}" does not exist.'
        elif have[gate] != "True":
            yield f'the status of pod readiness gate "{gate}" is not "True", but {have[gate]}'


def _compute(requests: Mapping[str, Any], limits: Mapping[str, Any]) -> tuple[Json, Json]:
    """cpu and memory only, zeros left out; a limit without a request is the request as well (API defaulting)."""

    def pick(table: Mapping[str, Any]) -> Json:
        amounts = {name: parse_quantity(table[name]) for name in ("cpu", "memory") if name in table}
        return {name: amount for name, amount in amounts.items() if amount > 0}

    limited = pick(limits)
    return limited | pick(requests), limited
