"""``patch`` and ``edit``: change an object as it is, by a patch or in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.kubectl.command import dry_run_option, file_options, output_option, the_cluster, verb
from agent.cli.kubectl.errors import ApiError, KubectlError, client_error
from agent.cli.kubectl.merge import three_way_patch
from agent.cli.kubectl.objects import Obj, as_list, reference, without_managed_fields
from agent.cli.kubectl.output import Output, parse_output
from agent.cli.kubectl.report import dry_run_params, say
from agent.cli.kubectl.targets import Target, fetch, targets_of

if TYPE_CHECKING:
    from agent.cli.kubectl.connection import Cluster

KINDS = {"strategic": "strategic-merge-patch", "merge": "merge-patch", "json": "json-patch"}


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE NAME | TYPE/NAME)")
@file_options
@click.option("-p", "--patch", "text", metavar="PATCH", help="The patch, as JSON or YAML.")
@click.option("--patch-file", metavar="FILE", help="A file with the patch.")
@click.option("--type", "kind", type=click.Choice(list(KINDS)), default="strategic", help="How to read the patch.")
@click.option("--subresource", type=click.Choice(["status", "scale"]), default=None)
@output_option
@dry_run_option
def patch(
    words: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    text: str | None,
    patch_file: str | None,
    kind: str,
    subresource: str | None,
    output: str | None,
    dry_run: str,
) -> None:
    """Change fields of an object."""
    body = _read_patch(text, patch_file)
    shown, cluster = parse_output(output), the_cluster()
    targets = targets_of(cluster, words, files, recursive=recursive)
    if not targets or any(not target.name for target in targets):
        raise client_error("resource(s) were provided, but no name was specified")
    for target in targets:
        before = fetch(cluster, target)
        after = before
        if dry_run != "client":
            path = target.resource.path(target.namespace, target.name, subresource or "")
            after = cluster.patch(path, body, kind=KINDS[kind], params=dry_run_params(dry_run))
        unchanged = dry_run == "none" and without_managed_fields(before) == without_managed_fields(after)
        done = "patched (no change)" if unchanged else "patched"
        say(after if subresource != "scale" else before, done, output=shown, dry_run=dry_run)


def _read_patch(text: str | None, patch_file: str | None) -> Any:
    if bool(text) == bool(patch_file):
        raise client_error("must specify --patch or --patch-file containing the contents of the patch")
    from agent.cli.kubectl.yamltext import YamlError, load_documents

    try:
        documents = load_documents(text or Path(patch_file or "").read_text())
    except OSError as error:
        raise client_error(f"unable to read patch file: {error}") from error
    except YamlError as error:
        raise client_error(f'unable to parse "{text or patch_file}": yaml: {error}') from error
    if len(documents) != 1:
        raise client_error(f"expected one patch, got {len(documents)}")
    return documents[0]


# --- edit ------------------------------------------------------------------------------------------------------

HELP = """\
# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file,
# your text is kept and its place is told.
#
"""


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE NAME | TYPE/NAME)")
@file_options
@output_option
def edit(words: tuple[str, ...], files: tuple[str, ...], recursive: bool, output: str | None) -> None:
    """Change objects in an editor ($KUBE_EDITOR, $EDITOR or vi)."""
    from agent.cli.kubectl.yamltext import dump_document

    shown, cluster = parse_output(output), the_cluster()
    targets = targets_of(cluster, words, files, recursive=recursive)
    if not targets or any(not target.name for target in targets):
        raise client_error("resource(s) were provided, but no name was specified")
    before = [fetch(cluster, target) for target in targets]
    visible = [without_managed_fields(obj) for obj in before]
    text = dump_document(visible[0] if len(visible) == 1 else as_list(visible))
    file = _edit(HELP + text)
    try:
        edited = _documents(file)
        if not edited or edited == visible:
            click.echo("Edit cancelled, no changes made.", err=True)
        else:
            for target, original, wanted in zip(targets, visible, edited, strict=True):
                _save(cluster, target, original, wanted, shown)
        file.unlink()
    except (KubectlError, ValueError) as error:
        kept = f'A copy of your changes has been stored to "{file}"'
        message = str(error) if isinstance(error, KubectlError) else f"error: the number of objects changed ({error})"
        raise KubectlError(f"{message}\n{kept}") from error


def _edit(text: str) -> Path:
    editor = os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w", prefix="podwire-edit-", suffix=".yaml", delete=False) as file:
        file.write(text)
    try:
        subprocess.run([*shlex.split(editor), file.name], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        Path(file.name).unlink()
        raise client_error(f"there was a problem with the editor {editor!r}: {error}") from error
    return Path(file.name)


def _documents(file: Path) -> list[Obj]:
    from agent.cli.kubectl.yamltext import YamlError, load_documents

    try:
        documents = load_documents(file.read_text())
    except YamlError as error:
        raise client_error(f"the edited file is not YAML: {error}") from error
    if len(documents) == 1 and isinstance(documents[0], dict) and documents[0].get("kind") == "List":
        return list(documents[0].get("items") or [])
    return documents


def _save(cluster: Cluster, target: Target, original: Obj, wanted: Obj, shown: Output) -> None:
    change = three_way_patch(original, wanted, original)
    if not change:
        click.echo(f"{reference(original)} skipped")
        return
    try:
        saved = cluster.patch(target.path, change, kind="strategic-merge-patch")
    except ApiError as error:
        raise error.while_doing(f'{target.resource.qualified} "{target.name}" could not be patched') from error
    say(saved, "edited", output=shown)
