"""Pods and pod templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from agent.cli.kubectl.describe.page import (
    NONE,
    Page,
    or_none,
    pairs,
    write_annotations,
    write_controller,
    write_head,
    write_labels,
)
from agent.cli.kubectl.describe.related import Related
from agent.cli.kubectl.objects import age, go_value, meta, rfc1123

Json = Mapping[str, Any]


def write_pod(page: Page, pod: Json, related: Related) -> None:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    write_head(page, pod)
    if spec.get("priority") is not None:
        page.field("Priority", spec["priority"])
    page.optional("Priority Class Name", spec.get("priorityClassName"))
    page.optional("Runtime Class Name", spec.get("runtimeClassName"))
    page.optional("Service Account", spec.get("serviceAccountName"))
    page.field("Node", f"{spec['nodeName']}/{status.get('hostIP', '')}" if spec.get("nodeName") else NONE)
    if status.get("startTime"):
        page.field("Start Time", rfc1123(status["startTime"]))
    write_labels(page, pod)
    _write_phase(page, pod)
    page.optional("Reason", status.get("reason"))
    page.optional("Message", status.get("message"))
    page.field("IP", status.get("podIP", ""))
    _write_ips(page, status.get("podIPs") or [])
    write_controller(page, pod)
    if spec.get("initContainers"):
        write_containers(page, "Init Containers", spec["initContainers"], status.get("initContainerStatuses"), pod=pod)
    write_containers(page, "Containers", spec.get("containers") or [], status.get("containerStatuses"), pod=pod)
    _write_readiness_gates(page, spec.get("readinessGates") or [], status)
    _write_conditions(page, status.get("conditions") or [])
    write_volumes(page, spec.get("volumes") or [])
    page.field("QoS Class", status.get("qosClass") or _qos_class(spec))
    page.listed("Node-Selectors", pairs(spec.get("nodeSelector")))
    page.listed("Tolerations", tolerations(spec.get("tolerations") or []))


def write_template(page: Page, template: Json) -> None:
    """The pod template of a controller, two columns in."""
    spec = template.get("spec") or {}
    page.line("Pod Template:")
    page.listed("  Labels", pairs(meta(template).get("labels")))
    if meta(template).get("annotations"):
        write_annotations(page, meta(template)["annotations"], title="  Annotations")
    page.optional("Service Account", spec.get("serviceAccountName"), level=1)
    if spec.get("initContainers"):
        write_containers(page, "Init Containers", spec["initContainers"], None, space="  ")
    write_containers(page, "Containers", spec.get("containers") or [], None, space="  ")
    write_volumes(page, spec.get("volumes") or [], space="  ")
    page.optional("Priority Class Name", spec.get("priorityClassName"), level=1)
    page.listed("  Node-Selectors", pairs(spec.get("nodeSelector")))
    page.listed("  Tolerations", tolerations(spec.get("tolerations") or []))


def _write_phase(page: Page, pod: Json) -> None:
    phase = (pod.get("status") or {}).get("phase", "")
    if meta(pod).get("deletionTimestamp") and phase not in ("Failed", "Succeeded"):
        page.field("Status", f"Terminating (lasts {age(meta(pod)['deletionTimestamp'], page.now)})")
        page.field("Termination Grace Period", f"{meta(pod).get('deletionGracePeriodSeconds', 0)}s")
    else:
        page.field("Status", phase)


def _write_ips(page: Page, ips: Sequence[Json]) -> None:
    if not ips:
        page.field("IPs", NONE)
        return
    page.line("IPs:")
    for each in ips:
        page.field("IP", each.get("ip", ""), level=1)


def _write_readiness_gates(page: Page, gates: Sequence[Json], status: Json) -> None:
    if not gates:
        return
    states = {each.get("type"): each.get("status") for each in status.get("conditions") or []}
    page.line("Readiness Gates:")
    page.line("Type\tStatus", level=1)
    for gate in gates:
        page.line(f"{gate['conditionType']} \t{states.get(gate['conditionType'], NONE)} ", level=1)


def _write_conditions(page: Page, conditions: Sequence[Json]) -> None:
    if not conditions:
        return
    page.line("Conditions:")
    page.line("Type\tStatus", level=1)
    for each in conditions:
        page.line(f"{each.get('type')} \t{each.get('status')} ", level=1)


# --- containers ------------------------------------------------------------------------------------------------


def write_containers(
    page: Page,
    title: str,
    containers: Sequence[Json],
    statuses: Sequence[Json] | None,
    *,
    pod: Json | None = None,
    space: str = "",
) -> None:
    """Containers with their state (``statuses``, absent in a template). ``space``: how far in a template is set."""
    states = {status["name"]: status for status in statuses or []}
    page.line(f"{space}{title}:{'' if containers else ' ' + NONE}")
    for container in containers:
        status = states.get(container["name"])
        page.line(f"{' ' if space else ''}{container['name']}:", level=1)
        _write_image(page, container, status)
        for name in ("command", "args"):
            if container.get(name):
                page.line(f"{name.capitalize()}:", level=2)
                for part in "\n".join(container[name]).split("\n"):
                    page.line(part, level=3)
        if status is not None:
            _write_status(page, status)
        _write_resources(page, container.get("resources") or {})
        for name, title_ in (
            ("livenessProbe", "Liveness"),
            ("readinessProbe", "Readiness"),
            ("startupProbe", "Startup"),
        ):
            if container.get(name):
                page.field(title_, format_probe(container[name]), level=2)
        _write_env_from(page, container.get("envFrom") or [])
        _write_env(page, container, pod)
        _write_mounts(page, container.get("volumeMounts") or [])


def _write_image(page: Page, container: Json, status: Json | None) -> None:
    if status is not None:
        page.field("Container ID", status.get("containerID", ""), level=2)
    page.field("Image", container.get("image", ""), level=2)
    if status is not None:
        page.field("Image ID", status.get("imageID", ""), level=2)
    for title, number in (("Port", "containerPort"), ("Host Port", "hostPort")):
        text = _ports(container.get("ports") or [], number)
        page.field(f"{title}s" if "," in text else title, or_none(text), level=2)


def _ports(ports: Sequence[Json], number: str) -> str:
    named = [(f"{each.get(number, 0)}/{each.get('protocol', 'TCP')}", each.get("name")) for each in ports]
    return ", ".join(f"{text} ({name})" if name else text for text, name in named)


def _write_status(page: Page, status: Json) -> None:
    _write_state(page, "State", status.get("state") or {})
    if (status.get("lastState") or {}).get("terminated"):
        _write_state(page, "Last State", status["lastState"])
    page.field("Ready", bool(status.get("ready")), level=2)
    page.field("Restart Count", status.get("restartCount", 0), level=2)


def _write_state(page: Page, title: str, state: Json) -> None:
    if running := state.get("running"):
        page.field(title, "Running", level=2)
        page.field("Started", rfc1123(running.get("startedAt")), level=3)
    elif terminated := state.get("terminated"):
        page.field(title, "Terminated", level=2)
        page.optional("Reason", terminated.get("reason"), level=3)
        page.optional("Message", terminated.get("message"), level=3)
        page.field("Exit Code", terminated.get("exitCode", 0), level=3)
        page.optional("Signal", terminated.get("signal"), level=3)
        page.field("Started", rfc1123(terminated.get("startedAt")), level=3)
        page.field("Finished", rfc1123(terminated.get("finishedAt")), level=3)
    else:
        page.field(title, "Waiting", level=2)
        page.optional("Reason", (state.get("waiting") or {}).get("reason"), level=3)


def _write_resources(page: Page, resources: Json) -> None:
    for name in ("limits", "requests"):
        if resources.get(name):
            page.line(f"{name.capitalize()}:", level=2)
            for resource in sorted(resources[name]):
                page.field(resource, resources[name][resource], level=3)


def format_probe(probe: Json) -> str:
    """``http-get http://:8080/demo/hello delay=0s timeout=1s period=10s #success=1 #failure=3``."""
    attributes = (
        f"delay={probe.get('initialDelaySeconds', 0)}s timeout={probe.get('timeoutSeconds', 0)}s "
        f"period={probe.get('periodSeconds', 0)}s #success={probe.get('successThreshold', 0)} "
        f"#failure={probe.get('failureThreshold', 0)}"
    )
    if command := probe.get("exec"):
        return f"exec {go_value(command.get('command') or [])} {attributes}"
    if http := probe.get("httpGet"):
        path = quote(http.get("path", ""), safe="/:@!$&'()*+,;=~-._")
        return f"http-get {http.get('scheme', 'HTTP').lower()}://{_host_port(http)}{path} {attributes}"
    if tcp := probe.get("tcpSocket"):
        return f"tcp-socket {tcp.get('host', '')}:{tcp.get('port', '')} {attributes}"
    if grpc := probe.get("grpc"):
        return f"grpc <pod>:{grpc.get('port', '')} {grpc.get('service', '')} {attributes}"
    return f"unknown {attributes}"


