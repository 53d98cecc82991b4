"""SOURCE and TARGET: words of the command line -> who sends, and to which address and port.

    SOURCE   pod/web-1, default/web-1, web-1 (a pod) | node | outside | an address
    TARGET   svc/web, web.default.svc.cluster.local, default/web, web (a Service, else a pod) | pod/web-1 | node | an address
             then :PORT, a number or a port's name, and /tcp (if nothing is said), /udp or /sctp

Parsing is pure; what exists is asked of ``Objects``. Errors are TraceFailure and say what could have been meant.
"""  # noqa: E501 (a table)

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from agent.cli.tracing.node import TraceFailure
from rules.policy import Frontends
from rules.snapshot import Family, Service, ServiceName, ServicePort, Snapshot

PROTOCOLS = ("tcp", "udp", "sctp")
_KINDS = {word: kind for kind, words in {
    "pod": ("pod", "pods", "po"), "service": ("svc", "service", "services")}.items() for word in words}  # fmt: skip
_PROTOCOL = re.compile(r"(.+)/(tcp|udp|sctp)", re.IGNORECASE)
_SERVICE_NAME = re.compile(r"([^.]+)\.([^.]+)(\.svc(\..+)?)?\.?")


@dataclass(frozen=True, slots=True)
class Words:
    """``kind``: pod, service, address, node, outside; empty: not said. ``protocol``: empty where it was not said."""

    kind: str
    namespace: str
    name: str
    port: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is needed of a v1 Pod. ``ports``: of its containers, (name, number, protocol)."""

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    ports: tuple[tuple[str, int, str], ...] = ()

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a packet is sent. ``what`` is how people call it."""

    what: str
    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}/{self.protocol.upper()}"


@dataclass(frozen=True, slots=True)
class Source:
    """Who sends. ``address`` is empty for the node itself, which chooses one by its routes.

    ``kind``: pod, node, outside, or somebody of whom only the address is known (address)."""

    kind: str
    what: str
    address: str = ""
    pod: Pod | None = None


class Objects(Protocol):
    """What is asked of the API besides the Snapshot."""

    def find_pod(self, namespace: str, name: str) -> Pod | None: ...

    def pods_here(self) -> Iterable[Pod]:
        """The pods of this node."""
        ...


def parse_words(text: str) -> Words:
    """Raises TraceFailure."""
    protocol = ""
    if (match := _PROTOCOL.fullmatch(text)) and match[1].lower() not in _KINDS:
        text, protocol = match[1], match[2].lower()
    name, port = _split_port(text)
    if not name or (port is None):
        raise TraceFailure(f"cannot read {text!r}: expected a pod, a Service, 'node' or an address, and :PORT")
    if name in ("node", "outside"):
        return Words(name, "", name, port, protocol)
    if _is_address(name):
        return Words("address", "", str(ipaddress.ip_address(name)), port, protocol)
    first, slash, rest = name.partition("/")
    if slash and first.lower() in _KINDS:
        namespace, slash, rest = rest.rpartition("/")
        return Words(_KINDS[first.lower()], namespace, rest, port, protocol)
    return Words("", first if slash else "", rest if slash else first, port, protocol)


def parse_pod(obj: Mapping[str, Any]) -> Pod:
    """A v1 Pod as JSON."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    ips = [entry.get("ip") for entry in status.get("podIPs") or []] or [status.get("podIP")]
    ports = [port for container in spec.get("containers") or [] for port in container.get("ports") or []]
    return Pod(
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=meta.get("uid", ""),
        node=spec.get("nodeName") or "",
        addresses=tuple(ip for ip in ips if ip),
        host_network=bool(spec.get("hostNetwork")),
        ports=tuple((p.get("name") or "", p["containerPort"], p.get("protocol") or "TCP") for p in ports),
    )


def resolve_target(
    words: Words, *, snapshot: Snapshot, frontends: Frontends, objects: Objects, namespace: str
) -> Target:
    """Raises TraceFailure."""
    if words.kind == "outside":
        raise TraceFailure("cannot trace to 'outside': give the address of somebody there")
    if words.kind == "node":
        if not snapshot.node.addresses:
            raise TraceFailure(f"the API knows no address of node {snapshot.node.name}: give the address itself")
        return Target(f"node {snapshot.node.name}", snapshot.node.addresses[0], _number(words), _protocol(words))
    if words.kind == "address":
        return Target("", words.name, _number(words), _protocol(words))
    if words.kind != "pod" and (service := _find_service(words, snapshot, namespace)) is not None:
        return _service_target(words, service, frontends)
    if words.kind != "service" and (pod := _find_pod(words, objects, namespace)) is not None:
        return _pod_target(words, pod)
    raise _unknown(words, snapshot, objects, namespace)


def resolve_source(words: Words, *, family: Family, objects: Objects, local: Iterable[str], namespace: str) -> Source:
    """The sender, with an address of a family. ``local``: the node's own addresses. Raises TraceFailure."""
    if words.port or words.protocol:
        raise TraceFailure("a source has no port: the kernel chooses it; the port belongs to the target")
    if words.kind in ("node", "outside"):
        return Source(words.kind, "this node itself" if words.kind == "node" else "somebody outside")
    if words.kind == "service":
        raise TraceFailure("a Service sends nothing: give one of its pods as the source")
    if words.kind == "address":
        return _address_source(words.name, family, objects, local)
    pod = _find_pod(words, objects, namespace)
    if pod is None:
        where = f"{words.namespace or namespace}/{words.name}"
        near = _near(words.name, [pod.name for pod in objects.pods_here()])
        raise TraceFailure(f"there is no pod {where}{near}; a source is a pod, 'node', 'outside' or an address")
    if pod.host_network:
        return Source("node", f"{pod}, which has this node's network", pod=pod)
    return Source("pod", str(pod), _pod_address(pod, family), pod)


