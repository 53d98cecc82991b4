"""ReplicaSets: so many pods, of this form, chosen by these labels (apis/apps/validation: ValidateReplicaSet)."""

from __future__ import annotations

from agent.apiserver.admission.context import Context
from agent.apiserver.admission.errors import forbidden, invalid, not_supported, required
from agent.apiserver.admission.rules import Causes, at_least_zero, label_selector, labels, same, selects
from agent.apiserver.admission.strategies.base import Strategy
from agent.apiserver.admission.strategies.pod_defaults import default_pod_spec
from agent.apiserver.admission.strategies.pod_rules import check_pod_spec
from agent.apiserver.registry import JSON

COUNTS = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


class ReplicaSetStrategy(Strategy):
    def default(self, obj: JSON) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        template = spec.setdefault("template", {})
        default_pod_spec(template.setdefault("spec", {}))
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("labels") and (template.get("metadata") or {}).get("labels"):
            metadata["labels"] = dict(template["metadata"]["labels"])

    def prepare_create(self, obj: JSON, context: Context) -> None:
        obj["status"] = {"replicas": 0}

    def validate(self, obj: JSON) -> Causes:
        spec = obj["spec"]
        yield from at_least_zero("spec.replicas", spec["replicas"])
        yield from at_least_zero("spec.minReadySeconds", spec.get("minReadySeconds"))
        selector = spec.get("selector")
        if selector is None:
            yield required("spec.selector")
        else:
            yield from label_selector("spec.selector", selector)
            if not selector.get("matchLabels") and not selector.get("matchExpressions"):
                yield invalid("spec.selector", selector, "empty selector is invalid for deployment")
        yield from check_template(spec["template"], selector)

    def validate_update(self, new: JSON, old: JSON, subresource: str | None) -> Causes:
        return same("spec.selector", new["spec"].get("selector"), old["spec"].get("selector"))

    def validate_status(self, new: JSON, old: JSON) -> Causes:
        status = new.get("status") or {}
        for name in COUNTS:
            yield from at_least_zero(f"status.{name}", status.get(name))
        for name in COUNTS[1:]:
            if name in status and status[name] > status.get("replicas", 0):
                yield invalid(f"status.{name}", status[name], "cannot be greater than status.replicas")
        if status.get("availableReplicas", 0) > status.get("readyReplicas", 0):
            yield invalid(
                "status.availableReplicas", status["availableReplicas"], "cannot be greater than readyReplicas"
            )


def check_template(template: JSON, selector: JSON | None) -> Causes:
    """The pods that will be made must be chosen by the selector, and must be meant to run for good."""
    path, spec = "spec.template", template["spec"]
    pod_labels = (template.get("metadata") or {}).get("labels") or {}
    yield from labels(f"{path}.metadata.labels", pod_labels)
    if selector and _well_formed(selector) and not selects(selector, pod_labels):
        yield invalid(f"{path}.metadata.labels", pod_labels, "`selector` does not match template `labels`")
    yield from check_pod_spec(spec, f"{path}.spec")
    if spec["restartPolicy"] != "Always":
        yield not_supported(f"{path}.spec.restartPolicy", spec["restartPolicy"], ["Always"])
    if spec.get("activeDeadlineSeconds") is not None:
        yield forbidden(f"{path}.spec.activeDeadlineSeconds", "activeDeadlineSeconds in ReplicaSet is not Supported")


def _well_formed(selector: JSON) -> bool:
    return not list(label_selector("", selector))
