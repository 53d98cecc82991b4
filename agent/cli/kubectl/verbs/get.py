"""``get``: objects as the server's Table, or in a format of the caller's choice; once, or as they change."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import (
    all_namespaces_option,
    field_selector_option,
    file_options,
    output_option,
    selector_option,
    the_cluster,
    verb,
)
from agent.cli.kubectl.connection import JSON, TABLE, Params
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.objects import Obj, meta
from agent.cli.kubectl.output import Output, parse_output, render_objects
from agent.cli.kubectl.tables import (
    Columns,
    Layout,
    Listed,
    render_tables,
    table_of,
    table_rows,
)
from agent.cli.kubectl.targets import Target, fetch, targets_of

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster
    from agent.cli.kubectl.jsonpath import Path as JsonPath


@dataclass(frozen=True, slots=True)
class Request:
    """Everything ``get`` was asked, parsed."""

    output: Output
    layout: Layout
    params: Params
    sort: JsonPath | None
    ignore_not_found: bool
    managed: bool


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE[,TYPE...] [NAME...] | TYPE/NAME...)")
@file_options
@selector_option
@field_selector_option
@all_namespaces_option
@output_option
@click.option("-w", "--watch", is_flag=True, help="List, then show every change until interrupted.")
@click.option("--watch-only", is_flag=True, help="Show changes without listing first.")
@click.option("--no-headers", is_flag=True, help="Leave out the line of column names.")
@click.option("--sort-by", metavar="PATH", help="Order by a field: .metadata.creationTimestamp")
@click.option("--show-labels", is_flag=True, help="A column with all labels.")
@click.option("-L", "--label-columns", multiple=True, metavar="LABEL", help="A column with this label.")
@click.option("--show-kind", is_flag=True, help="Put the kind before every name.")
@click.option("--show-managed-fields", is_flag=True, help="Keep metadata.managedFields in yaml and json.")
@click.option("--ignore-not-found", is_flag=True, help="An object that does not exist is no error.")
@click.option("--chunk-size", type=int, default=500, hidden=True)
def get(
    words: tuple[str, ...], files: tuple[str, ...], recursive: bool, watch: bool, watch_only: bool, **flags: Any
) -> None:
    """Show objects, as a table or as they are (-o yaml)."""
    if not words and not files:
        raise client_error(
            "You must specify the type of resource to get. "
            'Use "podwire api-resources" for a complete list of supported resources.'
        )
    request = _request(flags)
    cluster = the_cluster()
    everywhere = flags["all_namespaces"]
    selecting = bool(flags["selector"] or flags["field_selector"])
    targets = targets_of(
        cluster, words, files, recursive=recursive, all_namespaces=everywhere, selecting=bool(flags["selector"])
    )
    if watch or watch_only:
        _watch(cluster, targets, request, list_first=not watch_only)
    elif request.output.is_table:
        _print_tables(cluster, targets, request, show_kind=flags["show_kind"], everywhere=everywhere)
    else:
        single = len(targets) == 1 and bool(targets[0].name) and not selecting
        _print_objects(cluster, targets, request, single=single)


def _request(flags: Mapping[str, Any]) -> Request:
    output = parse_output(flags["output"])
    params = {"labelSelector": flags["selector"], "fieldSelector": flags["field_selector"]}
    return Request(
        output=output,
        layout=Layout(
            wide=output.mode == "wide",
            headers=not flags["no_headers"],
            namespaces=flags["all_namespaces"],
            label_columns=tuple(label for each in flags["label_columns"] for label in each.split(",")),
            show_labels=flags["show_labels"],
        ),
        params={key: value for key, value in params.items() if value},
        sort=_sort_path(flags["sort_by"]),
        ignore_not_found=flags["ignore_not_found"],
        managed=flags["show_managed_fields"],
    )


def _sort_path(flag: str | None) -> JsonPath | None:
    if not flag:
        return None
    from agent.cli.kubectl.jsonpath import JsonPathError, parse_relaxed

    try:
        return parse_relaxed(flag)
    except JsonPathError as error:
        raise client_error(f"cannot sort by {flag}: {error}") from error


def _print_tables(
    cluster: Cluster, targets: Sequence[Target], request: Request, *, show_kind: bool, everywhere: bool
) -> None:
    listed, errors = list[Listed](), list[ApiError]()
    for target in targets:
        try:
            listed.append(
                Listed(target.resource.qualified_kind, target.resource.namespaced, _table(cluster, target, request))
            )
        except ApiError as error:
            if not (error.not_found and request.ignore_not_found):
                errors.append(error)
    several = len({each.kind for each in listed}) > 1
    text = render_tables(listed, request.layout, with_kind=show_kind or several)
    click.echo(text, nl=False)
    if not text and not errors and not request.ignore_not_found:
        namespaced = any(target.resource.namespaced for target in targets) and not everywhere
        click.echo(
            f"No resources found in {cluster.namespace} namespace." if namespaced else "No resources found", err=True
        )
    _raise_all(errors)


def _table(cluster: Cluster, target: Target, request: Request) -> Obj:
    params = dict(request.params)
    if request.sort is not None:
        params["includeObject"] = "Object"
    answer = fetch(cluster, target, params=params, accept=TABLE)
    if answer.get("kind") != "Table":
        answer = table_of(answer.get("items", [answer]))
    if request.sort is None:
        return answer
    from agent.cli.kubectl.sorting import sort_rows

    return sort_rows(answer, request.sort)


def _raise_all(errors: Sequence[ApiError]) -> None:
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))


def _print_objects(cluster: Cluster, targets: Sequence[Target], request: Request, *, single: bool) -> None:
    objects, errors = list[Obj](), list[ApiError]()
    for target in targets:
        try:
            objects += read_objects(cluster, target, request.params)
        except ApiError as error:
            if not (error.not_found and request.ignore_not_found):
                errors.append(error)
    if (path := request.sort) is not None:
        from agent.cli.kubectl.sorting import sort_key

        objects.sort(key=lambda obj: sort_key(obj, path))
    if objects or not (errors or (single and request.ignore_not_found)):
        text = render_objects(
            request.output, objects, single=single, headers=request.layout.headers, managed=request.managed
        )
        click.echo(text, nl=False)
    _raise_all(errors)


def read_objects(cluster: Cluster, target: Target, params: Params) -> list[Obj]:
    """The target's object, or all objects of its collection; items of a list get their kind, which lists leave out."""
    answer = fetch(cluster, target, params=params)
    if target.name:
        return [answer]
    kind, version = target.resource.kind, target.resource.api_version
    return [{"apiVersion": version, "kind": kind, **item} for item in answer.get("items") or []]


