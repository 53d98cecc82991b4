"""Where should a pod run? The scheduler's decision, as a pure function.

A node is fit when it is ready, schedulable, tolerated, chosen by the pod's selectors, and has room for one more pod and
its host ports. Among fit nodes the one with the fewest pods wins, then the first by name. Resource requests are not
weighed: what a node has is what its one machine has.

A pod that requires what is not decided here (affinity to other pods, a hard topology spread, resource claims) is not
placed on a guess: it stays pending, and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.controllers.objects import ContainerPort, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint

UNSCHEDULABLE = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
NOT_READY = Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")


@dataclass(frozen=True, slots=True)
class Placement:
    """The node to bind to, or (``node`` is empty) why there is none."""

    node: str = ""
    message: str = ""


def resolve_placement(pod: Pod, nodes: Iterable[Node], pods_on: Mapping[str, Sequence[Pod]]) -> Placement:
    """``pods_on``: the pods bound to each node, by the node's name."""
    unsupported = unsupported_requirement(pod)
    if unsupported:
        return Placement(message=f"cannot be scheduled: {unsupported} is not supported by this scheduler")
    candidates = sorted(nodes, key=lambda node: (len(pods_on.get(node.metadata.name, ())), node.metadata.name))
    if not candidates:
        return Placement(message="no nodes available to schedule pods")
    reasons: Counter[str] = Counter()
    for node in candidates:
        reason = misfit(pod, node, pods_on.get(node.metadata.name, ()))
        if reason is None:
            return Placement(node=node.metadata.name)
        reasons[reason] += 1
    told = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
    return Placement(message=f"0/{len(candidates)} nodes are available: {told}.")


def unsupported_requirement(pod: Pod) -> str | None:
    spec = pod.spec
    if spec.affinity.pod_affinity.required:
        return "required pod affinity"
    if spec.affinity.pod_anti_affinity.required:
        return "required pod anti-affinity"
    if any(spread.when_unsatisfiable != "ScheduleAnyway" for spread in spec.topology_spread_constraints):
        return "a topology spread constraint with whenUnsatisfiable: DoNotSchedule"
    return "a resource claim" if spec.resource_claims else None


def misfit(pod: Pod, node: Node, neighbours: Sequence[Pod]) -> str | None:
    """Why ``pod`` cannot run on ``node``, in kube-scheduler's words; None when it can."""
    if node.spec.unschedulable and not _tolerates(pod, UNSCHEDULABLE):
        return "node(s) were unschedulable"
    taints = node.spec.taints if node.ready else [*node.spec.taints, NOT_READY]
    for taint in taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not _tolerates(pod, taint):
            return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    if not _selected(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    wanted = _host_ports(pod)
    if wanted and any(wanted & _host_ports(neighbour) for neighbour in neighbours):
        return "node(s) didn't have free ports for the requested pod ports"
    room = _number(str(node.status.allocatable.get("pods", "")))
    running = sum(not neighbour.finished for neighbour in neighbours)
    return "Too many pods" if room is not None and running >= room else None


def _tolerates(pod: Pod, taint: Taint) -> bool:
    for toleration in pod.spec.tolerations:
        same_effect = toleration.effect in ("", taint.effect)
        same_key = toleration.key == taint.key or (toleration.key == "" and toleration.operator == "Exists")
        if same_effect and same_key and (toleration.operator == "Exists" or toleration.value == taint.value):
            return True
    return False


def _selected(pod: Pod, node: Node) -> bool:
    labels = node.metadata.labels
    if any(labels.get(name) != value for name, value in pod.spec.node_selector.items()):
        return False
    required = pod.spec.affinity.node_affinity.required
    return required is None or any(_term_matches(term, node) for term in required.node_selector_terms)


def _term_matches(term: NodeSelectorTerm, node: Node) -> bool:
    """All of a term's requirements; a term without any chooses nothing."""
    fields = {"metadata.name": node.metadata.name}
    met = [_meets(r, node.metadata.labels) for r in term.match_expressions]
    met += [_meets(r, fields) for r in term.match_fields]
    return bool(met) and all(met)


def _meets(requirement: NodeSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _number(value) is not None and _compare(value, requirement) > 0
        case "Lt":
            return _number(value) is not None and _compare(value, requirement) < 0
    return False


def _compare(value: str | None, requirement: NodeSelectorRequirement) -> int:
    bound = _number(requirement.values[0]) if len(requirement.values) == 1 else None
    return 0 if bound is None else (_number(value) or 0) - bound


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _host_ports(pod: Pod) -> set[tuple[str, int]]:
    """Protocol and port. (Host addresses are not told apart: a port on any of them takes it on all.)"""
    ports: list[ContainerPort] = [port for container in pod.spec.containers for port in container.ports]
    return set() if pod.finished else {(port.protocol, port.host_port) for port in ports if port.host_port}
