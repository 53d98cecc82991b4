"""The kubelet's loop: which pods are this node's, and a worker for each.

At the start everything that runs is found before anything is done: pods from the API, containers and sandboxes from the
runtime. They are matched by UID; a worker takes over what is its pod's, and what has no pod any more is removed. From
then on a change of a pod is a poke of its worker. A worker that fails, whatever the reason, is one pod's trouble: it is
told to the log and tried again, and no other pod notices.

When the machine shuts down (``Kubelet.run`` is told) the workers end their pods' containers, and each then ends itself.
When none is left, or time is up, so does the loop. A pod that comes meanwhile gets a worker that starts nothing. The
kubelet that follows after the boot takes all of them on again, as the API knows them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.config import Config
from agent.kube.client import Client, KubeError
from agent.kube.events import Recorder
from agent.kube.informer import Change, Informer, Key
from agent.kubelet.containers import Container, ContainerError, Runtime
from agent.kubelet.dnspolicy import HostResolv, parse_resolv
from agent.kubelet.node import Machine, Registration, observe_machine
from agent.kubelet.objects import Kind, Objects, refers
from agent.kubelet.pod import Shutdown, newest, previous
from agent.kubelet.probes import Checker
from agent.kubelet.sandbox import Sandbox, SandboxError, Sandboxes
from agent.kubelet.server import Refused, make_app, serve
from agent.kubelet.spec import Pod, parse_pod
from agent.kubelet.starter import Images, Tools
from agent.kubelet.worker import Worker

log = logging.getLogger(__name__)

PATIENCE = (0.1, 5.0)  # seconds: first and last pause while the API server cannot be reached
LOOK = 3.0  # seconds between two looks at whether the sandboxes are whole
AGAIN = 5.0  # seconds until a worker that failed is started again
SETTLE = 2.0  # seconds after the last SIGKILL of a shutdown in which ends are noted and told


class AllEnded(Exception):
    """The machine shuts down and no container runs any more: a task group ends by an exception only (asyncio's
    documentation, "Terminating a Task Group").
    """


def containers_folder(config: Config) -> Path:
    """One folder per container."""
    return config.state_dir / "containers"


def make_runtime(config: Config) -> Runtime:
    """The containers of a state directory."""
    paths = config.paths
    return Runtime(
        containers_folder(config),
        paths.run_dir / "containers",
        state_dir_to_mask=paths.state_dir,
        cgroup_parent=cgroup_name(config),
    )


def cgroup_name(config: Config) -> str:
    """The cgroup above all containers of a state directory; nodes that share a machine must not share it."""
    return f"podwire-{hashlib.sha256(str(config.state_dir.absolute()).encode()).hexdigest()[:8]}"


def make_sandboxes(config: Config) -> Sandboxes:
    """The sandboxes of a state directory; this process is in the node's network namespace."""
    return Sandboxes(
        config.paths.pods,
        config.paths.ipam,
        bridge=config.bridge,
        pod_cidr=config.pod_cidr,
        gateway=config.gateway,
        node_ip=config.node_ip,
        service_cidr=config.service_cidr,
    )