def _host_port(http: Json) -> str:
    host = http.get("host", "")
    return f"[{host}]:{http.get('port', '')}" if ":" in host else f"{host}:{http.get('port', '')}"


def _write_env_from(page: Page, sources: Sequence[Json]) -> None:
    if not sources:
        return
    page.line("Environment Variables from:", level=2)
    for source in sources:
        kind = "Secret" if source.get("secretRef") else "ConfigMap"
        ref = source.get("secretRef") or source.get("configMapRef") or {}
        prefix = f" with prefix '{source['prefix']}'" if source.get("prefix") else ""
        page.line(f"{ref.get('name', '')}\t{kind}{prefix}\tOptional: {_flag(ref.get('optional'))}", level=3)


def _write_env(page: Page, container: Json, pod: Json | None) -> None:
    variables = container.get("env") or []
    page.line("Environment:" if variables else f"Environment:\t{NONE}", level=2)
    for each in variables:
        name, source = each["name"], each.get("valueFrom")
        if not source:
            first, *more = str(each.get("value", "")).split("\n")
            page.field(name, first, level=3)
            for part in more:
                page.line(f"\t{part}", level=3)
        elif ref := source.get("fieldRef"):
            found = field_value(pod, ref["fieldPath"]) if pod is not None else ""
            page.field(name, f"{found} ({ref.get('apiVersion', 'v1')}:{ref['fieldPath']})", level=3)
        elif ref := source.get("resourceFieldRef"):
            page.field(name, f"{_resource_value(container, ref['resource'])} ({ref['resource']})", level=3)
        elif ref := source.get("secretKeyRef"):
            text = f"<set to the key '{ref['key']}' in secret '{ref['name']}'>"
            page.field(name, f"{text}\tOptional: {_flag(ref.get('optional'))}", level=3)
        elif ref := source.get("configMapKeyRef"):
            text = f"<set to the key '{ref['key']}' of config map '{ref['name']}'>"
            page.field(name, f"{text}\tOptional: {_flag(ref.get('optional'))}", level=3)


