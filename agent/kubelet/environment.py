"""The environment variables of a container (pure).

Three layers, each overriding the one before: the Services that existed when the container started, ``envFrom``, and
``env``.
Services are told in two formats, for the same Service ``db`` with ClusterIP 10.0.0.250 and port 27017:

    DB_SERVICE_HOST=10.0.0.250                 Kubernetes' own
    DB_SERVICE_PORT=27017                      (and DB_SERVICE_PORT_<NAME> for each named port)
    DB_PORT=tcp://10.0.0.250:27017             Docker's links
    DB_PORT_27017_TCP=tcp://10.0.0.250:27017
    DB_PORT_27017_TCP_PROTO=tcp
    DB_PORT_27017_TCP_PORT=27017
    DB_PORT_27017_TCP_ADDR=10.0.0.250

A pod sees the Services of its own namespace (unless ``enableServiceLinks`` is false) and always ``kubernetes`` from
``default``, because that is how a program inside finds the API (kubelet_pods.go getServiceEnvVarMap).

``$(NAME)`` in values, commands and arguments is replaced when NAME is known, else left alone; ``$$`` is a dollar.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from agent.kubelet.quantity import parse_quantity
from agent.kubelet.spec import (
    ContainerSpec,
    EnvFrom,
    EnvVarSource,
    FieldRef,
    KeySelector,
    Pod,
    Projection,
    ResourceFieldRef,
    Service,
    Volume,
)

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ContainerConfigError(Exception):
    """A container cannot be configured: what it refers to is missing or makes no sense."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The objects a pod may refer to: Services of any namespace; data of ConfigMaps and Secrets of its own, by name."""

    services: tuple[Service, ...] = ()
    config_maps: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the node knows that the pod's manifest does not. ``cpu`` in cores, ``memory`` in bytes: the node's own."""

    node_name: str
    host_ip: str
    pod_ip: str
    hostname: str
    cpu: int = 1
    memory: int = 0


def resolve_environment(pod: Pod, container: ContainerSpec, sources: Sources, facts: Facts) -> dict[str, str]:
    """The variables of one container, without PATH and HOSTNAME. Raises ContainerConfigError."""
    spec, namespace = pod.spec, pod.metadata.namespace
    variables = service_variables(sources.services, namespace=namespace, links=spec.enable_service_links)
    for bundle in container.env_from:
        variables.update(_resolve_bundle(bundle, sources, namespace))
    for variable in container.env:
        if variable.value_from is None:
            variables[variable.name] = expand(variable.value, variables)
            continue
        value = _resolve_source(variable.value_from, pod, container, sources, facts)
        if value is not None:
            variables[variable.name] = value
    return variables


def service_variables(services: Iterable[Service], *, namespace: str, links: bool) -> dict[str, str]:
    """Both formats, for the Services that a pod of ``namespace`` may see."""
    visible: dict[str, Service] = {}
    for service in sorted(services, key=lambda s: (s.metadata.namespace != "default", s.metadata.name)):
        name, home = service.metadata.name, service.metadata.namespace
        if _has_cluster_ip(service) and ((links and home == namespace) or (home == "default" and name == "kubernetes")):
            visible[name] = service
    return {name: value for service in visible.values() for name, value in _describe(service)}


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable's value; unknown names stay as they are, ``$$`` becomes ``$``."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def resolve_field(ref: FieldRef, pod: Pod, facts: Facts) -> str:
    """The value of a ``fieldRef``. Raises ContainerConfigError for a path that the downward API does not have."""
    keyed = _KEYED.fullmatch(ref.field_path)
    if keyed:
        table = pod.metadata.labels if keyed.group(1) == "labels" else pod.metadata.annotations
        return table.get(keyed.group(2), "")
    reader = _FIELDS.get(ref.field_path)
    if reader is None:
        raise ContainerConfigError(f"unsupported fieldPath: {ref.field_path}")
    return reader(pod, facts)


def resolve_resource(ref: ResourceFieldRef, container: ContainerSpec, facts: Facts) -> str:
    """A limit or request in units of the divisor, rounded up; what is not limited is limited by the node."""
    section, _, name = ref.resource.partition(".")
    if section not in ("limits", "requests") or not name:
        raise ContainerConfigError(f"unsupported resource: {ref.resource}")
    table = container.resources.limits if section == "limits" else container.resources.requests
    fallback: dict[str, str | int] = {"cpu": facts.cpu, "memory": facts.memory} if section == "limits" else {}
    try:
        amount = parse_quantity(table.get(name, fallback.get(name, 0)))
        divisor = parse_quantity(ref.divisor) or parse_quantity(1)
    except ValueError as error:
        raise ContainerConfigError(f"cannot read {ref.resource} of container {container.name}: {error}") from error
    return str(math.ceil(amount / divisor))


def referred_objects(pod: Pod) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the ConfigMaps and of the Secrets that the pod's containers and volumes refer to."""
    maps: set[str] = set()
    secrets: set[str] = set()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for bundle in container.env_from:
            maps.update([bundle.config_map_ref.name] if bundle.config_map_ref else [])
            secrets.update([bundle.secret_ref.name] if bundle.secret_ref else [])
        for source in (variable.value_from for variable in container.env if variable.value_from):
            maps.update([source.config_map_key_ref.name] if source.config_map_key_ref else [])
            secrets.update([source.secret_key_ref.name] if source.secret_key_ref else [])
    for volume in pod.spec.volumes:
        parts: tuple[Volume | Projection, ...] = (volume, *(volume.projected.sources if volume.projected else ()))
        for part in parts:
            maps.update([part.config_map.name] if part.config_map else [])
            secrets.update([part.secret.secret_name or part.secret.name] if part.secret else [])
    return frozenset(maps), frozenset(secrets)


