"""Controllers of pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agent.cli.kubectl.describe.page import Page, format_selector, write_controller, write_head, write_labels
from agent.cli.kubectl.describe.pods import write_template
from agent.cli.kubectl.describe.related import Related
from agent.cli.kubectl.objects import controller_of, meta


def write_replicaset(page: Page, replicaset: Mapping[str, Any], related: Related) -> None:
    spec, status = replicaset.get("spec") or {}, replicaset.get("status") or {}
    write_head(page, replicaset)
    page.field("Selector", format_selector(spec.get("selector")))
    write_labels(page, replicaset)
    write_controller(page, replicaset)
    page.field("Replicas", f"{status.get('replicas', 0)} current / {spec.get('replicas', 1)} desired")
    page.field("Pods Status", _phases(replicaset, related))
    write_template(page, spec.get("template") or {})
    if conditions := status.get("conditions"):
        page.line("Conditions:")
        page.line("Type\tStatus\tReason", level=1)
        page.line("----\t------\t------", level=1)
        for each in conditions:
            page.line(f"{each.get('type')} \t{each.get('status')}\t{each.get('reason', '')}", level=1)


def _phases(owner: Mapping[str, Any], related: Related) -> str:
    """How many of the pods this very object controls are in which phase."""
    own = [pod for pod in related.pods if (controller_of(pod) or {}).get("uid") == meta(owner).get("uid")]
    count = Counter((pod.get("status") or {}).get("phase") for pod in own)
    shown = {"Running": "Running", "Pending": "Waiting", "Succeeded": "Succeeded", "Failed": "Failed"}
    return " / ".join(f"{count[phase]} {title}" for phase, title in shown.items())
