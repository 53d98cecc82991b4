"""``podwire sequence``: what happened, and when, from the request that made a Service to the name that answers.

Seven steps, with the times at which this node's components really reached them (see ``agent.telemetry``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import click

from agent.cli.options import fail, node_options, paths_of
from agent.telemetry import REQUEST_ACCEPTED, STEPS, Mark, read_timeline

EXPLANATIONS = {
    "request accepted": "the API server stored the Service",
    "endpoints controller saw it": "its watch delivered the Service",
    "EndpointSlice written": "the selector found the pods' addresses",
    "proxy saw it": "its watch delivered Service and endpoints",
    "rules in the kernel": "netfilter sends the ClusterIP to the pods",
    "DNS saw it": "its watch delivered the Service",
    "name answers": "the record is served on port 53",
}


def select_sequence(marks: Iterable[Mark], namespace: str, name: str) -> tuple[Mark, ...]:
    """The first mark of each step since the Service was last created, in the order of STEPS."""
    ours = [mark for mark in marks if (mark.namespace, mark.name) == (namespace, name)]
    starts = [mark.at for mark in ours if mark.step == REQUEST_ACCEPTED]
    begin = max(starts, default=0.0)
    first: dict[str, Mark] = {}
    for mark in sorted((mark for mark in ours if mark.at >= begin), key=lambda mark: mark.at):
        first.setdefault(mark.step, mark)
    return tuple(first[step] for step in STEPS if step in first)


def render_sequence(marks: Sequence[Mark]) -> str:
    """A table: step, clock time, milliseconds since the request, what it means."""
    if not marks:
        return ""
    begin = marks[0].at
    lines = [f"{'':<4}{'STEP':<30}{'TIME':<17}{'AFTER':>10}  WHAT HAPPENED"]
    for number, mark in enumerate(marks, 1):
        clock = datetime.fromtimestamp(mark.at).strftime("%H:%M:%S.%f")
        after = f"{(mark.at - begin) * 1000:.1f} ms"
        lines.append(f"{number:<4}{mark.step:<30}{clock:<17}{after:>10}  {EXPLANATIONS[mark.step]}")
    return "\n".join(lines)


@click.command()
@node_options
@click.option("-n", "--namespace", default="default", show_default=True)
@click.argument("service")
def sequence(state_dir: Path | None, node_netns: str | None, namespace: str, service: str) -> None:
    """The Sequence: when each component acted on a Service."""
    paths = paths_of(state_dir, node_netns)
    found = select_sequence(
        read_timeline(paths.timeline), namespace, service.removeprefix("svc/").removeprefix("service/")
    )
    if not found:
        fail(
            f"nothing is known about Service {namespace}/{service} in {paths.timeline}; "
            "was it made since the node was started?"
        )
    click.echo(render_sequence(found))
    missing = [step for step in STEPS if step not in {mark.step for mark in found}]
    if missing:
        click.echo(f"not reached yet: {', '.join(missing)}")
        sys.exit(1)