def field_value(pod: Json, path: str) -> str:
    """A pod's field as the downward API gives it: ``metadata.name``, ``metadata.labels['a']``, ``status.podIP``."""
    base, bracket, key = path.partition("['")
    value: Any = pod
    for name in base.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if bracket and isinstance(value, Mapping):
        value = value.get(key.removesuffix("']"))
    if path == "status.podIPs" and isinstance(pod.get("status"), Mapping):
        return ",".join(each.get("ip", "") for each in pod["status"].get("podIPs") or [])
    return value if isinstance(value, str) else ""


def _resource_value(container: Json, resource: str) -> str:
    which, _, name = resource.partition(".")
    found = ((container.get("resources") or {}).get(which) or {}).get(name)
    return str(found) if found else "node allocatable" if which == "limits" else "0"


def _write_mounts(page: Page, mounts: Sequence[Json]) -> None:
    page.line("Mounts:" if mounts else f"Mounts:\t{NONE}", level=2)
    for mount in sorted(mounts, key=lambda each: str(each["mountPath"])):
        flags = "ro" if mount.get("readOnly") else "rw"
        if mount.get("subPath"):
            flags += f',path="{mount["subPath"]}"'
        page.line(f"{mount['mountPath']} from {mount['name']} ({flags})", level=3)


def _flag(value: object) -> str:
    return "true" if value else "false"


# --- the rest of the spec --------------------------------------------------------------------------------------

