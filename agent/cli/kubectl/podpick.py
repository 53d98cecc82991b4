"""Which pod and which container a person means: ``exec svc/go-demo-2-api -- env``. Choosing is pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.cli.kubectl.describe.page import format_selector
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.generate import selector_of
from agent.cli.kubectl.objects import Obj, meta, name_of, namespace_of
from agent.cli.kubectl.targets import fetch, one_target

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def find_pod(cluster: Cluster, word: str) -> Obj:
    """The pod of a name, or the best one of a controller or Service. Raises KubectlError where there is none."""
    target = one_target(cluster, word, default="pods")
    obj = fetch(cluster, target)
    if target.resource.kind == "Pod":
        return obj
    pods = pods_of(cluster, obj)
    if not pods:
        raise client_error(f"no pod found for {target}: selector {selector_text(obj)} matches none")
    return best_pod(pods)


def pods_of(cluster: Cluster, obj: Mapping[str, Any]) -> list[Obj]:
    """The pods a controller's or Service's selector chooses."""
    path = f"/api/v1/namespaces/{namespace_of(obj)}/pods"
    items: list[Obj] = cluster.get(path, params={"labelSelector": selector_text(obj)}).get("items") or []
    return items


def selector_text(obj: Mapping[str, Any]) -> str:
    selector = (obj.get("spec") or {}).get("selector") or {}
    if "matchLabels" in selector or "matchExpressions" in selector:
        return format_selector(selector)
    return ",".join(f"{key}={value}" for key, value in selector_of(obj).items())


def best_pod(pods: Sequence[Obj]) -> Obj:
    """Ready before running before the rest, none that is going away if there is another, the oldest first."""

    def badness(pod: Obj) -> tuple[bool, bool, bool, str, str]:
        status = pod.get("status") or {}
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
        leaving = bool(meta(pod).get("deletionTimestamp"))
        return (
            leaving,
            not ready,
            status.get("phase") != "Running",
            str(meta(pod).get("creationTimestamp")),
            name_of(pod),
        )

    return min(pods, key=badness)


def container_names(pod: Mapping[str, Any], *, init: bool = True) -> list[str]:
    spec = pod.get("spec") or {}
    groups = [spec.get("containers") or [], (spec.get("initContainers") or []) if init else []]
    return [str(container["name"]) for group in groups for container in group]


def pick_container(pod: Mapping[str, Any], asked: str | None, *, quiet: bool = False) -> str:
    """The container asked for, the annotated one, or the first, saying so where there are several."""
    names = container_names(pod)
    if asked:
        if asked not in names:
            raise client_error(f"container {asked} not found in pod {name_of(pod)}; it has {', '.join(names)}")
        return asked
    annotated = (meta(pod).get("annotations") or {}).get(DEFAULT_CONTAINER)
    if annotated in names:
        return str(annotated)
    if len(names) > 1 and not quiet:
        listed = ", ".join(f"{name} (init)" if name not in container_names(pod, init=False) else name for name in names)
        print(f'Defaulted container "{names[0]}" out of: {listed}', file=sys.stderr)
    return names[0]
