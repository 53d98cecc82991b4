"""What a pod needs next (pure): its manifest and what was observed -> a few actions and the time to look again.

The rules are upstream's (kuberuntime computePodActions), written as one walk from top to bottom:

1. A deleted pod: stop its containers, sidecars last; when none runs, remove everything and let the API forget it.
2. A pod that is over (all containers done and none to be restarted, an init container failed for good, the deadline
   passed): stop what still runs, then give its address back. Its containers' logs stay until it is deleted.
3. No sandbox: first the volumes and the sandbox. Containers that outlived their sandbox are stopped first.
4. Init containers one after the other; a sidecar (an init container with ``restartPolicy: Always``) only has to have
   started. Then all containers at once. A sandbox that was made anew (the machine has started again, the namespace was
   deleted) is a new life of the pod: all init containers run again ("Init Containers", "Detailed behavior"), while
   attempts and back-offs are counted on, and what ``restartPolicy: OnFailure`` has done is done. With ``Never`` a pod
   has one life: if anything of it was started and the sandbox is gone, the pod is over. Which life a container is of is
   told by the id of its sandbox, not by times: clocks are set after a boot.
5. A container that died is started again if its policy says so, when its back-off is over. One that failed its liveness
   or startup probe is stopped, and then is one that died.
6. The machine shuts down: every pod is stopped as a deleted one is, nothing is started, and the pod is left as it is,
   for the kubelet that comes after the boot. (Graceful Node Shutdown, KEP-2000; upstream fails all pods, for
   controllers to make new ones elsewhere. Here there is no elsewhere.)

What is stopped for the machine's shutdown, for a lost sandbox, or for a failed probe if it is to be restarted, is
interrupted: it has not done its work, whatever it exits with. A program that ends well on SIGTERM is no completed job.
That is noted on disk before the signal: the kubelet may be another one when the container has ended.

Nothing here does anything or looks at a clock: the worker carries the actions out, observes, and asks again. So every
situation, also one that only a crash can leave behind, is just another input, and a restarted kubelet needs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain

from agent.kubelet.backoff import Backoff, after_restart, remaining
from agent.kubelet.containers import Container
from agent.kubelet.spec import ContainerSpec, Pod

TERMINAL = ("Succeeded", "Failed")
MINIMUM_GRACE = 1.0  # seconds; also a forced deletion gives a process the chance to end


@dataclass(frozen=True, slots=True)
class ProbeState:
    """What the probes of one container say. ``failed`` names the probe that condemned it: liveness or startup."""

    started: bool = True
    ready: bool = True
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that failed before there was a container; it is tried again at ``retry_at`` (epoch seconds)."""

    reason: str
    message: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The machine shuts down: containers are stopped from ``since`` on and must have ended at ``until`` (epoch
    seconds).
    """

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything known of a pod on this node.

    ``address``: of its sandbox, None without one; ``sandbox``: its id. ``containers``: every attempt that still has a
    record. ``probes`` and ``stopping`` (when SIGKILL is due, epoch seconds) by container id; ``failures``, ``backoffs``
    and ``images`` (what a reference was resolved to) by container name. ``interrupted``: ids of those that run and of
    which it is noted that they are stopped unfinished. ``setup``: why there is no sandbox. ``removed``: gone from the
    API.
    """

    now: float
    address: str | None = None
    sandbox: str = ""
    containers: tuple[Container, ...] = ()
    probes: Mapping[str, ProbeState] = field(default_factory=dict)
    stopping: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    backoffs: Mapping[str, Backoff] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    interrupted: frozenset[str] = frozenset()
    setup: Failure | None = None
    removed: bool = False
    shutdown: Shutdown | None = None


@dataclass(frozen=True, slots=True)
class EnsureSandbox:
    """Volumes, namespace, address."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    """``backoff`` is the one to remember once this attempt is made."""

    name: str
    attempt: int
    backoff: Backoff | None


@dataclass(frozen=True, slots=True)
class StopContainer:
    """preStop, SIGTERM, and SIGKILL after ``grace`` seconds in all. ``interrupts``: it is to be remembered that the
    container has not ended by itself.
    """

    id: str
    name: str
    grace: float
    message: str
    interrupts: bool = False


@dataclass(frozen=True, slots=True)
class NoteInterruption:
    """The stop that is under way interrupts the container, which was not so when it began. Its time stays the same."""

    id: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Forget a dead container and its log."""

    id: str


@dataclass(frozen=True, slots=True)
class ReportBackoff:
    """Tell people, once per death, that a container has to wait."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Give the address back; logs stay."""