# --- watching -------------------------------------------------------------------------------------------------


def _watch(cluster: Cluster, targets: Sequence[Target], request: Request, *, list_first: bool) -> None:
    if len(targets) != 1:
        raise client_error("you may only specify a single resource type, or one object, to watch")
    target = targets[0]
    layout = replace(request.layout, namespaces=request.layout.namespaces and target.resource.namespaced)
    columns = Columns([])
    for shown, answer in enumerate(_changes(cluster, target, request, list_first=list_first)):
        if request.output.is_table:
            rows = table_rows(answer, replace(layout, headers=layout.headers and shown == 0))
            click.echo(columns.render(rows), nl=False)
        else:
            click.echo(render_objects(request.output, [answer], single=True, headers=shown == 0), nl=False)
            if request.output.mode == "yaml":
                click.echo("---")
        sys.stdout.flush()


def _changes(cluster: Cluster, target: Target, request: Request, *, list_first: bool) -> Iterator[Obj]:
    """Tables (or objects), first what is there, then each change; a watch that the server ends is taken up again."""
    accept = TABLE if request.output.is_table else JSON
    collection = target.resource.path(target.namespace)
    params = {**request.params, **({"fieldSelector": f"metadata.name={target.name}"} if target.name else {})}
    if target.name:
        fetch(cluster, target)  # a name that does not exist is an error, not a silent wait
    first = cluster.get(collection, params=params, accept=accept)
    version = str(meta(first).get("resourceVersion") or "")
    if list_first:
        yield from _parts(first, target, is_table=request.output.is_table)
    definitions = first.get("columnDefinitions") or []
    while True:
        for event in cluster.watch(collection, params={**params, "resourceVersion": version}, accept=accept):
            changed = event["object"]
            version = _version(changed) or version
            if event["type"] == "BOOKMARK":
                continue
            if request.output.is_table:
                definitions = changed.get("columnDefinitions") or definitions
                changed = {**changed, "columnDefinitions": definitions}
            yield changed


def _parts(answer: Obj, target: Target, *, is_table: bool) -> Iterator[Obj]:
    if is_table:
        if answer.get("rows"):
            yield answer
        return
    for item in answer.get("items") or []:
        yield {"apiVersion": target.resource.api_version, "kind": target.resource.kind, **item}


def _version(changed: Mapping[str, Any]) -> str:
    """The resourceVersion to go on from: of the object, or of the object in a Table's row."""
    rows = changed.get("rows") or []
    of_row = meta(rows[-1].get("object") or {}).get("resourceVersion") if rows else None
    return str(of_row or meta(changed).get("resourceVersion") or "")
