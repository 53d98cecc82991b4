"""``wait``: return when something holds of objects, fail when it does not in time."""

from __future__ import annotations

import time
from typing import Any

import click

from agent.cli.kubectl.command import (
    all_namespaces_option,
    field_selector_option,
    file_options,
    selector_option,
    the_cluster,
    verb,
)
from agent.cli.kubectl.errors import KubectlError, client_error
from agent.cli.kubectl.objects import meta, name_of
from agent.cli.kubectl.targets import Target, targets_of
from agent.cli.kubectl.verbs.get import read_objects
from agent.cli.kubectl.waiting import TimedOut, parse_duration, parse_for, wait_for

A_WEEK = 7 * 24 * 3600.0


@verb()
@click.argument("words", nargs=-1, metavar="(TYPE NAME | TYPE/NAME...)")
@file_options
@selector_option
@field_selector_option
@all_namespaces_option
@click.option("--all", "everything", is_flag=True, help="All objects of the type.")
@click.option("--for", "condition", required=True, metavar="WHAT", help="condition=Ready, delete, create, jsonpath=...")
@click.option("--timeout", default="30s", metavar="TIME", help="How long (0: check once, negative: a week).")
def wait(words: tuple[str, ...], files: tuple[str, ...], recursive: bool, **flags: Any) -> None:
    """Wait until objects are ready, gone, or as a field says."""
    wanted = parse_for(flags["condition"])
    seconds = parse_duration(flags["timeout"])
    deadline = time.monotonic() + (A_WEEK if seconds < 0 else seconds)
    cluster = the_cluster()
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
    if any(not target.name for target in targets) and not (params or flags["everything"]):
        raise client_error("resource(s) were provided, but no name was specified")
    named: list[Target] = []
    for target in targets:
        listed = [] if target.name else read_objects(cluster, target, params)
        named += [target] if target.name else []
        named += [Target(target.resource, meta(obj).get("namespace"), name_of(obj)) for obj in listed]
    if not named:
        raise client_error("no matching resources found")
    errors = []
    for target in named:
        try:
            seen = wait_for(cluster, target, wanted, timeout=max(0.0, deadline - time.monotonic()))
            if seen:  # of an object that was gone already, there is nothing to tell
                click.echo(f"{target} condition met")
        except TimedOut:
            where = f" on {target.resource.name}/{target.name}" if wanted.absent_is_error or wanted.gone else ""
            errors.append(client_error(f"timed out waiting for the condition{where}"))
        except KubectlError as error:
            errors.append(error)
    if errors:
        raise KubectlError("\n".join(str(error) for error in errors))
