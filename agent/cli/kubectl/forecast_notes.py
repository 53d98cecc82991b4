"""What is said of an edit besides its effects on packets: what is still to be decided, and by whom. Pure.

Pods that a ReplicaSet is still to make have no address yet; the server chooses anew what it chose for a dry run; a load
balancer's address may come from a controller that is not podwire's. Where something cannot be foretold, that is said
and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.objects import Obj, controller_of, meta
from agent.cli.kubectl.prediction import Known, assign
from agent.kube.informer import Key

if TYPE_CHECKING:
    from agent.cli.kubectl.edits import Edit

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicationController", "Job", "CronJob")


def notes_of(known: Known, edit: Edit) -> Iterator[str]:
    """Sentences, in the order in which they are shown."""
    if edit.done == "unchanged":
        return
    if notes := _NOTES.get(edit.kind):
        yield from notes(known, edit)
    elif edit.kind in WORKLOADS:
        yield f"not foretold: what a {edit.kind} does to traffic, it does through its pods"


def _of_service(known: Known, edit: Edit) -> Iterator[str]:
    if edit.after is None:
        return
    if chosen := sorted(_chosen(edit.after) - _chosen(edit.before or {}) - _chosen(edit.manifest)):
        yield f"chosen by the server for this dry run, and chosen anew when it is made: {', '.join(chosen)}"
    if _spec(edit.after).get("type") != "LoadBalancer":
        return
    assigned, problems = assign(known, Key(edit.namespace, edit.name), edit.after)
    yield from problems
    if not problems and not ((assigned.get("status") or {}).get("loadBalancer") or {}).get("ingress"):
        yield "its load balancer address is still to come from a controller, and not foretold"


def _of_pod(known: Known, edit: Edit) -> Iterator[str]:
    namespace = edit.namespace
    if edit.after is None:
        if controller_of(edit.before or {}):
            yield "its controller makes another pod in its place, which serves once it is ready"
    elif edit.before is None and (names := _names(known, namespace, meta(edit.after).get("labels"))):
        yield f"it becomes an endpoint of {names} once it is ready"


def _of_replicaset(known: Known, edit: Edit) -> Iterator[str]:
    """Pods come and go one by one, each with its own address; which, only its controller decides."""
    was, now = _replicas(edit.before), _replicas(edit.after)
    template = _template(edit.after or edit.before or {})
    services = _names(known, edit.namespace, meta(template).get("labels"))
    if edit.before and edit.after and _template(edit.before) != _template(edit.after):
        yield "the template is for pods that are still to be made; those that run stay as they are"
    if was == now:
        return
    change = f"replicas {was} -> {now}"
    if not services:
        yield f"{change}: no Service selects its pods"
    elif now > was:
        more = "1 more pod becomes" if now - was == 1 else f"{now - was} more pods become"
        yield f"{change}: endpoints of {services} come as {more} ready"
    else:
        ended = "1 pod ends" if was - now == 1 else f"{was - now} pods end"
        yield f"{change}: {ended}, each with its endpoint of {services} and the connections to it"


_NOTES: Mapping[str, Callable[[Known, Edit], Iterator[str]]] = {
    "Service": _of_service,
    "Pod": _of_pod,
    "ReplicaSet": _of_replicaset,
}


def _names(known: Known, namespace: str, labels: Mapping[str, str] | None) -> str:
    """The Services that select pods with these labels, in words; "" for none."""
    return " and ".join(f"Service {key.name}" for key in sorted(known.selecting(namespace, labels or {})))


def _chosen(service: Obj) -> set[str]:
    """What the server chooses where the user does not."""
    spec = _spec(service)
    found = {f"ClusterIP {ip}" for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"}
    found |= {f"NodePort {port['nodePort']}" for port in spec.get("ports") or [] if port.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        found.add(f"health check port {spec['healthCheckNodePort']}")
    return found


def _replicas(obj: Obj | None) -> int:
    """The API's default is one (apps/v1 ReplicaSetSpec)."""
    return 0 if obj is None else int(_spec(obj).get("replicas", 1))


def _template(obj: Obj) -> Obj:
    found: dict[str, Any] = _spec(obj).get("template") or {}
    return found


def _spec(obj: Obj) -> Obj:
    found: dict[str, Any] = obj.get("spec") or {}
    return found