@dataclass(frozen=True, slots=True)
class RemovePod:
    """Nothing runs any more: remove all that is left of the pod; with ``finalize``, from the API as well."""

    finalize: bool


@dataclass(frozen=True, slots=True)
class LeavePod:
    """Nothing runs any more, and nothing shall before the machine has started again: the pod stays as it is."""


Action = (
    EnsureSandbox
    | StartContainer
    | StopContainer
    | NoteInterruption
    | RemoveContainer
    | ReportBackoff
    | RemoveSandbox
    | RemovePod
    | LeavePod
)


@dataclass(frozen=True, slots=True)
class Decision:
    """Do ``actions`` in order, then look again: at once if anything changed, else at ``wake`` (epoch seconds)."""

    actions: tuple[Action, ...] = ()
    wake: float | None = None


def resolve_actions(pod: Pod, seen: Observed) -> Decision:
    """What to do now for this pod."""
    if pod.deleted or seen.removed:
        return _terminate(pod, seen)
    if seen.shutdown is not None:
        return _shut_down(pod, seen)
    if is_over(pod, seen):
        return _retire(pod, seen)
    deadline = deadline_of(pod)
    if _outlived(seen):
        return _earliest(_stop_outlived(pod, seen), deadline)
    if seen.address is None:
        return _earliest(_set_up(seen), deadline)
    return _earliest(_progress(pod, seen), deadline)


# What the status needs as well


def newest(seen: Observed, name: str) -> Container | None:
    """The latest attempt at a container."""
    return max((c for c in seen.containers if c.container == name), key=lambda c: c.attempt, default=None)


def previous(seen: Observed, name: str) -> Container | None:
    """The attempt before the latest."""
    attempts = sorted((c for c in seen.containers if c.container == name), key=lambda c: c.attempt)
    return attempts[-2] if len(attempts) > 1 else None


def is_sidecar(spec: ContainerSpec) -> bool:
    """KEP-753: an init container that keeps running. (Only called for init containers.)"""
    return spec.restart_policy == "Always"


def probe_state(spec: ContainerSpec, seen: Observed, container: Container) -> ProbeState:
    """What is known, or before the first result: a startup probe says not started, a readiness probe not ready."""
    known = seen.probes.get(container.id)
    if known is not None:
        return known
    started = spec.startup_probe is None
    return ProbeState(started=started, ready=started and spec.readiness_probe is None)


def succeeded(dead: Container) -> bool:
    """Has a container done its work? One that was interrupted has not."""
    return dead.exit_code == 0 and not dead.interrupted


def restarts(pod: Pod, seen: Observed, spec: ContainerSpec, dead: Container) -> bool:
    """Does a container that died get another attempt? (The pod being neither deleted nor over.)"""
    policy = pod.spec.restart_policy
    if spec in pod.spec.init_containers:
        return is_sidecar(spec) or (policy != "Never" and (not succeeded(dead) or is_earlier(seen, dead)))
    condemned = bool(probe_state(spec, seen, dead).failed)
    return policy == "Always" or (policy == "OnFailure" and (not succeeded(dead) or condemned))


def backoff_left(seen: Observed, dead: Container) -> float:
    """Seconds that a dead container still has to wait."""
    died_at = _died_at(seen, dead)
    return remaining(seen.backoffs.get(dead.container), died_at=died_at, now=seen.now)


def is_earlier(seen: Observed, container: Container) -> bool:
    """Is a container of an earlier life of its pod: was the sandbox in which it was started another one?"""
    return seen.address is None or container.sandbox != seen.sandbox


def has_initialized(pod: Pod, seen: Observed) -> bool:
    """Has any regular container been started in this life, or does it still run? Then init containers are not run
    again. A pod that ends has no other life to begin.
    """
    begun = _begun(pod, seen)
    if begun and _ends(pod, seen):
        return True
    return any(c.state == "running" or not is_earlier(seen, c) for c in begun)


def is_due_again(pod: Pod, seen: Observed, dead: Container) -> bool:
    """Is a container of an earlier life, and the present one not initialized yet? (Of pods with init containers.)"""
    again = is_earlier(seen, dead) and not _ends(pod, seen)
    return again and bool(pod.spec.init_containers) and not has_initialized(pod, seen)


def deadline_passed(pod: Pod, seen: Observed) -> bool:
    deadline = deadline_of(pod)
    return deadline is not None and seen.now >= deadline


def deadline_of(pod: Pod) -> float | None:
    """When ``activeDeadlineSeconds`` ends the pod (epoch seconds)."""
    seconds, start = pod.spec.active_deadline_seconds, pod.status.start_time
    return None if seconds is None or not start else datetime.fromisoformat(start).timestamp() + seconds


