"""``delete``: by name, by selector, or what files describe; then wait until it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import (
    Bare,
    all_namespaces_option,
    dataplane_options,
    field_selector_option,
    file_options,
    selector_option,
    the_cluster,
    verb,
)
from agent.cli.kubectl.dryrun import open_teller
from agent.cli.kubectl.edits import Edit
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.objects import Obj, meta, name_of
from agent.cli.kubectl.report import DRY_RUN_SUFFIX, dry_run_params
from agent.cli.kubectl.targets import Target, fetch, targets_of
from agent.cli.kubectl.waiting import TimedOut, parse_duration, parse_for, wait_for

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster
    from agent.cli.kubectl.forecast import Teller

PROPAGATION = {"background": "Background", "foreground": "Foreground", "orphan": "Orphan"}
NOTHING_GIVEN = """You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'"""
A_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Way:
    """How to delete."""

    options: dict[str, Any]
    output: str
    dry_run: str
    verb: str
    ignore_not_found: bool


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE[,TYPE...] [NAME...] | TYPE/NAME...)")
@file_options
@selector_option
@field_selector_option
@all_namespaces_option
@dataplane_options
@click.option("--all", "everything", is_flag=True, help="All objects of the type.")
@click.option(
    "--grace-period", type=int, default=-1, metavar="SECONDS", help="Time to stop in (default: the object's)."
)
@click.option("--now", is_flag=True, help="A grace period of one second.")
@click.option("--force", is_flag=True, help="Do not wait for confirmation that containers have stopped.")
@click.option("--wait/--no-wait", default=True, help="Return when the objects are gone.")
@click.option("--timeout", default="0s", metavar="TIME", help="How long to wait (0: as long as it takes).")
@click.option(
    "--cascade", cls=Bare, bare="background", default="background", type=click.Choice(list(PROPAGATION)),
    help="What becomes of objects that these own.",
)  # fmt: skip
@click.option("--ignore-not-found", is_flag=True, help="An object that does not exist is no error.")
@click.option("-o", "--output", type=click.Choice(["name"]), help="Print names only.")
def delete(words: tuple[str, ...], files: tuple[str, ...], recursive: bool, **flags: Any) -> None:
    """Delete objects.

    With --dry-run=dataplane nothing is deleted: it is told, for one node, what the deletion would do to traffic.
    """
    cluster = the_cluster()
    selecting = bool(flags["selector"] or flags["field_selector"] or flags["everything"])
    if flags["everything"] and (flags["selector"] or flags["field_selector"]):
        raise client_error("setting 'all' parameter but found a non empty selector")
    if not words and not files:
        raise client_error(NOTHING_GIVEN)
    teller = open_teller(cluster, flags["dry_run"], "", flags)
    targets = targets_of(
        cluster,
        words,
        files,
        recursive=recursive,
        all_namespaces=flags["all_namespaces"],
        selecting=bool(flags["selector"]),
    )
    if not selecting and any(not target.name for target in targets):
        raise client_error("resource(s) were provided, but no name was specified")
    way = _way(flags)
    timeout = parse_duration(flags["timeout"]) or A_WEEK
    deleted, errors = _delete_all(cluster, _expand(cluster, targets, flags), way, teller)
    if not deleted and not errors and selecting:
        click.echo("No resources found")
    if flags["wait"] and flags["dry_run"] == "none" and way.options.get("gracePeriodSeconds") != 0:
        _wait(cluster, deleted, timeout)
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))


def _way(flags: dict[str, Any]) -> Way:
    grace = 1 if flags["now"] else flags["grace_period"]
    if flags["force"]:
        grace = max(grace, 0)
        click.echo(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. "
            "The resource may continue to run on the cluster indefinitely.",
            err=True,
        )
    options: dict[str, Any] = {"propagationPolicy": PROPAGATION[flags["cascade"]]}
    if grace >= 0:
        # Without --force nothing may be torn from a container that still runs: as in kubectl, zero becomes one second.
        options["gracePeriodSeconds"] = grace if flags["force"] else max(grace, 1)
    return Way(
        options=options,
        output=flags["output"] or "",
        dry_run=flags["dry_run"],
        verb="force deleted" if flags["force"] else "deleted",
        ignore_not_found=flags["ignore_not_found"] or flags["everything"],
    )


def _expand(cluster: Cluster, targets: Sequence[Target], flags: dict[str, Any]) -> list[Target]:
    """Collections as the objects that are in them now."""
    params = {"labelSelector": flags["selector"], "fieldSelector": flags["field_selector"]}
    expanded: list[Target] = []
    for target in targets:
        if target.name:
            expanded.append(target)
            continue
        if "delete" not in target.resource.verbs:
            continue
        listed = fetch(cluster, target, params={key: value for key, value in params.items() if value})
        for item in listed.get("items") or []:
            expanded.append(Target(target.resource, meta(item).get("namespace"), name_of(item)))
    return expanded


def _delete_all(
    cluster: Cluster, targets: Sequence[Target], way: Way, teller: Teller | None
) -> tuple[list[tuple[Target, str]], list[KubectlError]]:
    """Delete each; those that went, with their UIDs, and what went wrong."""
    deleted, errors = list[tuple[Target, str]](), list[KubectlError]()
    for target in targets:
        try:
            found = fetch(cluster, target) if way.dry_run in ("client", "dataplane") else {}
            answer: Obj = found
            if way.dry_run != "client":
                answer = cluster.delete(target.path, way.options, params=dry_run_params(way.dry_run))
        except ApiError as error:
            if not (error.not_found and way.ignore_not_found):
                errors.append(error.while_doing(f'error when deleting "{target.source}"') if target.source else error)
            continue
        deleted.append((target, _uid(answer)))
        if way.output == "name":
            click.echo(str(target))
        else:
            click.echo(f'{target.resource.qualified_kind} "{target.name}" {way.verb}{DRY_RUN_SUFFIX[way.dry_run]}')
        if teller is not None:
            errors += _tell(teller, Edit(target, "deleted", found, None))
    return deleted, errors


def _tell(teller: Teller, edit: Edit) -> list[KubectlError]:
    try:
        teller.tell(edit)
    except KubectlError as error:
        return [error]
    return []


def _uid(answer: Obj) -> str:
    """Of the deleted object, which the server answers with, or names in a Status."""
    return str(meta(answer).get("uid") or (answer.get("details") or {}).get("uid") or "")


def _wait(cluster: Cluster, deleted: Sequence[tuple[Target, str]], timeout: float) -> None:
    for target, uid in deleted:
        try:
            wait_for(cluster, target, parse_for("delete"), timeout=timeout, uid=uid)
        except TimedOut:
            where = f"{target.resource.name}/{target.name}"
            raise client_error(f"timed out waiting for the condition on {where}") from None
