"""``scale``: how many replicas a controller keeps."""

from __future__ import annotations

import click

from agent.cli.kubectl.command import dry_run_option, file_options, output_option, selector_option, the_cluster, verb
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import meta, name_of
from agent.cli.kubectl.output import parse_output
from agent.cli.kubectl.report import dry_run_params, say
from agent.cli.kubectl.targets import Target, targets_of
from agent.cli.kubectl.verbs.get import read_objects


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE NAME | TYPE/NAME...)")
@file_options
@selector_option
@click.option("--all", "everything", is_flag=True, help="All objects of the type.")
@click.option("--replicas", type=click.IntRange(min=0), required=True, metavar="NUMBER", help="How many to keep.")
@click.option("--current-replicas", type=int, default=-1, metavar="NUMBER", help="Only if it has this many now.")
@output_option
@dry_run_option
def scale(
    words: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    selector: str | None,
    everything: bool,
    replicas: int,
    current_replicas: int,
    output: str | None,
    dry_run: str,
) -> None:
    """Change the number of replicas."""
    shown, cluster = parse_output(output), the_cluster()
    targets = targets_of(cluster, words, files, recursive=recursive, selecting=bool(selector))
    if not targets or (any(not target.name for target in targets) and not (selector or everything)):
        raise client_error("resource(s) were provided, but no name was specified")
    for target in targets:
        for obj in read_objects(cluster, target, {"labelSelector": selector} if selector else {}):
            have = (obj.get("spec") or {}).get("replicas")
            if current_replicas not in (-1, have):
                raise client_error(f"Expected replicas to be {current_replicas}, was {have}")
            one = Target(target.resource, meta(obj).get("namespace"), name_of(obj))
            if dry_run != "client":
                path = one.resource.path(one.namespace, one.name, "scale")
                wanted = {"spec": {"replicas": replicas}}
                cluster.patch(path, wanted, kind="merge-patch", params=dry_run_params(dry_run))
            say({**obj, "spec": {**obj["spec"], "replicas": replicas}}, "scaled", output=shown, dry_run=dry_run)