def is_over(pod: Pod, seen: Observed) -> bool:
    """Will nothing in this pod ever be started again? A phase once reported as final stays final."""
    if pod.status.phase in TERMINAL or deadline_passed(pod, seen) or init_failed(pod, seen):
        return True
    if pod.spec.restart_policy == "Never" and any(is_earlier(seen, c) for c in seen.containers):
        return True
    return all(_is_done(pod, seen, spec) for spec in pod.spec.containers)


def init_failed(pod: Pod, seen: Observed) -> bool:
    """Has an init container failed, with nobody to restart it? (So with ``Never`` only: there is but one life.)"""
    return not _begun(pod, seen) and any(
        not succeeded(dead) and not restarts(pod, seen, spec, dead)
        for spec in pod.spec.init_containers
        if (dead := newest(seen, spec.name)) and dead.state == "exited"
    )


def running(seen: Observed) -> list[Container]:
    return [c for c in seen.containers if c.state == "running"]


# The steps


def _terminate(pod: Pod, seen: Observed) -> Decision:
    if running(seen):
        return _stop_all(pod, seen, grace=_grace(pod, seen))
    return Decision((RemovePod(finalize=not seen.removed),))


def _shut_down(pod: Pod, seen: Observed) -> Decision:
    if not running(seen):
        return Decision((LeavePod(),))
    unfinished = _outlived(seen) if is_over(pod, seen) else running(seen)
    grace = max(MINIMUM_GRACE, float(pod.spec.termination_grace_period_seconds))
    return _stop_all(pod, seen, grace=grace, interrupts=unfinished)


def _retire(pod: Pod, seen: Observed) -> Decision:
    if running(seen):
        grace = float(pod.spec.termination_grace_period_seconds)
        return _stop_all(pod, seen, grace=grace, interrupts=_outlived(seen))
    return Decision((RemoveSandbox(),) if seen.address is not None else ())


def _stop_outlived(pod: Pod, seen: Observed) -> Decision:
    old = _outlived(seen)
    grace = float(pod.spec.termination_grace_period_seconds)
    return _stop_all(pod, replace(seen, containers=old), grace=grace, interrupts=old)


def _set_up(seen: Observed) -> Decision:
    if seen.setup is not None and seen.setup.retry_at > seen.now:
        return Decision(wake=seen.setup.retry_at)
    return Decision((EnsureSandbox(),))


def _progress(pod: Pod, seen: Observed) -> Decision:
    decisions = [Decision(tuple(_prune(pod, seen)))]
    initialized = has_initialized(pod, seen)
    for spec in pod.spec.init_containers:
        if initialized and not is_sidecar(spec):
            continue
        decisions.append(_tend(pod, seen, spec))
        if not initialized and not _lets_pass(seen, spec):
            return _merge(decisions)
    decisions += [_tend(pod, seen, spec) for spec in pod.spec.containers]
    return _merge(decisions)


def _tend(pod: Pod, seen: Observed, spec: ContainerSpec) -> Decision:
    """Bring one container to where it should be."""
    container = newest(seen, spec.name)
    if container is None:
        return _start(seen, spec, attempt=0, backoff=None)
    if container.state == "running":
        return _condemn(pod, seen, spec, container)
    if not restarts(pod, seen, spec, container):
        return Decision()
    wait = backoff_left(seen, container)
    if wait > 0:
        return Decision((ReportBackoff(container.id, spec.name),), wake=seen.now + wait)
    backoff = after_restart(seen.backoffs.get(spec.name), died_at=_died_at(seen, container), now=seen.now)
    return _start(seen, spec, attempt=container.attempt + 1, backoff=backoff)


def _start(seen: Observed, spec: ContainerSpec, *, attempt: int, backoff: Backoff | None) -> Decision:
    failure = seen.failures.get(spec.name)
    if failure is not None and failure.retry_at > seen.now:
        return Decision(wake=failure.retry_at)
    return Decision((StartContainer(spec.name, attempt, backoff),))


def _condemn(pod: Pod, seen: Observed, spec: ContainerSpec, container: Container) -> Decision:
    """Stop a running container whose liveness or startup probe has failed."""
    failed = probe_state(spec, seen, container).failed
    if not failed:
        return Decision()
    probe = spec.liveness_probe if failed == "liveness" else spec.startup_probe
    own = probe.termination_grace_period_seconds if probe else None
    grace = float(pod.spec.termination_grace_period_seconds if own is None else own)
    again = pod.spec.restart_policy != "Never"
    message = f"failed {failed} probe{', will be restarted' if again else ''}"
    return Decision(tuple(_stop(seen, container, grace=grace, message=message, interrupts=again)))


