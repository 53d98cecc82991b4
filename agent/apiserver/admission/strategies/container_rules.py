"""What a container must look like (apis/core/validation: validateContainers and what it calls)."""

from __future__ import annotations

from collections.abc import Collection

from agent.apiserver.admission import names
from agent.apiserver.admission.errors import duplicate, forbidden, invalid, not_found, not_supported, required
from agent.apiserver.admission.quantity import parse_quantity
from agent.apiserver.admission.rules import Causes, at_least_zero, formed, one_of, port_reference, required_name
from agent.apiserver.admission.strategies.pod_defaults import PROBES
from agent.apiserver.registry import JSON

PROTOCOLS = ("SCTP", "TCP", "UDP")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
FIELD_PATHS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
ONE_SOURCE = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"


def check_container(path: str, container: JSON, *, volumes: Collection[str], host_network: bool) -> Causes:
    yield from required_name(f"{path}.name", container.get("name"), names.dns_label)
    yield from _check_image(f"{path}.image", container.get("image", ""))
    yield from one_of(
        f"{path}.terminationMessagePolicy",
        container["terminationMessagePolicy"],
        ("File", "FallbackToLogsOnError"),
    )
    yield from one_of(f"{path}.imagePullPolicy", container["imagePullPolicy"], ("Always", "IfNotPresent", "Never"))
    yield from _check_ports(f"{path}.ports", container.get("ports") or [], host_network=host_network)
    for index, variable in enumerate(container.get("env") or []):
        yield from _check_variable(f"{path}.env[{index}]", variable)
    for index, source in enumerate(container.get("envFrom") or []):
        yield from _check_env_from(f"{path}.envFrom[{index}]", source)
    yield from _check_mounts(f"{path}.volumeMounts", container.get("volumeMounts") or [], volumes)
    yield from _check_resources(f"{path}.resources", container["resources"])
    for name in PROBES:
        if name in container:
            yield from _check_probe(f"{path}.{name}", container[name], any_success=name == "readinessProbe")
    for name, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            yield from check_handler(f"{path}.lifecycle.{name}", hook, HOOK_HANDLERS)


def _check_image(path: str, image: str) -> Causes:
    if not image:
        yield required(path)
    elif image != image.strip():
        yield invalid(path, image, "must not have leading or trailing whitespace")


def _check_ports(path: str, ports: list[JSON], *, host_network: bool) -> Causes:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        here, name = f"{path}[{index}]", port.get("name")
        if name:
            yield from formed(f"{here}.name", name, names.port_name)
            if name in seen:
                yield duplicate(f"{here}.name", name)
            seen.add(name)
        number, on_host = port.get("containerPort", 0), port.get("hostPort", 0)
        if number == 0:
            yield required(f"{here}.containerPort")
        else:
            yield from port_reference(f"{here}.containerPort", number)
        if on_host:
            yield from port_reference(f"{here}.hostPort", on_host)
            if host_network and on_host != number:
                yield invalid(f"{here}.hostPort", on_host, "must match `containerPort` when `hostNetwork` is true")
        yield from one_of(f"{here}.protocol", port.get("protocol"), PROTOCOLS)


def _check_variable(path: str, variable: JSON) -> Causes:
    yield from required_name(f"{path}.name", variable.get("name"), names.env_name)
    source = variable.get("valueFrom")
    if source is None:
        return
    given = [name for name in SOURCES if name in source]
    if variable.get("value"):
        yield invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")
    elif not given:
        yield invalid(f"{path}.valueFrom", "", ONE_SOURCE)
    elif len(given) > 1:
        yield invalid(f"{path}.valueFrom", "", "may not have more than one field specified at a time")
    if "fieldRef" in source:
        yield from _check_field_ref(f"{path}.valueFrom.fieldRef", source["fieldRef"])
    for name in ("configMapKeyRef", "secretKeyRef"):
        if name in source:
            yield from _check_key_ref(f"{path}.valueFrom.{name}", source[name])


def _check_field_ref(path: str, reference: JSON) -> Causes:
    field = reference.get("fieldPath", "")
    if not field:
        yield required(f"{path}.fieldPath")
    elif field.startswith(("metadata.labels['", "metadata.annotations['")) and field.endswith("']"):
        yield from formed(f"{path}.fieldPath", field.split("'")[1].lower(), names.qualified_name)
    elif field not in FIELD_PATHS:
        yield not_supported(f"{path}.fieldPath", field, FIELD_PATHS)


def _check_key_ref(path: str, reference: JSON) -> Causes:
    if not reference.get("name"):
        yield required(f"{path}.name")
    yield from required_name(f"{path}.key", reference.get("key"), names.config_key)


def _check_env_from(path: str, source: JSON) -> Causes:
    if source.get("prefix"):
        yield from formed(f"{path}.prefix", source["prefix"], names.env_name)
    given = [name for name in ("configMapRef", "secretRef") if name in source]
    if not given:
        yield invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")
    for name in given:
        if not source[name].get("name"):
            yield required(f"{path}.{name}.name")


def _check_mounts(path: str, mounts: list[JSON], volumes: Collection[str]) -> Causes:
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        here, name, target = f"{path}[{index}]", mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            yield required(f"{here}.name")
        elif name not in volumes:
            yield not_found(f"{here}.name", name)
        if not target:
            yield required(f"{here}.mountPath")
        elif target in seen:
            yield invalid(f"{here}.mountPath", target, "must be unique")
        seen.add(target)
        yield from _check_sub_path(f"{here}.subPath", mount.get("subPath", ""))


def _check_sub_path(path: str, below: str) -> Causes:
    if below.startswith("/"):
        yield invalid(path, below, "must be a relative path")
    if ".." in below.split("/"):
        yield invalid(path, below, "must not contain '..'")


def _check_resources(path: str, resources: JSON) -> Causes:
    limits = resources.get("limits") or {}
    for name in ("limits", "requests"):
        for resource, written in (resources.get(name) or {}).items():
            amount = parse_quantity(written)
            if amount is None or amount < 0:
                yield invalid(f"{path}.{name}[{resource}]", written, "must be greater than or equal to 0")
    for resource, written in (resources.get("requests") or {}).items():
        amount, limit = parse_quantity(written), parse_quantity(limits.get(resource, ""))
        if amount is not None and limit is not None and amount > limit:
            why = f"must be less than or equal to {resource} limit of {limits[resource]}"
            yield invalid(f"{path}.requests", written, why)


def _check_probe(path: str, probe: JSON, *, any_success: bool) -> Causes:
    yield from check_handler(path, probe, HANDLERS)
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        yield from at_least_zero(f"{path}.{name}", probe.get(name))
    if not any_success and probe.get("successThreshold") != 1:
        yield invalid(f"{path}.successThreshold", probe.get("successThreshold"), "must be 1")


def check_handler(path: str, handler: JSON, kinds: Collection[str]) -> Causes:
    """Exactly one way to do it."""
    given = [kind for kind in kinds if kind in handler]
    if not given:
        yield required(path, "must specify a handler type")
    for extra in given[1:]:
        yield forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if "exec" in handler and not handler["exec"].get("command"):
        yield required(f"{path}.exec.command")
    if "httpGet" in handler:
        yield from one_of(f"{path}.httpGet.scheme", handler["httpGet"]["scheme"], ("HTTP", "HTTPS"))
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if kind in handler:
            yield from port_reference(f"{path}.{kind}.port", handler[kind].get("port"))
