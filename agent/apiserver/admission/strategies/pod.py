"""Pods: born Pending, and hardly changeable afterwards.

A running pod is not reconfigured, it is replaced. Only images, the deadline, more tolerations and a few more may
change (apis/core/validation: ValidatePodUpdate); everything else in the spec is refused, and the answer lists what
was touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from agent.apiserver.admission import names
from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import forbidden, invalid
from agent.apiserver.admission.quantity import parse_quantity
from agent.apiserver.admission.rules import Causes, formed
from agent.apiserver.admission.strategies.base import Strategy
from agent.apiserver.admission.strategies.pod_defaults import containers_of, default_pod, default_pod_spec
from agent.apiserver.admission.strategies.pod_rules import check_pod_spec
from agent.apiserver.registry import JSON

MAY_CHANGE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
GATED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "SchedulingGated",
    "message": "Scheduling is blocked due to non-empty scheduling gates",
}


class PodStrategy(Strategy):
    def default(self, obj: JSON) -> None:
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        default_pod(spec)

    def prepare_create(self, obj: JSON, context: Context) -> None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj["spec"])}
        if obj["spec"].get("schedulingGates"):
            obj["status"]["conditions"] = [dict(GATED)]

    def validate(self, obj: JSON) -> Causes:
        return check_pod_spec(obj["spec"])

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        return check_pod_update(new["spec"], old["spec"])

    def validate_status(self, new: JSON, old: JSON) -> Causes:
        status = new.get("status") or {}
        for index, entry in enumerate(status.get("podIPs") or []):
            yield from formed(f"status.podIPs[{index}].ip", entry.get("ip", ""), names.ip)


def qos_class(spec: JSON) -> str:
    """Guaranteed, Burstable or BestEffort, from the requests and limits of CPU and memory."""
    pairs = []
    for container in containers_of(spec):
        resources = container.get("resources") or {}
        for name in ("cpu", "memory"):
            request, limit = ((resources.get(part) or {}).get(name) for part in ("requests", "limits"))
            pairs.append((parse_quantity(request or 0) or None, parse_quantity(limit or 0) or None))
    if all(request is None and limit is None for request, limit in pairs):
        return "BestEffort"
    guaranteed = all(limit is not None and request == limit for request, limit in pairs)
    return "Guaranteed" if guaranteed else "Burstable"


def check_pod_update(new: JSON, old: JSON) -> Causes:
    """What may change has to change in the right way; what may not, not at all."""
    for group in ("containers", "initContainers"):
        if len(new.get(group) or []) != len(old.get(group) or []):
            yield forbidden(f"spec.{group}", "pod updates may not add or remove containers")
            return
    yield from _check_deadline(new, old)
    tolerations = new.get("tolerations") or []
    if any(
        _bare(kept) not in [_bare(toleration) for toleration in tolerations] for kept in old.get("tolerations") or []
    ):
        yield forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    added = [gate for gate in new.get("schedulingGates") or [] if gate not in (old.get("schedulingGates") or [])]
    for gate in added:
        why = f"only deletion is allowed, but found new scheduling gate '{gate.get('name')}'"
        yield forbidden("spec.schedulingGates", why)
    changed = list(_differences(_with_allowed_changes(new, old), old, "spec"))
    if changed:
        yield forbidden("spec", f"{MAY_CHANGE}; changed: {', '.join(changed)}")


def _bare(toleration: JSON) -> JSON:
    return {name: value for name, value in toleration.items() if name != "tolerationSeconds"}


def _check_deadline(new: JSON, old: JSON) -> Causes:
    path, now, then = "spec.activeDeadlineSeconds", new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if then is not None and now is None:
        yield invalid(path, None, "must not update from a positive integer to nil value")
    elif then is not None and now is not None and now > then:
        yield invalid(path, now, "must be less than or equal to previous value")


def _with_allowed_changes(new: JSON, old: JSON) -> JSON:
    """The new spec with every permitted change undone: what still differs is not permitted."""
    undone = deepcopy(new)
    for name in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        _undo(undone, old, name)
    if old.get("terminationGracePeriodSeconds", 0) < 0 and new.get("terminationGracePeriodSeconds") == 1:
        _undo(undone, old, "terminationGracePeriodSeconds")
    for group in ("containers", "initContainers"):
        for container, before in zip(undone.get(group) or [], old.get(group) or [], strict=True):
            _undo(container, before, "image")
    return undone


def _undo(new: JSON, old: JSON, name: str) -> None:
    new.pop(name, None)
    if name in old:
        new[name] = old[name]


def _differences(new: Any, old: Any, path: str) -> Iterator[str]:
    """Paths at which two JSON values differ."""
    if isinstance(new, dict) and isinstance(old, dict):
        for name in sorted(new.keys() | old.keys()):
            yield from _differences(new.get(name), old.get(name), f"{path}.{name}")
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for index, (item, before) in enumerate(zip(new, old, strict=True)):
            yield from _differences(item, before, f"{path}[{index}]")
    elif new != old:
        yield path
