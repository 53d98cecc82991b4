"""The parts of objects that have verbs of their own: ``scale``, ``binding``, ``eviction``.

(``status`` and ``finalize`` are updates that may touch only a part; ``log``, ``exec`` and ``attach``: see ``streams``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.apiserver import objects
from agent.apiserver.api import Api, get_object, get_stored
from agent.apiserver.deletion import delete_object
from agent.apiserver.paths import Target
from agent.apiserver.query import Query, WriteOptions, parse_delete
from agent.apiserver.registry import JSON, value_at
from agent.apiserver.status import bad_request, conflict, success
from agent.apiserver.write import WRITE_TRIES, Transform, update_object
from agent.store import Conflict


async def get_scale(api: Api, target: Target) -> JSON:
    return scale_of(await get_object(api, target))


async def update_scale(api: Api, target: Target, change: Transform, options: WriteOptions) -> JSON:
    """``change`` works on the Scale; what it says of replicas is carried over to the object."""
    parent = Target(target.kind, target.namespace, target.name, "")
    return scale_of(await update_object(api, parent, _through_scale(change), options))


def _through_scale(change: Transform) -> Callable[[JSON], JSON]:
    def transform(obj: JSON) -> JSON:
        scale = change(scale_of(obj))
        replicas = value_at(scale, "spec.replicas") or 0
        if not isinstance(replicas, int):
            raise bad_request('Scale in version "v1" cannot be handled as a Scale: spec.replicas must be a number')
        sent = scale.get("metadata") or {}
        seen = {name: sent[name] for name in ("uid", "resourceVersion") if sent.get(name)}
        return {**obj, "metadata": {**obj["metadata"], **seen}, "spec": {**obj["spec"], "replicas": replicas}}

    return transform


def scale_of(obj: JSON) -> JSON:
    """autoscaling/v1 Scale of something that has replicas and a selector."""
    metadata = obj["metadata"]
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in shown if name in metadata},
        "spec": {"replicas": value_at(obj, "spec.replicas") or 0},
        "status": {
            "replicas": value_at(obj, "status.replicas") or 0,
            "selector": render_selector(value_at(obj, "spec.selector") or {}),
        },
    }


def render_selector(selector: JSON) -> str:
    """A LabelSelector as text, as in a URL."""
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    terms += [_render_expression(entry) for entry in selector.get("matchExpressions") or []]
    return ",".join(sorted(terms))


def _render_expression(entry: JSON) -> str:
    key, values = entry["key"], ",".join(sorted(entry.get("values") or []))
    match entry["operator"]:
        case "Exists":
            return str(key)
        case "DoesNotExist":
            return f"!{key}"
        case operator:
            return f"{key} {operator.lower()} ({values})"


async def bind(api: Api, target: Target, binding: JSON, options: WriteOptions) -> JSON:
    """Give a pod its node (registry/core/pod/storage: assignPod). Returns a Status. Raises StatusError."""
    node = value_at(binding, "target.name")
    if not isinstance(node, str) or not node:
        raise bad_request("a Binding must name a node in target.name")
    if value_at(binding, "target.kind") not in (None, "", "Node"):
        raise bad_request(f"a Binding's target.kind must be Node, not {value_at(binding, 'target.kind')}")
    for _ in range(WRITE_TRIES):
        stored = await get_stored(api, target)
        pod = objects.read(target.kind, stored)
        bound = _bound(target, pod, node, binding)
        if options.dry_run:
            return success(target.kind, "", code=201)
        try:
            await api.store.update(target.key, objects.encode(target.kind, bound), revision=stored.revision)
        except Conflict:
            continue
        return success(target.kind, "", code=201)
    raise conflict(target.kind, target.name)


def _bound(target: Target, pod: JSON, node: str, binding: JSON) -> JSON:
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    uid = value_at(binding, "metadata.uid")
    why = ""
    if uid and uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {metadata['uid']}"
    elif metadata.get("deletionTimestamp"):
        why = f"pod {target.name} is being deleted, cannot be assigned to a host"
    elif spec.get("nodeName"):
        why = f'pod {target.name} is already assigned to node "{spec["nodeName"]}"'
    if why:
        raise conflict(target.kind, target.name, why, subresource="binding")
    annotations = {**(metadata.get("annotations") or {}), **(value_at(binding, "metadata.annotations") or {})}
    if annotations:
        metadata = {**metadata, "annotations": annotations}
    status = pod.get("status") or {}
    conditions = _with_scheduled(status.get("conditions") or [])
    return {
        **pod,
        "metadata": metadata,
        "spec": {**spec, "nodeName": node},
        "status": {**status, "conditions": conditions},
    }


def _with_scheduled(conditions: list[Any]) -> list[Any]:
    others = [entry for entry in conditions if entry.get("type") != "PodScheduled"]
    return [*others, {"type": "PodScheduled", "status": "True", "lastTransitionTime": objects.now()}]


async def evict(api: Api, target: Target, eviction: JSON, query: Query) -> JSON:
    """Delete a pod politely (policy/v1 Eviction). There are no disruption budgets here that could object."""
    name = value_at(eviction, "metadata.name")
    if name and name != target.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
    options = parse_delete(query, value_at(eviction, "deleteOptions"))
    await delete_object(api, Target(target.kind, target.namespace, target.name, ""), options)
    return success(target.kind, "", code=201)
