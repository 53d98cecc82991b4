"""``describe``: an object, what belongs to it, and what happened to it lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import all_namespaces_option, file_options, selector_option, the_cluster, verb
from agent.cli.kubectl.describe import Related, needs
from agent.cli.kubectl.describe import describe as render
from agent.cli.kubectl.errors import ApiError, KubectlError
from agent.cli.kubectl.objects import Obj, meta, name_of, namespace_of
from agent.cli.kubectl.targets import Target, targets_of
from agent.cli.kubectl.verbs.get import read_objects

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE [NAME | PREFIX] | TYPE/NAME...)")
@file_options
@selector_option
@all_namespaces_option
@click.option("--show-events/--no-show-events", default=True, help="What happened to the object.")
def describe(
    words: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    selector: str | None,
    all_namespaces: bool,
    show_events: bool,
) -> None:
    """Show an object in detail, with its events."""
    if not words and not files:
        raise KubectlError(
            'You must specify the type of resource to describe. Use "podwire api-resources" for a complete list of '
            "supported resources."
        )
    cluster = the_cluster()
    targets = targets_of(
        cluster, words, files, recursive=recursive, all_namespaces=all_namespaces, selecting=bool(selector)
    )
    errors, shown = list[ApiError](), 0
    for target in targets:
        try:
            objects = read_objects(cluster, target, {"labelSelector": selector} if selector else {})
        except ApiError as error:
            if not (error.not_found and _describe_matching(cluster, target, show_events=show_events)):
                errors.append(error)
            shown += 1
            continue
        for obj in objects:
            click.echo("\n\n" if shown else "", nl=False)
            click.echo(_describe(cluster, obj, show_events=show_events), nl=False)
            shown += 1
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))
    if not shown:
        namespaced = any(target.resource.namespaced for target in targets) and not all_namespaces
        where = f" in {cluster.namespace} namespace." if namespaced else ""
        click.echo(f"No resources found{where}", err=True)


def _describe_matching(cluster: Cluster, target: Target, *, show_events: bool) -> bool:
    """Where there is none of that name: all whose names begin with it. Whether there were any."""
    everything = read_objects(cluster, Target(target.resource, target.namespace), {})
    found = [obj for obj in everything if name_of(obj).startswith(target.name)]
    for obj in found:
        click.echo(_describe(cluster, obj, show_events=show_events))
    return bool(found)


def _describe(cluster: Cluster, obj: Obj, *, show_events: bool) -> str:
    return render(obj, _related(cluster, obj), _events(cluster, obj) if show_events else None)


def _related(cluster: Cluster, obj: Obj) -> Related:
    wanted, namespace = needs(obj), namespace_of(obj)
    pods = _pods(cluster, obj) if "pods" in wanted else []
    slices: list[Obj] = []
    if "slices" in wanted:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        slices = cluster.get(path, params={"labelSelector": f"kubernetes.io/service-name={name_of(obj)}"})["items"]
    lease = _lease(cluster, name_of(obj)) if "lease" in wanted else None
    return Related(pods=tuple(pods), slices=tuple(slices), lease=lease)


def _pods(cluster: Cluster, obj: Mapping[str, Any]) -> list[Obj]:
    """The pods that run on a node, or those next to a controller."""
    if obj["kind"] != "Node":
        return list(cluster.get(f"/api/v1/namespaces/{namespace_of(obj)}/pods")["items"])
    running = f"spec.nodeName={name_of(obj)},status.phase!=Succeeded,status.phase!=Failed"
    return list(cluster.get("/api/v1/pods", params={"fieldSelector": running})["items"])


def _lease(cluster: Cluster, name: str) -> Obj | None:
    try:
        return cluster.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
    except ApiError as error:
        if error.not_found:
            return None
        raise


def _events(cluster: Cluster, obj: Obj) -> list[Obj]:
    namespace = namespace_of(obj)
    fields = {
        "involvedObject.name": name_of(obj),
        "involvedObject.namespace": namespace,
        "involvedObject.uid": str(meta(obj).get("uid", "")),
    }
    path = f"/api/v1/namespaces/{namespace}/events" if namespace else "/api/v1/events"
    selector = ",".join(f"{field}={value}" for field, value in fields.items())
    events: list[Obj] = cluster.get(path, params={"fieldSelector": selector}).get("items") or []
    return events
