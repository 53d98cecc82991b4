"""What a pod spec means where it says nothing (apis/core/v1/defaults.go), for pods and for pod templates alike."""

from __future__ import annotations

from collections.abc import Iterator

from agent.apiserver.registry import JSON

PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
WORLD_READABLE = 0o644
WITH_MODE = ("secret", "configMap", "downwardAPI", "projected")


def containers_of(spec: JSON) -> Iterator[JSON]:
    """All containers, init containers first."""
    for name in CONTAINERS:
        yield from spec.get(name) or []


def default_pod_spec(spec: JSON) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for container in containers_of(spec):
        default_container(container)
    if spec.get("hostNetwork"):
        _default_host_ports(spec)
    for volume in spec.get("volumes") or []:
        _default_volume(volume)
    _default_service_account(spec)


def default_pod(spec: JSON) -> None:
    """Only for pods, not for templates: there these stay open until a pod is made."""
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    if not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"] = "default"
    for container in containers_of(spec):
        _default_requests(container)


def default_container(container: JSON) -> None:
    container.setdefault("imagePullPolicy", pull_policy(container.get("image", "")))
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    _default_resources(container.setdefault("resources", {}))
    for port in container.get("ports") or []:
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or []:
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in PROBES:
        if name in container:
            _default_probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_http(hook)


def pull_policy(image: str) -> str:
    """``Always`` for the tag ``latest``, named or implied; a digest needs no second look."""
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2] or ("" if digest else "latest")
    return "Always" if tag == "latest" else "IfNotPresent"


def _default_resources(resources: JSON) -> None:
    """Quantities may be written as numbers; they are kept as strings."""
    for name in ("limits", "requests"):
        for resource, amount in (resources.get(name) or {}).items():
            resources[name][resource] = str(amount)


def _default_requests(container: JSON) -> None:
    """A limit without a request is a request too."""
    resources = container["resources"]
    for resource, amount in (resources.get("limits") or {}).items():
        resources.setdefault("requests", {}).setdefault(resource, amount)


def _default_probe(probe: JSON) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    _default_http(probe)
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_http(handler: JSON) -> None:
    if "httpGet" in handler:
        handler["httpGet"]["path"] = handler["httpGet"].get("path") or "/"
        handler["httpGet"]["scheme"] = handler["httpGet"].get("scheme") or "HTTP"


def _default_host_ports(spec: JSON) -> None:
    """On the node's own network a container port is a host port."""
    for container in containers_of(spec):
        for port in container.get("ports") or []:
            if not port.get("hostPort") and port.get("containerPort"):
                port["hostPort"] = port["containerPort"]


def _default_volume(volume: JSON) -> None:
    if volume.keys() <= {"name"}:
        volume["emptyDir"] = {}
    for name in WITH_MODE:
        if name in volume:
            volume[name].setdefault("defaultMode", WORLD_READABLE)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")


def _default_service_account(spec: JSON) -> None:
    """``serviceAccount`` is the old name of ``serviceAccountName``; both are served."""
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name
