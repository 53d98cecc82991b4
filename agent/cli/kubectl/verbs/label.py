"""``label`` and ``annotate``: set and remove single labels and annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from agent.cli.kubectl.command import (
    Verb,
    all_namespaces_option,
    dry_run_option,
    field_selector_option,
    file_options,
    output_option,
    selector_option,
    the_cluster,
    verb,
)
from agent.cli.kubectl.errors import client_error
from agent.cli.kubectl.objects import Obj, meta, name_of
from agent.cli.kubectl.output import parse_output
from agent.cli.kubectl.report import dry_run_params, say
from agent.cli.kubectl.targets import Target, targets_of
from agent.cli.kubectl.verbs.get import read_objects


@dataclass(frozen=True, slots=True)
class Changes:
    """What to set (``a=b``) and what to remove (``a-``)."""

    to_set: Mapping[str, str]
    to_remove: tuple[str, ...]


def split_words(words: Sequence[str]) -> tuple[list[str], Changes]:
    """``pods web a=b c-``: the objects' words, and the changes. Raises KubectlError for words out of order."""
    objects, to_set, to_remove = list[str](), dict[str, str](), list[str]()
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name and "/" not in name.partition("/")[2]:
            to_set[name] = value
        elif word.endswith("-") and len(word) > 1 and objects:
            to_remove.append(word[:-1])
        elif to_set or to_remove:
            raise client_error(f"all resources must be specified before the changes: {word}")
        else:
            objects.append(word)
    if both := set(to_set) & set(to_remove):
        raise client_error(f"can not both modify and remove {sorted(both)[0]!r} in the same command")
    return objects, Changes(to_set, tuple(to_remove))


def patch_for(
    have: Mapping[str, str], changes: Changes, *, overwrite: bool, what: str
) -> tuple[dict[str, str | None], str, list[str]]:
    """The patch of a map, the word for what it does (labeled, unlabeled, not labeled), and remarks."""
    for name, value in changes.to_set.items():
        if name in have and have[name] != value and not overwrite:
            raise client_error(f"'{name}' already has a value ({have[name]}), and --overwrite is false")
    remarks = [f'{what} "{name}" not found.' for name in changes.to_remove if name not in have]
    removed: dict[str, str | None] = {name: None for name in changes.to_remove if name in have}
    added: dict[str, str | None] = {n: value for n, value in changes.to_set.items() if have.get(n) != value}
    return {**added, **removed}, _done(bool(added), bool(removed), what), remarks


def _done(added: bool, removed: bool, what: str) -> str:
    if what == "annotation":
        return "annotated"
    if removed and not added:
        return "unlabeled"
    return "labeled" if added else "not labeled"


def _verb(name: str, field: str, what: str) -> Verb:
    @verb(name, help=f"Set and remove {field}: podwire {name} pods web a=b c-")
    @click.argument("words", nargs=-1, metavar=f"(TYPE NAME | TYPE/NAME...) {what.upper()}=VALUE... {what.upper()}-...")
    @file_options
    @selector_option
    @field_selector_option
    @all_namespaces_option
    @click.option("--all", "everything", is_flag=True, help="All objects of the type.")
    @click.option("--overwrite", is_flag=True, help="Change values that are already set.")
    @click.option("--list", "listing", is_flag=True, help=f"Print the {field} instead.")
    @output_option
    @dry_run_option
    def command(words: tuple[str, ...], files: tuple[str, ...], recursive: bool, **flags: Any) -> None:
        objects, changes = split_words(words)
        if not (changes.to_set or changes.to_remove or flags["listing"]):
            raise client_error(f"at least one {what} update is required")
        _change(objects, files, recursive, flags, lambda obj: _one(obj, changes, flags, field=field, what=what))

    return command


_Change = Callable[[Obj], tuple[dict[str, Any], str]]


def _one(obj: Obj, changes: Changes, flags: Mapping[str, Any], *, field: str, what: str) -> tuple[dict[str, Any], str]:
    """The merge patch of one object, and the word for it; prints remarks."""
    have = meta(obj).get(field) or {}
    if flags["listing"]:
        for name in sorted(have):
            click.echo(f"{name}={have[name]}")
        return {}, ""
    patch, done, remarks = patch_for(have, changes, overwrite=flags["overwrite"], what=what)
    for remark in remarks:
        click.echo(remark)
    return ({"metadata": {field: patch}} if patch else {}), done


def _change(
    words: Sequence[str], files: Sequence[str], recursive: bool, flags: Mapping[str, Any], change: _Change
) -> None:
    shown, cluster = parse_output(flags["output"]), the_cluster()
    selectors = {"labelSelector": flags["selector"], "fieldSelector": flags["field_selector"]}
    params = {key: value for key, value in selectors.items() if value}
    targets = targets_of(
        cluster,
        words,
        files,
        recursive=recursive,
        all_namespaces=flags["all_namespaces"],
        selecting=bool(flags["selector"]),
    )
    if not targets or (any(not target.name for target in targets) and not (params or flags["everything"])):
        raise client_error("one or more resources must be specified as <resource> <name> or <resource>/<name>")
    for target in targets:
        for obj in read_objects(cluster, target, params):
            patch, done = change(obj)
            if patch and flags["dry_run"] != "client":
                one = Target(target.resource, meta(obj).get("namespace"), name_of(obj))
                dry_run = dry_run_params(flags["dry_run"])
                obj = cluster.patch(one.path, patch, kind="merge-patch", params=dry_run)
            if done:
                say(obj, done, output=shown, dry_run=flags["dry_run"])


label = _verb("label", "labels", "label")
annotate = _verb("annotate", "annotations", "annotation")