def _stop_all(pod: Pod, seen: Observed, *, grace: float, interrupts: Sequence[Container] = ()) -> Decision:
    """Stop all that runs, but sidecars only after the containers they serve, the last one first (KEP-753).
    ``interrupts``: those of them that have not done their work.
    """
    order = [spec.name for spec in pod.spec.init_containers if is_sidecar(spec)]
    alive = running(seen)
    first = [c for c in alive if c.container not in order]
    if not first and alive:
        first = [max(alive, key=lambda c: order.index(c.container))]
        grace = max(MINIMUM_GRACE, min(grace, _time_left(pod, seen, grace)))
    grace = _cut_short(seen, grace, later=len(alive) - len(first))
    stops = (_stop(seen, c, grace=grace, message="", interrupts=c in interrupts) for c in first)
    return Decision(tuple(chain.from_iterable(stops)))


def _stop(
    seen: Observed, container: Container, *, grace: float, message: str, interrupts: bool
) -> Iterator[StopContainer | NoteInterruption]:
    """A stop that is under way is only repeated to make it shorter (a second delete with a smaller grace period)."""
    due = seen.stopping.get(container.id)
    if due is None or seen.now + grace < due - 0.5:
        what = f"Container {container.container} {message}" if message else f"Stopping container {container.container}"
        yield StopContainer(container.id, container.container, grace, what, interrupts)
    elif interrupts and container.id not in seen.interrupted:
        yield NoteInterruption(container.id)


def _prune(pod: Pod, seen: Observed) -> Iterator[RemoveContainer]:
    """Keep the latest attempt and the one before (``logs --previous``, ``lastState``)."""
    for spec in (*pod.spec.init_containers, *pod.spec.containers):
        attempts = sorted((c for c in seen.containers if c.container == spec.name), key=lambda c: c.attempt)
        yield from (RemoveContainer(c.id) for c in attempts[:-2] if c.state == "exited")


def _lets_pass(seen: Observed, spec: ContainerSpec) -> bool:
    """May what comes after this init container begin?"""
    container = newest(seen, spec.name)
    if container is None or is_earlier(seen, container):
        return False
    if is_sidecar(spec):
        return container.state == "running" and probe_state(spec, seen, container).started
    return container.state == "exited" and succeeded(container)


def _begun(pod: Pod, seen: Observed) -> list[Container]:
    """The latest attempts at regular containers, of whichever life."""
    return [found for spec in pod.spec.containers if (found := newest(seen, spec.name))]


def _ends(pod: Pod, seen: Observed) -> bool:
    return pod.deleted or is_over(pod, seen)


def _outlived(seen: Observed) -> tuple[Container, ...]:
    """What still runs of an earlier life."""
    return tuple(c for c in running(seen) if is_earlier(seen, c))


def _is_done(pod: Pod, seen: Observed, spec: ContainerSpec) -> bool:
    container = newest(seen, spec.name)
    return container is not None and container.state == "exited" and not restarts(pod, seen, spec, container)


def _grace(pod: Pod, seen: Observed) -> float:
    """The API's word counts; a pod that is gone from the API gets the minimum (upstream's pod workers do the same)."""
    asked = pod.metadata.deletion_grace_period_seconds
    if asked is None:
        asked = 0 if seen.removed else pod.spec.termination_grace_period_seconds
    return max(MINIMUM_GRACE, float(asked))


def _time_left(pod: Pod, seen: Observed, grace: float) -> float:
    """Seconds until the moment by which the pod is expected to be gone."""
    end = pod.metadata.deletion_timestamp
    if end is not None:
        return end.timestamp() - seen.now
    return grace if seen.shutdown is None else seen.shutdown.since + grace - seen.now


def _cut_short(seen: Observed, grace: float, *, later: int) -> float:
    """``grace``, or what a shutdown leaves of it; ``later``: how many containers are stopped only after these, each of
    which is to have its minimum, or where there is not even so much time, the same share.
    """
    if seen.shutdown is None:
        return grace
    left = max(0.0, seen.shutdown.until - seen.now)
    return min(grace, max(left - later * MINIMUM_GRACE, left / (later + 1)))


def _died_at(seen: Observed, dead: Container) -> float:
    return dead.finished_at if dead.finished_at is not None else seen.now


def _merge(decisions: list[Decision]) -> Decision:
    wakes = [d.wake for d in decisions if d.wake is not None]
    return Decision(tuple(action for d in decisions for action in d.actions), min(wakes, default=None))


def _earliest(decision: Decision, other: float | None) -> Decision:
    return _merge([decision, Decision(wake=other)])