def _address_source(address: str, family: Family, objects: Objects, local: Iterable[str]) -> Source:
    if ipaddress.ip_address(address).version != family:
        raise TraceFailure(f"cannot send from {address}: the target's address is of the other IP family")
    if address in set(local):
        return Source("node", "this node itself", address)
    for pod in objects.pods_here():
        if address in pod.addresses and not pod.host_network:
            return Source("pod", str(pod), address, pod)
    return Source("address", "somebody", address)


def _find_service(words: Words, snapshot: Snapshot, namespace: str) -> Service | None:
    found = snapshot.services.get(ServiceName(words.namespace or namespace, words.name))
    if found is None and not words.namespace and (match := _SERVICE_NAME.fullmatch(words.name)):
        found = snapshot.services.get(ServiceName(match[2], match[1]))
    return found


def _find_pod(words: Words, objects: Objects, namespace: str) -> Pod | None:
    return objects.find_pod(words.namespace or namespace, words.name)


def _service_target(words: Words, service: Service, frontends: Frontends) -> Target:
    skipped = frontends.services[service.name].skipped
    if skipped:
        raise TraceFailure(f"Service {service.name} has no rules: {skipped}; trace to one of its pods instead")
    port = _service_port(words, service)
    return Target(f"Service {service.name}", service.cluster_ips[0], port.port, port.protocol.lower())


def _service_port(words: Words, service: Service) -> ServicePort:
    """The port that is meant; where no protocol was said, TCP's, else the only one there is."""
    asked = [p for p in service.ports if not words.protocol or p.protocol.lower() == words.protocol]
    found = [p for p in asked if words.port in ("", p.name, str(p.port))]
    if len(found) > 1 and words.port:
        found = [p for p in found if p.protocol == "TCP"]
    if len(found) == 1:
        return found[0]
    has = ", ".join(f"{p.port}/{p.protocol}{f' ({p.name})' if p.name else ''}" for p in service.ports)
    if any(words.port == str(p.node_port) for p in service.ports):
        raise TraceFailure(f"{words.port} is the NodePort of {service.name}: trace to node:{words.port}, or to {has}")
    why = f"no port {words.port}{f'/{words.protocol}' if words.protocol else ''}" if words.port else "several ports"
    raise TraceFailure(f"Service {service.name} has {why}: it has {has}")


def _pod_target(words: Words, pod: Pod) -> Target:
    if not pod.addresses:
        raise TraceFailure(f"{pod} has no address yet")
    declared = [p for p in pod.ports if not words.protocol or p[2].lower() == words.protocol]
    if not words.port and len(declared) == 1:
        return Target(str(pod), pod.addresses[0], declared[0][1], declared[0][2].lower())
    for name, number, protocol in declared:
        if words.port and words.port == name:
            return Target(str(pod), pod.addresses[0], number, protocol.lower())
    return Target(str(pod), pod.addresses[0], _number(words), _protocol(words))


def _pod_address(pod: Pod, family: Family) -> str:
    for address in pod.addresses:
        if ipaddress.ip_address(address).version == family:
            return address
    raise TraceFailure(f"{pod} has no IPv{family.value} address{' yet' if not pod.addresses else ''}")


def _unknown(words: Words, snapshot: Snapshot, objects: Objects, namespace: str) -> TraceFailure:
    where = words.namespace or namespace
    services = [name.name for name in snapshot.services if name.namespace == where]
    pods = [pod.name for pod in objects.pods_here() if pod.namespace == where]
    kinds = {"service": "Service", "pod": "pod", "": "Service or pod"}[words.kind]
    names = [*(services if words.kind != "pod" else ()), *(pods if words.kind != "service" else ())]
    return TraceFailure(f"there is no {kinds} {where}/{words.name}{_near(words.name, names)}")


def _near(name: str, names: Iterable[str]) -> str:
    found = get_close_matches(name, list(names), 3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _number(words: Words) -> int:
    if words.port.isascii() and words.port.isdigit() and 0 < int(words.port) < 65536:
        return int(words.port)
    what = f"{words.port!r} is no port" if words.port else "it has no port"
    raise TraceFailure(f"cannot trace to {words.name}: {what}; give :PORT, 1 to 65535")


def _protocol(words: Words) -> str:
    return words.protocol or "tcp"


def _split_port(text: str) -> tuple[str, str | None]:
    """The name and what follows its colon; None: that cannot be told."""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        return name, port.removeprefix(":") if not port or port.startswith(":") else None
    if _is_address(text):
        return text, ""
    name, colon, port = text.rpartition(":")
    if not colon:
        return text, ""
    return name, port if port and ":" not in name else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
