"""Making what a pod runs in, and starting its containers: gather what the manifest refers to, decide, hand it over.

All decisions are pure functions of other modules; here is their order, and the only place where their results meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from agent.kube.client import Client
from agent.kube.events import Recorder
from agent.kubelet.containers import Container, Launch, Mount, Runtime
from agent.kubelet.dnspolicy import HostResolv, resolve_dns
from agent.kubelet.environment import Facts, Sources, resolve_environment
from agent.kubelet.images import Image, ImageError, load_catalogue, resolve_image
from agent.kubelet.launching import resolve_hostname, resolve_kernel_hostname, resolve_launch
from agent.kubelet.node import Machine
from agent.kubelet.objects import Objects
from agent.kubelet.probes import Checker
from agent.kubelet.sandbox import HostAlias, Resolv, Sandbox, Sandboxes, SandboxSpec
from agent.kubelet.spec import ContainerSpec, Pod
from agent.kubelet.volumes import Plan, ensure_sub_path, ensure_volume, resolve_mounts, resolve_volumes

MESSAGE_LIMIT = 4096  # bytes of a termination message


class ImageRefused(Exception):
    """There is no such image; ``reason`` is what the container's status shows."""

    def __init__(self, error: ImageError) -> None:
        self.reason, self.message = error.reason, error.message
        super().__init__(error.message)


class Images:
    """The image catalogue of a folder, read again when the folder has changed or a reference is not found."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._catalogue = load_catalogue(folder)
        self._seen = self._stamp()

    async def resolve(self, reference: str, *, command: Sequence[str]) -> Image | ImageError:
        stamp = self._stamp()
        if stamp == self._seen:
            image = resolve_image(reference, self._catalogue, command=command)
            if isinstance(image, Image):
                return image
        self._catalogue, self._seen = await asyncio.to_thread(load_catalogue, self._folder), stamp
        return resolve_image(reference, self._catalogue, command=command)

    def _stamp(self) -> tuple[int, ...]:
        files = (self._folder, self._folder / "catalogue.yaml")
        return tuple(file.stat().st_mtime_ns for file in files if file.exists())


@dataclass(frozen=True, slots=True)
class Tools:
    """What all workers of a node share."""

    config: Config
    client: Client
    runtime: Runtime
    sandboxes: Sandboxes
    objects: Objects
    recorder: Recorder
    checker: Checker
    images: Images
    host: HostResolv
    machine: Machine

    def folder(self, pod_uid: str) -> Path:
        """Where a pod's volumes and logs lie."""
        return self.config.paths.pods / pod_uid


async def ensure_sandbox(tools: Tools, pod: Pod) -> Sandbox:
    """Volumes first, as upstream, then namespace and address. Raises VolumeError, SandboxError, KubeError."""
    await ensure_volumes(tools, pod, await tools.objects.sources(pod), address="")
    dns = resolve_dns(pod, dns_ip=tools.config.dns_ip, domain=tools.config.cluster_domain, host=tools.host)
    return await tools.sandboxes.ensure(
        SandboxSpec(
            uid=pod.uid,
            namespace=pod.metadata.namespace,
            name=pod.metadata.name,
            hostname=resolve_hostname(pod, node=tools.config.node_name),
            host_network=pod.spec.host_network,
            dns=Resolv(dns.nameservers, dns.searches, dns.options),
            host_aliases=tuple(HostAlias(alias.ip, alias.hostnames) for alias in pod.spec.host_aliases),
            subdomain=pod.spec.subdomain,
            cluster_domain=tools.config.cluster_domain,
        )
    )


async def ensure_volumes(tools: Tools, pod: Pod, sources: Sources, *, address: str) -> tuple[Plan, ...]:
    """Bring the pod's volumes up to date. Raises VolumeError."""
    plans = resolve_volumes(pod, sources, _facts(tools, pod, address))
    folder = tools.folder(pod.uid) / "volumes"
    for plan in plans:
        await asyncio.to_thread(ensure_volume, plan, folder)
    return plans


async def prepare(tools: Tools, pod: Pod, spec: ContainerSpec, *, attempt: int, sandbox: Sandbox) -> Launch:
    """Everything short of the start. Raises ImageRefused, ContainerConfigError, VolumeError, KubeError."""
    image = await tools.images.resolve(spec.image, command=spec.command)
    if isinstance(image, ImageError):
        raise ImageRefused(image)
    sources = await tools.objects.sources(pod)
    plans = await ensure_volumes(tools, pod, sources, address=sandbox.ip)
    variables = resolve_environment(pod, spec, sources, _facts(tools, pod, sandbox.ip))
    volumes = tools.folder(pod.uid) / "volumes"
    mounts = resolve_mounts(spec, plans, volumes, variables)
    for volume_mount, mount in zip(spec.volume_mounts, mounts, strict=True):
        if volume_mount.sub_path or volume_mount.sub_path_expr:
            await asyncio.to_thread(ensure_sub_path, mount, volumes / volume_mount.name)
    return _launch(tools, pod, spec, attempt=attempt, image=image, variables=variables, mounts=mounts, sandbox=sandbox)


def message_file(tools: Tools, pod_uid: str, container: str, attempt: int) -> Path:
    """The file behind ``terminationMessagePath``."""
    return tools.folder(pod_uid) / "messages" / container / str(attempt)


def read_message(tools: Tools, container: Container) -> str:
    """What a dead container left as its last word."""
    file = message_file(tools, container.pod_uid, container.container, container.attempt)
    if not file.exists():
        return ""
    with file.open("rb") as content:
        return content.read(MESSAGE_LIMIT).decode(errors="replace")


def _launch(
    tools: Tools,
    pod: Pod,
    spec: ContainerSpec,
    *,
    attempt: int,
    image: Image,
    variables: dict[str, str],
    mounts: tuple[Mount, ...],
    sandbox: Sandbox,
) -> Launch:
    word = message_file(tools, pod.uid, spec.name, attempt)
    word.parent.mkdir(parents=True, exist_ok=True)
    word.touch()
    word.chmod(0o666)
    own = {mount.destination for mount in mounts}
    given = (*sandbox.etc_mounts(), Mount(str(word), spec.termination_message_path, read_only=False))
    return resolve_launch(
        pod,
        spec,
        attempt=attempt,
        image=image,
        variables=variables,
        mounts=(*(mount for mount in given if mount.destination not in own), *mounts),
        hostname=_hostname(tools, pod),
        netns_path=sandbox.netns_path,
        sandbox=sandbox.id,
        folder=tools.folder(pod.uid),
    )


def _hostname(tools: Tools, pod: Pod) -> str:
    return resolve_kernel_hostname(pod, node=tools.config.node_name, domain=tools.config.cluster_domain)


def _facts(tools: Tools, pod: Pod, address: str) -> Facts:
    return Facts(
        node_name=tools.config.node_name,
        host_ip=tools.config.node_ip,
        pod_ip=address,
        hostname=_hostname(tools, pod),
        cpu=tools.machine.cpu,
        memory=tools.machine.memory,
    )