class Kubelet:
    """One node's pods. ``run`` until cancelled: then pods go on running; or until the machine shuts down."""

    def __init__(self, client: Client, config: Config) -> None:
        self._client, self._config = client, config
        self._pods = Informer(client, "/api/v1/pods", parse_pod, fields=f"spec.nodeName={config.node_name}")
        self._objects = Objects(client, self._refresh)
        self._recorder = Recorder(client, "kubelet", host=config.node_name)
        self._runtime = make_runtime(config)
        self._workers: dict[str, Worker] = {}
        self._finished: set[str] = set()
        self._containers: dict[str, list[Container]] = {}
        self._sandboxes: dict[str, Sandbox] = {}
        self._tools: Tools | None = None
        self._group: asyncio.TaskGroup | None = None
        self._adopted = asyncio.Event()
        self._left = asyncio.Event()  # a worker has ended
        self._shutdown: Shutdown | None = None

    async def run(self, *, ready: Callable[[], None], shutdown: asyncio.Event) -> None:
        """``ready`` is called when the node is registered, its pods are adopted and the server listens. ``shutdown``:
        set when the machine shuts down; then containers are ended, and this returns.
        """
        machine = await asyncio.to_thread(observe_machine, self._config)
        checker, sandboxes = Checker(), make_sandboxes(self._config)
        self._tools = self._make_tools(machine, checker, sandboxes)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._await_shutdown(shutdown))
                await self._begin(group, machine, ready)
        except* AllEnded as ended:
            log.info("%s", ended.exceptions[0])
        finally:
            sandboxes.close()
            await checker.close()

    def _make_tools(self, machine: Machine, checker: Checker, sandboxes: Sandboxes) -> Tools:
        return Tools(
            config=self._config,
            client=self._client,
            runtime=self._runtime,
            sandboxes=sandboxes,
            objects=self._objects,
            recorder=self._recorder,
            checker=checker,
            images=Images(self._config.paths.images),
            host=read_host_resolv(),
            machine=machine,
        )

    async def _begin(self, group: asyncio.TaskGroup, machine: Machine, ready: Callable[[], None]) -> None:
        listening = asyncio.Event()
        app = make_app(self, self._runtime, containers_folder(self._config))
        for work in (
            self._pods.run(),
            self._objects.run(),
            self._recorder.run(),
            serve(self._config, app, ready=listening.set),
        ):
            group.create_task(work)
        await listening.wait()
        registration = Registration(self._client, self._config, machine)
        await _insist(registration.register)
        group.create_task(registration.run())
        await self._pods.synced.wait()
        await self._objects.synced()
        await self._adopt(group)
        group.create_task(self._tend_sandboxes())
        ready()

    async def _adopt(self, group: asyncio.TaskGroup) -> None:
        """Match what runs with what the API wants; from here on, changes of pods reach their workers."""
        assert self._tools is not None
        await self._repair_sandboxes()  # else a pod that only lost its link would lose its containers
        await self._runtime.remove_remains()
        for container in await self._runtime.list():
            self._containers.setdefault(container.pod_uid, []).append(container)
        self._sandboxes = {sandbox.uid: sandbox for sandbox in await self._tools.sandboxes.list()}
        found = self._containers.keys() | self._sandboxes.keys() | set(_folders(self._config.paths.pods))
        self._pods.subscribe(self._changed)
        orphans = found - self._workers.keys()
        log.info("adopted %d pods, removing %d that are gone from the API", len(found) - len(orphans), len(orphans))
        for uid in orphans:
            group.create_task(self._remove_orphan(uid))
        self._adopted.set()

    async def _tend_sandboxes(self) -> None:
        """Somebody may delete a link, the bridge or a namespace, and nobody tells: so look from time to time."""
        while True:
            await asyncio.sleep(LOOK)
            lost = await self._repair_sandboxes()
            for uid in self._workers.keys() & set(lost):
                self._workers[uid].lose_sandbox()

    async def _repair_sandboxes(self) -> Sequence[str]:
        """The UIDs of pods whose namespace is gone, as far as can be told."""
        assert self._tools is not None
        try:
            return await self._tools.sandboxes.repair()
        except SandboxError as error:
            log.warning("%s: trying again in %g s", error, LOOK)
            return ()

    # The machine's shutdown

    async def _await_shutdown(self, told: asyncio.Event) -> None:
        await told.wait()
        period, now = self._config.shutdown_grace_period, time.time()
        log.info("the machine shuts down: all containers end within %g s", period)
        self._shutdown = Shutdown(now, now + period)
        for worker in self._workers.values():
            worker.shut_down(self._shutdown)
        try:
            async with asyncio.timeout(period + SETTLE):
                await self._await_workers()
        except TimeoutError:
            left = ", ".join(str(worker.pod) for worker in self._workers.values()) or "pods not known yet"
            log.warning("not ended within %g s: %s", period, left)
            raise AllEnded("time is up") from None
        raise AllEnded("no container runs any more")

    async def _await_workers(self) -> None:
        await self._adopted.wait()
        while self._workers:
            self._left.clear()
            await self._left.wait()

    # Changes

    def _changed(self, change: Change[Pod]) -> None:
        if change.new is None:
            assert change.old is not None
            self._finished.discard(change.old.uid)
            worker = self._workers.get(change.old.uid)
            if worker is not None:
                worker.remove()
            return
        pod = change.new
        worker = self._workers.get(pod.uid)
        if worker is not None:
            worker.update(pod)
        elif pod.uid not in self._finished:
            self._take_on(pod)

    def _take_on(self, pod: Pod) -> None:
        assert self._tools is not None
        assert self._group is not None
        sandbox = self._sandboxes.pop(pod.uid, None)
        worker = Worker(
            self._tools,
            pod,
            sandbox=sandbox if sandbox is not None and sandbox.ready else None,
            containers=self._containers.pop(pod.uid, []),
            shutdown=self._shutdown,
        )
        self._workers[pod.uid] = worker
        self._group.create_task(self._work(worker), name=f"worker of {pod}")

    async def _work(self, worker: Worker) -> None:
        """Run one worker; one that fails is replaced by another that looks at everything anew."""
        uid = worker.pod.uid
        try:
            await worker.run()
        except Exception:
            log.exception("%s: its worker failed; another one begins in %g s", worker.pod, AGAIN)
            await asyncio.sleep(AGAIN)
            await self._replace(worker)
            return
        del self._workers[uid]
        self._left.set()
        if not worker.removed:  # its object may linger, held by a finalizer; there is nothing left to do for it
            self._finished.add(uid)

    async def _replace(self, worker: Worker) -> None:
        assert self._tools is not None
        uid = worker.pod.uid
        self._containers[uid] = [c for c in await self._runtime.list() if c.pod_uid == uid]
        self._sandboxes |= {s.uid: s for s in await self._tools.sandboxes.list() if s.uid == uid}
        self._take_on(worker.pod)
        if worker.removed:
            self._workers[uid].remove()

    def _refresh(self, kind: Kind, key: Key) -> None:
        for worker in self._workers.values():
            if worker.pod.metadata.namespace == key.namespace and refers(worker.pod, kind, key.name):
                worker.refresh()

    async def _remove_orphan(self, uid: str) -> None:
        """A pod that the API forgot while nobody was here: nobody waits for its last words."""
        assert self._tools is not None
        try:
            for container in self._containers.pop(uid, []):
                await self._runtime.remove(container.id)
            await self._tools.sandboxes.remove(uid)
        except (ContainerError, SandboxError) as error:
            log.warning("pod %s, gone from the API, is not removed; the next start tries again: %s", uid, error)
            return
        await asyncio.to_thread(shutil.rmtree, self._config.paths.pods / uid, ignore_errors=True)

    # What the server asks

    def find(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> Container:
        """The latest attempt at a container, or the one before. Raises Refused."""
        return find_container(list(self._workers.values()), namespace, pod, container, before=previous)

    def network(self, namespace: str, pod: str) -> str:
        """The network namespace of a running pod, as a path; ``""`` is the node's own. Raises Refused."""
        sandbox = find_worker(list(self._workers.values()), namespace, pod).sandbox
        if sandbox is None:
            raise Refused(400, f'pod "{pod}" has no network: it is not running')
        return sandbox.netns_path

    def pods(self) -> Sequence[Any]:
        """The pods as this node knows them."""
        return [msgspec.to_builtins(worker.pod) for worker in self._workers.values()]


def find_worker(workers: Sequence[Worker], namespace: str, pod: str) -> Worker:
    """A deleted pod's successor may have its name: the newest worker counts. Raises Refused."""
    for worker in reversed(workers):
        if (worker.pod.metadata.namespace, worker.pod.metadata.name) == (namespace, pod):
            return worker
    raise Refused(404, f'pods "{pod}" not found on this node')


def find_container(workers: Sequence[Worker], namespace: str, pod: str, container: str, *, before: bool) -> Container:
    """See ``Kubelet.find``."""
    worker = find_worker(workers, namespace, pod)
    if worker.pod.container(container) is None:
        raise Refused(400, f"container {container} is not valid for pod {pod}")
    seen = worker.observe()
    if before:
        found = previous(seen, container)
        if found is None:
            raise Refused(400, f'previous terminated container "{container}" in pod "{pod}" not found')
        return found
    found = newest(seen, container)
    if found is None:
        failure = seen.failures.get(container)
        reason = (
            failure.reason if failure else "PodInitializing" if worker.pod.spec.init_containers else "ContainerCreating"
        )
        raise Refused(400, f'container "{container}" in pod "{pod}" is waiting to start: {reason}')
    return found


async def _insist(work: Callable[[], Awaitable[None]]) -> None:
    """Until it succeeds: the API server may be starting just now, as this process is."""
    pause = PATIENCE[0]
    while True:
        try:
            return await work()
        except KubeError as error:
            log.info("%s: trying again in %.1f s", error, pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PATIENCE[1])


def read_host_resolv(
    file: Path = Path("/etc/resolv.conf"), behind_stub: Path = Path("/run/systemd/resolve/resolv.conf")
) -> HostResolv:
    """The node's resolv.conf. A stub on a loopback address is of no use in a pod; systemd keeps the real list apart."""
    host = parse_resolv(file.read_text()) if file.exists() else HostResolv()
    if behind_stub.exists() and all(server.startswith("127.") for server in host.nameservers):
        return parse_resolv(behind_stub.read_text())
    return host


def _folders(pods: Path) -> list[str]:
    return [entry.name for entry in pods.iterdir() if entry.is_dir()] if pods.is_dir() else []