def _has_cluster_ip(service: Service) -> bool:
    return service.spec.cluster_ip not in ("", "None") and bool(service.spec.ports)


def _describe(service: Service) -> Iterable[tuple[str, str]]:
    prefix, address = _variable(service.metadata.name), service.spec.cluster_ip
    ports = service.spec.ports
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(ports[0].port)
    for port in ports:
        if port.name:
            yield f"{prefix}_SERVICE_PORT_{_variable(port.name)}", str(port.port)
    bracketed = f"[{address}]" if ":" in address else address
    yield f"{prefix}_PORT", f"{ports[0].protocol.lower()}://{bracketed}:{ports[0].port}"
    for port in ports:
        link, protocol = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}", port.protocol.lower()
        yield link, f"{protocol}://{bracketed}:{port.port}"
        yield f"{link}_PROTO", protocol
        yield f"{link}_PORT", str(port.port)
        yield f"{link}_ADDR", address


def _variable(name: str) -> str:
    return name.replace("-", "_").upper()


def _resolve_bundle(bundle: EnvFrom, sources: Sources, namespace: str) -> dict[str, str]:
    values: dict[str, str] = {}
    if bundle.config_map_ref:
        found = _find(
            "configmap", bundle.config_map_ref.name, sources.config_maps, optional=bundle.config_map_ref.optional
        )
        values.update(_texts(found, f"ConfigMap {namespace}/{bundle.config_map_ref.name}"))
    if bundle.secret_ref:
        found = _find("secret", bundle.secret_ref.name, sources.secrets, optional=bundle.secret_ref.optional)
        values.update(_texts(found, f"Secret {namespace}/{bundle.secret_ref.name}"))
    return {bundle.prefix + name: value for name, value in values.items()}


def _resolve_source(
    source: EnvVarSource, pod: Pod, container: ContainerSpec, sources: Sources, facts: Facts
) -> str | None:
    """The value, or None where an optional key does not exist (then the variable is left out)."""
    if source.field_ref:
        return resolve_field(source.field_ref, pod, facts)
    if source.resource_field_ref:
        other = source.resource_field_ref.container_name
        owner = pod.container(other) if other else container
        if owner is None:
            raise ContainerConfigError(f"container {other} not found")
        return resolve_resource(source.resource_field_ref, owner, facts)
    if source.config_map_key_ref:
        return _pick("ConfigMap", source.config_map_key_ref, sources.config_maps, pod.metadata.namespace)
    if source.secret_key_ref:
        return _pick("Secret", source.secret_key_ref, sources.secrets, pod.metadata.namespace)
    return ""


def _pick(kind: str, ref: KeySelector, objects: Mapping[str, Mapping[str, bytes]], namespace: str) -> str | None:
    data = _find(kind.lower(), ref.name, objects, optional=ref.optional)
    if ref.key in data:
        return _texts({ref.key: data[ref.key]}, f"{kind} {namespace}/{ref.name}")[ref.key]
    if ref.optional:
        return None
    raise ContainerConfigError(f"couldn't find key {ref.key} in {kind} {namespace}/{ref.name}")


def _find(kind: str, name: str, objects: Mapping[str, Mapping[str, bytes]], *, optional: bool) -> Mapping[str, bytes]:
    if name in objects:
        return objects[name]
    if optional:
        return {}
    raise ContainerConfigError(f'{kind} "{name}" not found')


def _texts(data: Mapping[str, bytes], owner: str) -> dict[str, str]:
    """Values as text. Bytes that are not UTF-8 go through as they are; NUL cannot be in an environment (execve(2))."""
    for key, value in data.items():
        if b"\0" in value:
            raise ContainerConfigError(f"key {key} of {owner} holds a NUL byte, which no environment variable can")
    return {key: value.decode(errors="surrogateescape") for key, value in data.items()}


def _lines(table: Mapping[str, str]) -> str:
    """All labels or annotations as the downward API's files show them: sorted ``key="quoted value"``."""
    return "\n".join(f"{key}={msgspec.json.encode(table[key]).decode()}" for key in sorted(table))


_FIELDS: dict[str, Callable[[Pod, Facts], str]] = {
    "metadata.name": lambda pod, facts: pod.metadata.name,
    "metadata.namespace": lambda pod, facts: pod.metadata.namespace,
    "metadata.uid": lambda pod, facts: pod.metadata.uid,
    "metadata.labels": lambda pod, facts: _lines(pod.metadata.labels),
    "metadata.annotations": lambda pod, facts: _lines(pod.metadata.annotations),
    "spec.nodeName": lambda pod, facts: facts.node_name,
    "spec.serviceAccountName": lambda pod, facts: pod.spec.service_account_name,
    "status.podIP": lambda pod, facts: facts.pod_ip,
    "status.podIPs": lambda pod, facts: facts.pod_ip,
    "status.hostIP": lambda pod, facts: facts.host_ip,
    "status.hostIPs": lambda pod, facts: facts.host_ip,
}
