"""Objects from flags: what ``run``, ``expose`` and ``create KIND`` send. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import Obj, meta, name_of

MAX_NAME = 63  # of a Service: it becomes a DNS label


def parse_pairs(text: str | None, *, what: str) -> dict[str, str]:
    """``a=b,c=d``."""
    return dict(_pair(part, what) for part in (text or "").split(",") if part)


def _pair(part: str, what: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals or not name:
        raise client_error(f"unexpected {what} {part!r}: expected name=value")
    return name, value


@dataclass(frozen=True, slots=True)
class PodFlags:
    """``run``'s flags."""

    image: str
    args: tuple[str, ...] = ()
    command: bool = False
    env: tuple[str, ...] = ()
    port: int | None = None
    labels: str | None = None
    restart: str = "Always"
    stdin: bool = False
    tty: bool = False


def pod(name: str, flags: PodFlags) -> Obj:
    """The Pod that ``run NAME --image`` makes."""
    container: Obj = {"name": name, "image": flags.image}
    if flags.args:
        container["command" if flags.command else "args"] = list(flags.args)
    if flags.env:
        pairs = [_pair(each, "environment variable") for each in flags.env]
        container["env"] = [{"name": key, "value": value} for key, value in pairs]
    if flags.port:
        container["ports"] = [{"containerPort": flags.port}]
    if flags.stdin:
        container |= {"stdin": True, "stdinOnce": True}
    if flags.tty:
        container["tty"] = True
    labels = parse_pairs(flags.labels, what="label") if flags.labels else {"run": name}
    spec = {"containers": [container], "restartPolicy": flags.restart, "dnsPolicy": "ClusterFirst"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


# --- expose ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExposeFlags:
    """``expose``'s flags; what is empty is found in the object."""

    name: str = ""
    port: str = ""
    target_port: str = ""
    protocol: str = ""
    type: str = ""
    labels: str = ""
    selector: str = ""
    cluster_ip: str = ""
    external_ip: str = ""
    session_affinity: str = ""


def exposing_service(obj: Mapping[str, Any], flags: ExposeFlags) -> Obj:
    """The Service that ``expose`` makes for a Pod, ReplicaSet, Deployment or Service. Raises KubectlError."""
    if obj["kind"] not in ("Pod", "Service", "ReplicaSet", "ReplicationController", "Deployment"):
        raise client_error(f"cannot expose a {obj['kind']}")
    spec: Obj = {
        "selector": parse_pairs(flags.selector, what="selector") if flags.selector else selector_of(obj),
        "ports": _service_ports(obj, flags),
    }
    if flags.type:
        spec["type"] = flags.type
    if flags.cluster_ip:
        spec["clusterIP"] = flags.cluster_ip
    if flags.external_ip:
        spec["externalIPs"] = [flags.external_ip]
    if flags.session_affinity:
        spec["sessionAffinity"] = flags.session_affinity
    metadata: Obj = {"name": flags.name or name_of(obj)[:MAX_NAME]}
    if labels := parse_pairs(flags.labels, what="label") or dict(meta(obj).get("labels") or {}):
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def selector_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """The labels that choose an object's pods."""
    problem = "couldn't retrieve selectors via --selector flag or introspection"
    if obj["kind"] == "Pod":
        if not meta(obj).get("labels"):
            raise client_error(f"{problem}: the pod has no labels and cannot be exposed")
        return dict(meta(obj)["labels"])
    selector = (obj.get("spec") or {}).get("selector") or {}
    if obj["kind"] in ("Service", "ReplicationController"):
        if not selector:
            raise client_error(f"{problem}: the service has no pod selector set")
        return dict(selector)
    if selector.get("matchExpressions"):
        raise client_error(f"{problem}: couldn't convert expressions, a Service's selector has labels only")
    if not selector.get("matchLabels"):
        raise client_error(f"{problem}: the {obj['kind']} has no label selector")
    return dict(selector["matchLabels"])


def pod_spec_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """The spec of the pod an object is, or makes."""
    spec: Mapping[str, Any] = obj.get("spec") or {}
    return spec if obj["kind"] == "Pod" else (spec.get("template") or {}).get("spec") or {}


def _service_ports(obj: Mapping[str, Any], flags: ExposeFlags) -> list[Obj]:
    known = ports_of(obj)
    wanted = [each for each in flags.port.split(",") if each] if flags.port else list(known)
    if not wanted:
        raise client_error("couldn't find port via --port flag or introspection")
    pairs = [(port, protocol) for port in wanted for protocol in _protocols(known, port, flags.protocol)]
    return [
        {
            **({"name": f"port-{number}"} if len(pairs) > 1 else {}),
            "port": _number(port),
            "protocol": protocol,
            "targetPort": _int_or_name(flags.target_port or port),
        }
        for number, (port, protocol) in enumerate(pairs, start=1)
    ]


def _protocols(known: Mapping[str, Sequence[str]], port: str, given: str) -> Sequence[str]:
    return [given.upper()] if given else known.get(port) or ["TCP"]


def ports_of(obj: Mapping[str, Any]) -> dict[str, list[str]]:
    """The ports an object declares, with their protocols, in order."""
    found: dict[str, list[str]] = {}
    if obj["kind"] == "Service":
        declared = [(each["port"], each.get("protocol")) for each in obj["spec"].get("ports") or []]
    else:
        containers = pod_spec_of(obj).get("containers") or []
        declared = [(p["containerPort"], p.get("protocol")) for c in containers for p in c.get("ports") or []]
    for port, protocol in declared:
        protocols = found.setdefault(str(port), [])
        if (protocol or "TCP") not in protocols:
            protocols.append(protocol or "TCP")
    return found


def _number(text: str) -> int:
    if not text.isdigit():
        raise client_error(f'invalid port "{text}": expected a number')
    return int(text)


def _int_or_name(text: str) -> int | str:
    return int(text) if text.isdigit() else text


# --- create ----------------------------------------------------------------------------------------------------


def namespace(name: str) -> Obj:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


@dataclass(frozen=True, slots=True)
class ServiceFlags:
    """``create service TYPE``'s flags; ``tcp`` holds ``port[:targetPort]``."""

    type: str
    tcp: tuple[str, ...] = ()
    cluster_ip: str = ""
    node_port: int = 0
    external_name: str = ""


def service(name: str, flags: ServiceFlags) -> Obj:
    """A Service for the pods labelled ``app=NAME``, as ``create service`` makes it."""
    if not flags.tcp and not flags.external_name and flags.cluster_ip != "None":
        raise client_error("at least one tcp port specifier must be provided")
    spec: Obj = {"type": flags.type, "selector": {"app": name}, "ports": [_tcp_port(each, flags) for each in flags.tcp]}
    if flags.cluster_ip:
        spec["clusterIP"] = flags.cluster_ip
    if flags.external_name:
        spec["externalName"] = flags.external_name
    if not spec["ports"]:
        del spec["ports"]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def _tcp_port(text: str, flags: ServiceFlags) -> Obj:
    port, _, target = text.partition(":")
    made = {
        "name": text.replace(":", "-"),
        "port": _number(port),
        "protocol": "TCP",
        "targetPort": _int_or_name(target or port),
    }
    return {**made, "nodePort": flags.node_port} if flags.node_port else made


@dataclass(frozen=True, slots=True)
class Data:
    """The entries of a ConfigMap or Secret: texts, and bytes that are not text."""

    text: dict[str, str] = field(default_factory=dict)
    binary: dict[str, bytes] = field(default_factory=dict)


def data_from(literals: Iterable[str], files: Iterable[tuple[str, bytes]]) -> Data:
    """From ``--from-literal`` arguments and ``--from-file`` contents. Raises KubectlError for a name given twice."""
    data = Data()
    for name, value in (_pair(each, "literal") for each in literals):
        _once(data, name)
        data.text[name] = value
    for name, content in files:
        _once(data, name)
        try:
            data.text[name] = content.decode()
        except UnicodeDecodeError:
            data.binary[name] = content
    return data


def _once(data: Data, name: str) -> None:
    if name in data.text or name in data.binary:
        raise client_error(f'cannot add key "{name}", another key by that name already exists')


def config_map(name: str, data: Data) -> Obj:
    import base64

    made: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    if data.text:
        made["data"] = data.text
    if data.binary:
        made["binaryData"] = {key: base64.b64encode(value).decode() for key, value in data.binary.items()}
    return made


def secret(name: str, data: Data, *, kind: str = "Opaque") -> Obj:
    import base64

    contents = {key: value.encode() for key, value in data.text.items()} | data.binary
    encoded = {key: base64.b64encode(value).decode() for key, value in contents.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": encoded}
