"""One pod's worker: observe, ask ``pod`` what to do, do it, tell the API, wait for something to happen.

Everything that happens (a new manifest, a container's end, a probe's word, a timer) only pokes the worker; it then
looks at everything and decides anew. What takes long (a graceful stop) is a task of its own, so that the worker always
listens. A worker that is cancelled leaves its pod running; the next one goes on with it from what the runtime and the
API know. When the machine shuts down a worker stops its pod's containers, and then ends and leaves the rest as it is.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Literal

from agent.kube import rest
from agent.kube.client import KubeError
from agent.kube.events import Ref
from agent.kubelet.backoff import Backoff
from agent.kubelet.commands import run_command, run_handler
from agent.kubelet.containers import Container, ContainerError
from agent.kubelet.environment import ContainerConfigError
from agent.kubelet.pod import (
    Action,
    EnsureSandbox,
    Failure,
    LeavePod,
    NoteInterruption,
    Observed,
    ProbeState,
    RemoveContainer,
    RemovePod,
    RemoveSandbox,
    ReportBackoff,
    Shutdown,
    StartContainer,
    StopContainer,
    probe_state,
    resolve_actions,
)
from agent.kubelet.probes import Kind, ProbeError, Prober
from agent.kubelet.reporter import Reporter
from agent.kubelet.sandbox import Sandbox, SandboxError
from agent.kubelet.spec import ContainerSpec, Pod, Probe
from agent.kubelet.starter import ImageRefused, Tools, ensure_sandbox, ensure_volumes, prepare, read_message
from agent.kubelet.status import container_id, pod_name, resolve_status, stamp
from agent.kubelet.volumes import VolumeError

log = logging.getLogger(__name__)

RETRY = 10.0  # seconds until what failed before there was a container is tried again
LAST_WORD = 5.0  # seconds that a removal waits for the last status to be told
HOOK_SECONDS = 600.0  # the most a postStart hook may take


class Worker:
    """``run`` until the pod is gone. ``pod`` is the latest manifest; change it with ``update``."""

    def __init__(
        self,
        tools: Tools,
        pod: Pod,
        *,
        sandbox: Sandbox | None,
        containers: Iterable[Container],
        shutdown: Shutdown | None = None,
    ) -> None:
        self.pod = pod
        self._tools = tools
        self._sandbox = sandbox
        self._containers = {container.id: container for container in containers}
        self._probers: dict[str, Prober] = {}
        self._said: dict[str, ProbeState] = {}  # what the probes of dead containers said last
        self._stops: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._interrupted: set[str] = set()  # containers that run and are noted as stopped unfinished
        self._failures: dict[str, Failure] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._images = {
            known.name: known.image_id
            for known in (*pod.status.container_statuses, *pod.status.init_container_statuses)
            if known.image_id
        }
        self._setup: Failure | None = None
        self._told: set[str] = set()  # containers whose waiting was told
        self._removed = self._done = False
        self._shutdown = shutdown
        self._begun = stamp(time.time())
        self._poked = asyncio.Event()
        self._reporter = Reporter(tools.client, pod)
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None  # a task of ours failed unexpectedly: the next worker looks anew

    # What others tell the worker

    @property
    def containers(self) -> tuple[Container, ...]:
        return tuple(self._containers.values())

    @property
    def sandbox(self) -> Sandbox | None:
        return self._sandbox

    @property
    def removed(self) -> bool:
        return self._removed

    def update(self, pod: Pod) -> None:
        """There is a new manifest of the same pod."""
        self.pod = self._reporter.pod = pod
        self._poked.set()

    def remove(self) -> None:
        """The API has forgotten the pod."""
        self._removed = True
        self._poked.set()

    def shut_down(self, shutdown: Shutdown) -> None:
        """The machine shuts down."""
        self._shutdown = shutdown
        self._poked.set()

    def lose_sandbox(self) -> None:
        """The pod's namespace is gone."""
        self._sandbox = None
        self._poked.set()

    def refresh(self) -> None:
        """Something that the pod refers to has changed: its volumes follow, what failed is tried again."""
        self._failures.clear()
        if self._sandbox is not None and self.pod.spec.volumes and not self.pod.deleted:
            self._spawn(self._refresh_volumes(), "volumes")
        if self._setup is not None:
            self._setup = replace(self._setup, retry_at=0.0)
        self._poked.set()

    # The loop

    async def run(self) -> None:
        try:
            self._spawn(self._reporter.run(), "status")
            for container in self.containers:
                self._take_over(container)
            while not self._done:
                await self._step()
        finally:
            await self._let_go()

    async def _step(self) -> None:
        self._poked.clear()
        if self._broken is not None:
            raise RuntimeError("something of it failed") from self._broken
        seen = self.observe()
        self._report(seen)
        decision = resolve_actions(self.pod, seen)
        for action in decision.actions:
            if self._shutdown != seen.shutdown:  # nothing may be started that was decided before
                return
            await self._do(action)
        if not self._done:
            await self._wait(decision.wake)

    async def _wait(self, wake: float | None) -> None:
        """Until poked, or until ``wake`` (epoch seconds)."""
        try:
            async with asyncio.timeout(None if wake is None else max(0.0, wake - time.time())):
                await self._poked.wait()
        except TimeoutError:
            return

    def observe(self) -> Observed:
        """Everything known of the pod on this node, now."""
        return Observed(
            now=time.time(),
            address=self._sandbox.ip if self._sandbox is not None else None,
            sandbox=self._sandbox.id if self._sandbox is not None else "",
            containers=self.containers,
            probes={**self._said, **{key: prober.state for key, prober in self._probers.items()}},
            stopping={key: due for key, (due, _) in self._stops.items()},
            failures=dict(self._failures),
            backoffs=dict(self._backoffs),
            images=dict(self._images),
            interrupted=frozenset(self._interrupted),
            setup=self._setup,
            removed=self._removed,
            shutdown=self._shutdown,
        )

    def _report(self, seen: Observed) -> None:
        if self._removed:
            return
        known = self._reporter.conditions
        host = self._tools.config.node_ip
        self._reporter.want(resolve_status(self.pod, seen, host_ip=host, start=self._begun, known=known))

    async def _do(self, action: Action) -> None:
        match action:
            case EnsureSandbox():
                await self._ensure_sandbox()
            case StartContainer():
                await self._start(action)
            case StopContainer():
                await self._stop(action)
            case NoteInterruption():
                await self._note_interruption(action.id)
            case ReportBackoff():
                self._tell_backoff(action)
            case RemoveContainer():
                await self._remove_container(action.id)
            case RemoveSandbox():
                await self._remove_sandbox()
            case RemovePod():
                await self._remove_pod(finalize=action.finalize)
            case LeavePod():
                await self._leave_pod()

    # Sandbox and volumes

    async def _ensure_sandbox(self) -> None:
        if self._containers:
            self._event("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        elif not self.pod.spec.host_network and any(p.host_port for c in self.pod.spec.containers for p in c.ports):
            message = "hostPort is not supported and has no effect; use a Service of type NodePort, or hostNetwork"
            self._event("Warning", "HostPortNotSupported", message)
        try:
            self._sandbox = await ensure_sandbox(self._tools, self.pod)
            self._setup = None
        except VolumeError as error:
            self._set_back("FailedMount", str(error))
        except SandboxError as error:
            self._set_back("FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
        except KubeError as error:
            self._set_back("FailedMount", f"Unable to read what the pod refers to: {error}")
        self._poked.set()

    def _set_back(self, reason: str, message: str) -> None:
        self._setup = Failure(reason, message, time.time() + RETRY)
        self._event("Warning", reason, message)

    async def _refresh_volumes(self) -> None:
        try:
            sources = await self._tools.objects.sources(self.pod)
            address = self._sandbox.ip if self._sandbox is not None else ""
            await ensure_volumes(self._tools, self.pod, sources, address=address)
        except (VolumeError, KubeError) as error:
            self._event("Warning", "FailedMount", str(error))

    async def _remove_sandbox(self) -> None:
        try:
            await self._tools.sandboxes.remove(self.pod.uid)
        except SandboxError as error:
            log.warning("%s: sandbox not removed, trying again: %s", self.pod, error)
            self._later(RETRY)
            return
        self._sandbox = None
        self._poked.set()

    # Containers

    async def _start(self, action: StartContainer) -> None:
        spec, sandbox = self.pod.container(action.name), self._sandbox
        assert spec is not None
        self._poked.set()
        if sandbox is None:  # it was lost since this was decided
            return
        try:
            launch = await prepare(self._tools, self.pod, spec, attempt=action.attempt, sandbox=sandbox)
        except ImageRefused as error:
            self._event("Warning", error.reason, error.message, container=spec.name)
            self._fail(spec.name, error.reason, error.message, tell=f"Error: {error.reason}")
            return
        except (ContainerConfigError, VolumeError, KubeError) as error:
            self._fail(spec.name, "CreateContainerConfigError", str(error), tell=f"Error: {error}")
            return
        self._images[spec.name] = launch.image.id
        note = f": {launch.image.note}" if launch.image.note else ""
        present = f'Container image "{spec.image}" already present on machine{note}'
        self._event("Normal", "Pulled", present, container=spec.name)
        self._failures.pop(spec.name, None)
        if action.backoff is not None:
            self._backoffs[spec.name] = action.backoff
        try:
            container = await self._tools.runtime.start(launch)
        except ContainerError as error:
            self._note_stillborn(launch.id, spec, action.attempt, error, sandbox=sandbox.id)
            return
        self._event("Normal", "Created", f"Created container: {spec.name}", container=spec.name)
        self._event("Normal", "Started", f"Started container {spec.name}", container=spec.name)
        self._follow(container, spec, None)

    def _note_stillborn(
        self, key: str, spec: ContainerSpec, attempt: int, error: ContainerError, *, sandbox: str
    ) -> None:
        """A container that could not be started counts as one that died at once, as upstream: with exit code 128."""
        now = time.time()
        self._containers[key] = Container(
            id=key,
            pod_uid=self.pod.uid,
            namespace=self.pod.metadata.namespace,
            pod=self.pod.metadata.name,
            container=spec.name,
            attempt=attempt,
            state="exited",
            pid=None,
            started_at=now,
            finished_at=now,
            exit_code=128,
            reason=error.reason,
            message=str(error),
            log_path=self._tools.folder(self.pod.uid) / "logs" / spec.name / f"{attempt}.log",
            sandbox=sandbox,
        )
        self._event("Warning", "Failed", f"Error: {error}", container=spec.name)

    def _fail(self, name: str, reason: str, message: str, *, tell: str) -> None:
        self._failures[name] = Failure(reason, message, time.time() + RETRY)
        self._event("Warning", "Failed", tell, container=name)

    def _take_over(self, container: Container) -> None:
        """Go on with a container that an earlier kubelet started."""
        spec = self.pod.container(container.container)
        if container.state == "exited":
            self._containers[container.id] = replace(container, message=self._message(container))
        elif spec is not None:
            self._follow(container, spec, self._known(spec, container))
        else:
            self._spawn(self._await_end(container), "exit")

    def _known(self, spec: ContainerSpec, container: Container) -> ProbeState | None:
        """What the API was told about this very container: it stays ready until a probe says otherwise."""
        status = self.pod.status
        for known in (*status.container_statuses, *status.init_container_statuses):
            if known.container_id == container_id(container):
                started = known.started or spec.startup_probe is None
                return ProbeState(started=started, ready=known.ready)
        return None

    def _follow(self, container: Container, spec: ContainerSpec, known: ProbeState | None) -> None:
        """Watch a running container: its end, its probes, and after a fresh start its postStart hook."""
        self._containers[container.id] = container
        self._spawn(self._await_end(container), f"exit of {container.id}")
        state = known or probe_state(spec, Observed(now=0.0), container)
        prober = Prober(
            spec,
            partial(self._check, spec, container),
            known=state,
            changed=self._poked.set,
            unhealthy=partial(self._tell_unhealthy, spec),
        )
        self._probers[container.id] = prober
        if known is None and spec.lifecycle.post_start is not None:
            self._spawn(self._post_start(spec, container, prober), "postStart")
        elif not self._ending:
            prober.start()

    @property
    def _ending(self) -> bool:
        """The pod is stopped as a whole, so nothing of it is condemned any more."""
        return self.pod.deleted or self._shutdown is not None

    async def _await_end(self, container: Container) -> None:
        try:
            ended = await self._tools.runtime.wait(container.id)
        except ContainerError as error:
            log.warning("%s: container %s is gone: %s", self.pod, container.id, error)
            ended = replace(
                container, state="exited", finished_at=time.time(), exit_code=137, reason="ContainerStatusUnknown"
            )
        prober = self._probers.pop(container.id, None)
        if prober is not None:
            self._said[container.id] = prober.state
            await prober.stop()
        self._containers[container.id] = replace(ended, message=self._message(ended) or ended.message)
        self._stops.pop(container.id, None)
        self._interrupted.discard(container.id)
        self._poked.set()

    def _message(self, container: Container) -> str:
        return read_message(self._tools, container)

    async def _check(self, spec: ContainerSpec, container: Container, probe: Probe) -> tuple[bool, str]:
        address = self._sandbox.ip if self._sandbox is not None else self.pod.status.pod_ip
        command = partial(run_command, self._tools.runtime, container.id)
        try:
            return await self._tools.checker.check(probe, address=address, ports=spec.ports, run_command=command)
        except ContainerError as error:
            raise ProbeError(str(error)) from error

    async def _post_start(self, spec: ContainerSpec, container: Container, prober: Prober) -> None:
        """Probes begin after the hook; a hook that fails ends the container (core/v1 Lifecycle)."""
        problem = await self._hook("postStart", spec, container, HOOK_SECONDS)
        if problem:
            self._event("Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}", container=spec.name)
            message = f"FailedPostStartHook: container {spec.name} will be killed"
            grace = float(self.pod.spec.termination_grace_period_seconds)
            await self._stop(StopContainer(container.id, spec.name, grace, message))
        elif container.id in self._probers and not self._ending:
            prober.start()

    async def _hook(
        self, which: Literal["postStart", "preStop"], spec: ContainerSpec, container: Container, seconds: float
    ) -> str:
        handler = spec.lifecycle.post_start if which == "postStart" else spec.lifecycle.pre_stop
        if handler is None:
            return ""
        return await run_handler(
            handler,
            spec,
            container,
            runtime=self._tools.runtime,
            checker=self._tools.checker,
            address=self._sandbox.ip if self._sandbox is not None else "",
            seconds=seconds,
        )

    async def _stop(self, action: StopContainer) -> None:
        """Begin a graceful stop, or shorten the one under way."""
        container = self._containers.get(action.id)
        if container is None:
            return
        before = self._stops.get(action.id)
        if before is not None:
            before[1].cancel()
        else:
            self._event("Normal", "Killing", action.message, container=action.name)
        prober = self._probers.get(action.id)
        if prober is not None and self._ending:
            await prober.spare()
        if action.interrupts:
            await self._note_interruption(action.id)
        due = time.time() + action.grace
        again = before is not None
        task = self._spawn(self._stop_gracefully(container, due=due, again=again), f"stop of {action.id}")
        self._stops[action.id] = (due, task)

    async def _note_interruption(self, key: str) -> None:
        await self._tools.runtime.note_interruption(key)
        self._interrupted.add(key)

    async def _stop_gracefully(self, container: Container, *, due: float, again: bool) -> None:
        """preStop and SIGTERM, unless that was done already; SIGKILL when time is up."""
        spec = self.pod.container(container.container)
        if spec is not None and not again:
            problem = await self._hook("preStop", spec, container, max(0.1, due - time.time()))
            if problem:
                self._event("Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}", container=spec.name)
        try:
            await self._tools.runtime.kill(container.id, signal.SIGTERM)
            async with asyncio.timeout(max(0.1, due - time.time())):
                await self._tools.runtime.wait(container.id)
        except TimeoutError:
            await self._tools.runtime.kill(container.id, signal.SIGKILL)
        except ContainerError as error:
            log.debug("%s: stopping %s: %s", self.pod, container.id, error)

    async def _remove_container(self, key: str) -> None:
        try:
            await self._tools.runtime.remove(key)
        except ContainerError as error:
            log.warning("%s: container %s not removed: %s", self.pod, key, error)
            return
        container = self._containers.pop(key)
        self._said.pop(key, None)
        self._told.discard(key)
        container.log_path.unlink(missing_ok=True)

    # The end

    async def _remove_pod(self, *, finalize: bool) -> None:
        """Nothing runs. The API hears the last status before what it was read from is removed."""
        if finalize:
            await self._reporter.flush(LAST_WORD)
        try:
            for key in list(self._containers):
                await self._tools.runtime.remove(key)
            await self._tools.sandboxes.remove(self.pod.uid)
            await asyncio.to_thread(shutil.rmtree, self._tools.folder(self.pod.uid), ignore_errors=True)
            if finalize:
                await self._finalize()
        except (ContainerError, SandboxError, KubeError) as error:
            log.warning("%s: not removed, trying again: %s", self.pod, error)
            self._later(1.0)
            return
        self._done = True

    async def _leave_pod(self) -> None:
        """The API hears how the containers ended, if it can be reached; else from the next kubelet."""
        await self._reporter.flush(LAST_WORD)
        self._done = True

    async def _finalize(self) -> None:
        """Let the API forget the pod, this very one."""
        path = f"/api/v1/namespaces/{self.pod.metadata.namespace}/pods/{self.pod.metadata.name}"
        try:
            await rest.delete(self._tools.client, path, uid=self.pod.uid, grace=0)
        except rest.ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    async def _let_go(self) -> None:
        for prober in list(self._probers.values()):
            await prober.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Small things

    def _tell_unhealthy(self, spec: ContainerSpec, kind: Kind, message: str) -> None:
        self._event("Warning", "Unhealthy", message, container=spec.name)

    def _tell_backoff(self, action: ReportBackoff) -> None:
        if action.id not in self._told:
            self._told.add(action.id)
            message = f"Back-off restarting failed container {action.name} in pod {pod_name(self.pod)}"
            self._event("Warning", "BackOff", message, container=action.name)

    def _event(self, kind: Literal["Normal", "Warning"], reason: str, message: str, *, container: str = "") -> None:
        section = "initContainers" if any(c.name == container for c in self.pod.spec.init_containers) else "containers"
        field = f"spec.{section}{{{container}}}" if container else ""
        meta = self.pod.metadata
        ref = Ref("Pod", meta.namespace, meta.name, uid=meta.uid, field_path=field)
        self._tools.recorder.event(ref, kind, reason, message)

    def _later(self, seconds: float) -> None:
        """Look again in so many seconds."""
        asyncio.get_running_loop().call_later(seconds, self._poked.set)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"{self.pod}: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self._broken = self._broken or error
            self._poked.set()
