"""``apply``: make what is missing, change what differs, leave alone what others set (`merge` decides)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import dataplane_options, file_options, output_option, the_cluster, verb
from agent.cli.kubectl.dryrun import open_teller
from agent.cli.kubectl.edits import Edit
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.manifests import Manifest, read_manifests
from agent.cli.kubectl.merge import last_applied, three_way_patch, with_last_applied
from agent.cli.kubectl.objects import LAST_APPLIED, Obj
from agent.cli.kubectl.output import parse_output
from agent.cli.kubectl.report import dry_run_params, say
from agent.cli.kubectl.targets import Target, manifest_target

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster

RETRIES = 5  # of a patch that met a concurrent change


@verb()
@file_options
@output_option
@dataplane_options
@click.option("--validate", default="strict", hidden=True)
def apply(files: tuple[str, ...], recursive: bool, output: str | None, dry_run: str, **flags: Any) -> None:
    """Make or change objects so that they are as files say.

    With --dry-run=dataplane nothing is changed: it is told, for one node, what the change would do to traffic.
    """
    if not files:
        raise client_error("must specify -f")
    shown, cluster = parse_output(output), the_cluster()
    manifests = read_manifests(files, recursive=recursive)
    if not manifests:
        raise client_error("no objects passed to apply")
    teller = open_teller(cluster, dry_run, shown.mode, flags)
    errors = []
    for manifest in manifests:
        try:
            edit = _apply_one(cluster, manifest, dry_run)
            if teller is None or not shown.mode:
                say(edit.after or {}, edit.done, output=shown, dry_run=dry_run)
            if teller is not None:
                teller.tell(edit)
        except KubectlError as error:
            errors.append(error)
    if teller is not None:
        teller.finish()
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))


def _apply_one(cluster: Cluster, manifest: Manifest, dry_run: str) -> Edit:
    target = manifest_target(cluster, manifest)
    if not target.name:
        raise client_error(
            f'error when retrieving current configuration of "{manifest.source}": it has no metadata.name'
        )
    wanted = with_last_applied(manifest.obj, target.namespace)
    current = _current(cluster, target)
    if current is None:
        made = wanted
        if dry_run != "client":
            made = _create(cluster, target, wanted, manifest.source, dry_run)
        return Edit(target, "created", None, made, manifest.obj)
    changed, configured = _patch(cluster, target, wanted, current, dry_run)
    return Edit(target, "configured" if configured else "unchanged", current, changed, manifest.obj)


def _current(cluster: Cluster, target: Target) -> Obj | None:
    try:
        return cluster.get(target.path)
    except ApiError as error:
        if error.not_found:
            return None
        raise error.while_doing("error when retrieving current configuration") from error


def _create(cluster: Cluster, target: Target, wanted: Obj, source: str, dry_run: str) -> Obj:
    try:
        return cluster.create(target.resource.path(target.namespace), wanted, params=dry_run_params(dry_run))
    except ApiError as error:
        raise error.while_doing(f'error when creating "{source}"') from error


def _patch(cluster: Cluster, target: Target, wanted: Obj, current: Obj, dry_run: str) -> tuple[Obj, bool]:
    """Bring ``current`` to what is wanted; the object as it is then, and whether anything had to change."""
    for attempt in range(RETRIES):
        remembered = _remembered(target, current)
        patch = three_way_patch(remembered, wanted, current)
        if not patch:
            return current, False
        if dry_run == "client":
            return current, True
        try:
            params = dry_run_params(dry_run)
            return cluster.patch(target.path, patch, kind="strategic-merge-patch", params=params), True
        except ApiError as error:
            if error.reason != "Conflict" or attempt == RETRIES - 1:
                raise error.while_doing(f'error when applying patch to "{target}" from "{target.source}"') from error
            current = cluster.get(target.path)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _remembered(target: Target, current: Obj) -> Obj:
    try:
        found = last_applied(current)
    except ValueError as error:
        raise client_error(f"cannot apply {target}: its annotation {LAST_APPLIED} is not JSON: {error}") from error
    if found is None:
        click.echo(
            f"Warning: resource {target.resource.name}/{target.name} is missing the {LAST_APPLIED} annotation which is "
            "required by podwire apply: it was not made by apply, or by create --save-config. The missing annotation "
            "will be patched automatically.",
            err=True,
        )
    return found or {}
