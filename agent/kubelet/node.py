"""The Node object: this machine tells the API that it is here, what it has, and every ten seconds that it lives.

As upstream's kubelet: the Node's status is written when it changes or after five minutes, and a small Lease in
``kube-node-lease`` (KEP-589) carries the heartbeat in between. A Node that somebody deletes is registered again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agent import shell
from agent.config import Config
from agent.kube import rest
from agent.kube.client import Client, KubeError

log = logging.getLogger(__name__)

Json = dict[str, Any]
BEAT = 10.0  # seconds between two heartbeats
LEASE_SECONDS = 40
STATUS_SECONDS = 300.0
MAX_PODS = 110
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PRESSURES = (
    ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine is. ``memory`` and ``disk`` in bytes."""

    cpu: int
    memory: int
    disk: int
    kernel: str
    architecture: str
    os_image: str
    machine_id: str
    boot_id: str
    runtime: str


def observe_machine(config: Config) -> Machine:
    """Look at the machine. Runs ``runc --version`` once: use a thread."""
    disk = os.statvfs(_nearest(config.state_dir))
    machine = platform.machine()
    return Machine(
        cpu=os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk=disk.f_frsize * disk.f_blocks,
        kernel=platform.release(),
        architecture=_ARCHITECTURES.get(machine, machine),
        os_image=_os_image(),
        machine_id=_read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        runtime=_runtime(),
    )


def resolve_node(config: Config, machine: Machine) -> Json:
    """The Node to register, without its status."""
    labels = {
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": config.node_name, "labels": labels},
        "spec": {"podCIDR": config.pod_cidr, "podCIDRs": [config.pod_cidr]},
    }


def resolve_node_status(config: Config, machine: Machine, *, before: Sequence[Mapping[str, Any]], now: str) -> Json:
    """The Node's status. ``before``: the conditions as they are in the API; ``now``: an RFC 3339 time."""
    capacity = {
        "cpu": str(machine.cpu),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": f"{machine.disk // 1024}Ki",
        "pods": str(MAX_PODS),
    }
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": config.node_ip},
            {"type": "Hostname", "address": config.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet_port}},
        "conditions": _conditions(before, now),
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": machine.runtime,
            "kubeletVersion": _version(),
            "kubeProxyVersion": _version(),
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
    }


def is_ready(node: Mapping[str, Any]) -> bool:
    """Does the API say that this Node is Ready?"""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


class Registration:
    """Keeps the Node and its Lease. ``register`` once, then ``run`` until cancelled."""

    def __init__(self, client: Client, config: Config, machine: Machine) -> None:
        self._client, self._config, self._machine = client, config, machine
        self._path = f"/api/v1/nodes/{config.node_name}"
        self._written = float("-inf")
        self._uid = ""

    async def register(self) -> None:
        """Write the Node, its status and its Lease. Raises KubeError."""
        body = resolve_node(self._config, self._machine)
        try:
            node = await rest.get(self._client, self._path)
            known = (node.get("spec") or {}).get("podCIDR")
            changes: Json = {
                "metadata": {"labels": body["metadata"]["labels"]},
                **({} if known else {"spec": body["spec"]}),
            }
            node = await rest.patch(self._client, self._path, changes)
        except rest.ApiError as error:
            if not error.not_found:
                raise
            node = await rest.create(self._client, "/api/v1/nodes", body)
        await self._write_status(node)
        await self._renew()

    async def run(self) -> None:
        """Beat for ever; what fails is logged and done at the next beat."""
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._beat()
            except KubeError as error:
                log.warning("heartbeat of node %s: %s", self._config.node_name, error)

    async def _beat(self) -> None:
        await self._renew()
        try:
            node = await rest.get(self._client, self._path)
        except rest.ApiError as error:
            if not error.not_found:
                raise
            log.info("node %s is gone from the API: registering it again", self._config.node_name)
            await self.register()
            return
        if not is_ready(node) or time.monotonic() - self._written > STATUS_SECONDS:
            await self._write_status(node)

    async def _write_status(self, node: Mapping[str, Any]) -> None:
        before = (node.get("status") or {}).get("conditions") or []
        status = resolve_node_status(self._config, self._machine, before=before, now=_now())
        await rest.patch(self._client, f"{self._path}/status", {"status": status})
        self._uid = str(node["metadata"]["uid"])
        self._written = time.monotonic()

    async def _renew(self) -> None:
        name = self._config.node_name
        renewed = {
            "spec": {"renewTime": _now(micro=True), "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}
        }
        try:
            await rest.patch(self._client, f"{LEASES}/{name}", renewed)
        except rest.ApiError as error:
            if not error.not_found:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self._uid}
            metadata = {"name": name, "namespace": "kube-node-lease", "ownerReferences": [owner]}
            kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            renewed["spec"]["acquireTime"] = renewed["spec"]["renewTime"]
            await rest.create(self._client, LEASES, {**kind, "metadata": metadata, **renewed})


def _conditions(before: Sequence[Mapping[str, Any]], now: str) -> list[Json]:
    wanted = [(kind, "False", reason, message) for kind, reason, message in _PRESSURES]
    wanted.append(("Ready", "True", "KubeletReady", "kubelet is posting ready status"))
    since = {(c.get("type"), c.get("status")): c.get("lastTransitionTime") for c in before}
    return [
        {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": since.get((kind, status)) or now,
        }
        for kind, status, reason, message in wanted
    ]


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _version() -> str:
    """The Kubernetes release whose behaviour this is, and podwire's own version as build metadata (semver.org)."""
    try:
        return f"v1.33.0+podwire-{version('podwire')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "v1.33.0+podwire"


def _runtime() -> str:
    first = shell.run(["runc", "--version"]).decode().splitlines()[0]
    return f"runc://{first.removeprefix('runc version ').strip()}"


def _os_image() -> str:
    lines = _read("/etc/os-release").splitlines()
    name: Callable[[str], bool] = lambda line: line.startswith("PRETTY_NAME=")  # noqa: E731
    return next((line.partition("=")[2].strip('"') for line in filter(name, lines)), "Linux")


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text().strip() if file.exists() else ""


def _nearest(path: Path) -> Path:
    """The folder itself or the nearest one above that exists."""
    return path if path.exists() or path == path.parent else _nearest(path.parent)