Fields = tuple[tuple[str, str, str], ...]  # what it is called here, its name in the API, what stands for its absence

# For each kind of volume: what it is called, and which of its fields are shown.
_VOLUMES: Mapping[str, tuple[str, Fields]] = {
    "hostPath": (
        "HostPath (bare host directory volume)",
        (("Path", "path", ""), ("HostPathType", "type", "")),
    ),
    "emptyDir": (
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        (("Medium", "medium", ""), ("SizeLimit", "sizeLimit", "<unset>")),
    ),
    "secret": (
        "Secret (a volume populated by a Secret)",
        (("SecretName", "secretName", ""), ("Optional", "optional", "false")),
    ),
    "configMap": (
        "ConfigMap (a volume populated by a ConfigMap)",
        (("Name", "name", ""), ("Optional", "optional", "false")),
    ),
    "persistentVolumeClaim": (
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        (("ClaimName", "claimName", ""), ("ReadOnly", "readOnly", "false")),
    ),
    "downwardAPI": ("DownwardAPI (a volume populated by information about the pod)", ()),
    "projected": ("Projected (a volume that contains injected data from multiple sources)", ()),
}
_PROJECTED: Mapping[str, Fields] = {
    "secret": (("SecretName", "name", ""), ("Optional", "optional", "false")),
    "configMap": (("ConfigMapName", "name", ""), ("Optional", "optional", "false")),
    "downwardAPI": (("DownwardAPI", "given", ""),),
    "serviceAccountToken": (("TokenExpirationSeconds", "expirationSeconds", ""),),
}


def write_volumes(page: Page, volumes: Sequence[Json], *, space: str = "") -> None:
    if not volumes:
        page.line(f"{space}Volumes:\t{NONE}")
        return
    page.line(f"{space}Volumes:")
    for volume in volumes:
        page.line(f"{' ' if space else ''}{volume['name']}:", level=1)
        kind = next((name for name in volume if name != "name"), "")
        title, fields = _VOLUMES.get(kind, (kind or "<unknown>", ()))
        page.field("Type", title, level=2)
        _write_fields(page, volume.get(kind) or {}, fields)
        if kind == "downwardAPI":
            _write_items(page, volume[kind].get("items") or [])
        for source in (volume[kind].get("sources") or []) if kind == "projected" else []:
            for name, inner in source.items():
                _write_fields(page, {"given": True, **inner}, _PROJECTED.get(name, ()))


def _write_fields(page: Page, source: Json, fields: Fields) -> None:
    for label, name, default in fields:
        value = source.get(name)
        page.field(label, default if value is None else go_value(value), level=2)


def _write_items(page: Page, items: Sequence[Json]) -> None:
    page.line("Items:", level=2)
    for item in items:
        what = (item.get("fieldRef") or {}).get("fieldPath") or (item.get("resourceFieldRef") or {}).get("resource")
        page.line(f"{what} -> {item['path']}", level=3)


def tolerations(listed: Sequence[Json]) -> list[str]:
    return [_toleration(each) for each in sorted(listed, key=lambda each: str(each.get("key", "")))]


def _toleration(each: Json) -> str:
    text = str(each.get("key", ""))
    text += f"={each['value']}" if each.get("value") else ""
    text += f":{each['effect']}" if each.get("effect") else ""
    if each.get("operator") == "Exists" and not each.get("value"):
        text += " op=Exists" if text else "op=Exists"
    if each.get("tolerationSeconds") is not None:
        text += f" for {each['tolerationSeconds']}s"
    return text


def _qos_class(spec: Json) -> str:
    """By the rule of pkg/apis/core/v1/helper/qos: no resources, equal requests and limits everywhere, or in between."""
    resources = [container.get("resources") or {} for container in spec.get("containers") or []]
    if not any(each.get("requests") or each.get("limits") for each in resources):
        return "BestEffort"
    guaranteed = all(
        set(each.get("limits") or {}) >= {"cpu", "memory"}
        and all(
            (each.get("requests") or each["limits"]).get(name) == each["limits"][name] for name in ("cpu", "memory")
        )
        for each in resources
    )
    return "Guaranteed" if guaranteed else "Burstable"
