"""``podwire trace``: the path of one packet as sentences, and checked against the kernel's own word.

The layout is drawn in ``agent.cli.tracing``. Here: flags, the order in which things are asked, and exit codes
(0; 1 where a real packet went another way, or nothing could be traced).
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import fail, need_root, node_options

if TYPE_CHECKING:
    from agent.cli.tracing.answers import Answer


@click.command()
@node_options
@click.option("-n", "--namespace", default="default", show_default=True, help="Where names without one are looked up.")
@click.option("-v", "--verbose", is_flag=True, help="Every rule with its text and counters.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--live", is_flag=True, help="Send real packets, and compare what the kernel does with them.")
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="Packets that --live sends.")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Beside a proxy alone: its cluster."
)
@click.option("--node-name", metavar="NAME", help="Beside a proxy alone: the Node object this machine is.")
@click.option("--cluster-cidr", multiple=True, metavar="CIDR[,CIDR]", help="Beside a proxy alone: as it was told.")
@click.option("--masquerade-all", is_flag=True, help="Beside a proxy alone: as it was told.")
@click.option("--masquerade-egress", is_flag=True, help="Beside a proxy alone: as it was told.")
@click.option(
    "--nodeport-addresses", multiple=True, metavar="CIDR[,CIDR]|primary", help="Beside a proxy alone: as it was told."
)
@click.option("--iptables-localhost-nodeports", is_flag=True, help="Beside a proxy alone: as it was told.")
@click.argument("source")
@click.argument("target")
def trace(
    state_dir: Path | None,
    node_netns: str | None,
    namespace: str,
    verbose: bool,
    output: str,
    live: bool,
    count: int,
    kubeconfig: Path | None,
    node_name: str | None,
    source: str,
    target: str,
    **flags: Any,
) -> None:
    """The path of one packet through the rules, as sentences.

    SOURCE is a pod (pod/NAME, NAMESPACE/NAME), 'node', 'outside' or an address. TARGET is a Service (svc/NAME, its DNS
    name), a pod, 'node' or an address, then :PORT (a number or a name) and /tcp, /udp or /sctp.

    With --live a real connection is attempted, or a datagram of 14 bytes sent, and the kernel tells which way it went.
    """
    from agent.cli.kubectl.errors import KubectlError
    from agent.cli.tracing.answers import Tracing, find_node
    from agent.cli.tracing.node import TraceFailure
    from agent.config import ConfigError
    from agent.shell import CommandError
    from netns.errors import NetnsError
    from rules.trace import TraceError

    need_root("podwire trace")
    try:
        place, options, file = find_node(state_dir, node_netns, kubeconfig, node_name, flags)
        tracing = Tracing(place, options, file, namespace)
        with _terminated():
            answer = tracing.answer(source, target, live=count if live else 0)
    except (TraceFailure, TraceError, KubectlError, NetnsError, CommandError, ConfigError) as error:
        fail(str(error).removeprefix("error: "))
    click.echo(_as_json(answer) if output == "json" else "\n".join(_as_text(answer, verbose=verbose)))
    sys.exit(0 if all(sighting.matched is not None for sighting in answer.sightings) else 1)


def _as_text(answer: Answer, *, verbose: bool) -> Iterator[str]:
    from agent.cli.tracing.render import Renderer, sighting_lines

    what = f"{answer.target.what}, " if answer.target.what else ""
    yield f"{answer.source.what} ({answer.source.address}) -> {what}{answer.target}"
    yield from (f"note: {warning}" for warning in answer.installed.warnings)
    yield ""
    yield from Renderer(answer.installed, verbose=verbose).lines(answer.branches)
    if answer.wanted:
        yield ""
        yield f"The installed rules are not what the objects call for. By those, it {answer.wanted}."
    if answer.sightings:
        yield ""
    for number, sighting in enumerate(answer.sightings, 1):
        yield from sighting_lines(number, sighting, answer.branches, verbose=verbose)


def _as_json(answer: Answer) -> str:
    from agent.cli.tracing.render import branch_json, sighting_json

    source, target = answer.source, answer.target
    found = {
        "source": {"kind": source.kind, "what": source.what, "address": source.address},
        "target": {
            "what": target.what,
            "address": target.address,
            "port": target.port,
            "protocol": target.protocol.upper(),
        },
        "variant": answer.installed.variant,
        "warnings": list(answer.installed.warnings),
        "branches": [branch_json(branch, answer.installed) for branch in answer.branches],
        "objectsCallFor": answer.wanted or None,
        "live": [sighting_json(sighting, answer.branches) for sighting in answer.sightings],
    }
    return json.dumps(found, indent=2)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends a trace as Ctrl-C does: what it made is removed first."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
