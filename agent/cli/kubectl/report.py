"""What a verb says after it changed something: ``service/go-demo-2 created``, or the object itself (``-o``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from agent.cli.kubectl.objects import reference
from agent.cli.kubectl.output import Output, render_objects

DRY_RUN_SUFFIX = {
    "none": "",
    "client": " (dry run)",
    "server": " (server dry run)",
    "dataplane": " (dataplane dry run)",
}


def dry_run_params(dry_run: str) -> dict[str, str | int]:
    """The query parameter that has the server check, and store nothing."""
    return {"dryRun": "All"} if dry_run in ("server", "dataplane") else {}


def say(obj: Mapping[str, Any], done: str, *, output: Output | None = None, dry_run: str = "none") -> None:
    """``done``: created, configured, scaled, ..."""
    if output is None or output.is_table:
        click.echo(f"{reference(obj)} {done}{DRY_RUN_SUFFIX[dry_run]}")
    else:
        if output.mode == "yaml":
            _separate()
        click.echo(render_objects(output, [obj], single=True), nl=False)


def _separate() -> None:
    """Several YAML documents are parted by a line of dashes."""
    meta = click.get_current_context().meta
    if meta.get("podwire.kubectl.printed"):
        click.echo("---")
    meta["podwire.kubectl.printed"] = True
