"""From a container of a pod's manifest to what the runtime is told (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.kubelet.containers import Launch, Mount
from agent.kubelet.environment import ContainerConfigError, expand
from agent.kubelet.images import Image, resolve_argv
from agent.kubelet.quantity import parse_quantity
from agent.kubelet.spec import ContainerSpec, Pod

HOSTNAME_LENGTH = 63  # of a DNS label


def resolve_hostname(pod: Pod, *, node: str) -> str:
    """The pod's host name: the node's for a hostNetwork pod, else its own, at most 63 characters."""
    if pod.spec.host_network:
        return node
    return (pod.spec.hostname or pod.metadata.name)[:HOSTNAME_LENGTH].rstrip("-.")


def resolve_kernel_hostname(pod: Pod, *, node: str, domain: str) -> str:
    """What ``hostname`` prints inside: the host name, or with ``setHostnameAsFQDN`` all of it."""
    name = resolve_hostname(pod, node=node)
    if pod.spec.set_hostname_as_fqdn and pod.spec.subdomain and not pod.spec.host_network:
        return f"{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{domain}"
    return name


def container_key(pod: Pod, container: str, attempt: int) -> str:
    """The runtime's id of one attempt: unique for ever, as pod UIDs are."""
    return f"{pod.uid}-{container}-{attempt}"


def resolve_launch(
    pod: Pod,
    spec: ContainerSpec,
    *,
    attempt: int,
    image: Image,
    variables: Mapping[str, str],
    mounts: tuple[Mount, ...],
    hostname: str,
    netns_path: str,
    sandbox: str,
    folder: Path,
) -> Launch:
    """The order for the runtime. ``sandbox``: its id; ``folder``: of the pod. Raises ContainerConfigError."""
    expandable = dict(variables)
    command = tuple(expand(word, expandable) for word in spec.command)
    args = tuple(expand(word, expandable) for word in spec.args)
    argv = resolve_argv(image, command, args)
    if not argv:
        raise ContainerConfigError(
            f"container {spec.name}: neither the container nor its image {spec.image} has a command"
        )
    user, group = _user(pod, spec, image)
    security, shared = spec.security_context, pod.spec.security_context
    return Launch(
        id=container_key(pod, spec.name, attempt),
        pod_uid=pod.uid,
        namespace=pod.metadata.namespace,
        pod=pod.metadata.name,
        container=spec.name,
        attempt=attempt,
        image=image,
        argv=argv,
        log_path=folder / "logs" / spec.name / f"{attempt}.log",
        env=tuple(resolve_process_environment(image, variables, hostname=hostname, tty=spec.tty).items()),
        cwd=expand(spec.working_dir, expandable) or image.workdir,
        hostname=hostname,
        netns_path=netns_path,
        mounts=mounts,
        user=user,
        group=group,
        groups=(*shared.supplemental_groups, *((shared.fs_group,) if shared.fs_group is not None else ())),
        capabilities_add=security.capabilities.add,
        capabilities_drop=security.capabilities.drop,
        privileged=security.privileged,
        read_only_root=security.read_only_root_filesystem,
        no_new_privileges=security.allow_privilege_escalation is False,
        tty=spec.tty,
        stdin=spec.stdin,
        grace_seconds=float(pod.spec.termination_grace_period_seconds),
        memory_limit=_amount(spec, "memory", spec.resources.limits, scale=1),
        cpu_limit=_amount(spec, "cpu", spec.resources.limits, scale=1000),
        cpu_request=_amount(spec, "cpu", spec.resources.requests, scale=1000),
        sandbox=sandbox,
    )


def resolve_process_environment(
    image: Image, variables: Mapping[str, str], *, hostname: str, tty: bool
) -> dict[str, str]:
    """The image's variables (PATH first), HOSTNAME, and over them what the manifest says."""
    base = {**dict(image.env), "HOSTNAME": hostname, **({"TERM": "xterm"} if tty else {})}
    return {**base, **variables}


def _user(pod: Pod, spec: ContainerSpec, image: Image) -> tuple[int, int]:
    own, shared = spec.security_context, pod.spec.security_context
    user = _first(own.run_as_user, shared.run_as_user, image.user)
    group = _first(own.run_as_group, shared.run_as_group, image.group)
    if _first(own.run_as_non_root, shared.run_as_non_root, False) and user == 0:
        raise ContainerConfigError(f"container {spec.name} has runAsNonRoot and would run as root")
    return user, group


def _first(own: int | None, shared: int | None, default: int) -> int:
    return own if own is not None else shared if shared is not None else default


def _amount(spec: ContainerSpec, name: str, table: Mapping[str, str | int | float], *, scale: int) -> int | None:
    """A resource in units of 1/``scale``; None where nothing is said."""
    if name not in table:
        return None
    try:
        return int(parse_quantity(table[name]) * scale)
    except ValueError as error:
        raise ContainerConfigError(f"cannot read {name} of container {spec.name}: {error}") from error
