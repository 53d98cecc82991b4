"""``podwire check``: what was looked at on this machine, whether it will do, and if not, what to do."""

from __future__ import annotations

from collections.abc import Iterator

import click

from agent.config import Config
from agent.shell import run
from netns.host import Finding, preflight


def run_checks(config: Config) -> bool:
    """Print a line per finding; True where a node can run here."""
    findings = (*preflight(netns=config.node_netns, bridge=config.bridge), *_iptables(config))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.secho(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:<{width}}  {finding.what}", fg=_color(finding))
        if finding.hint:
            click.echo(f"      {'':<{width}}  -> {finding.hint}")
    good = all(finding.ok for finding in findings)
    click.echo("a node can run here" if good else "a node cannot run here yet")
    return good


def _color(finding: Finding) -> str | None:
    return None if finding.ok else "red"


def _iptables(config: Config) -> Iterator[Finding]:
    """Which variant and engine would be used in the node's namespace, and why."""
    from agent.supervisor.prepare import in_node
    from netns import namespaces
    from rules.iptables.engines import EngineError
    from rules.iptables.preflight import preflight as choose

    there = config.node_netns is None or namespaces.exists(config.node_netns)

    def look() -> Iterator[Finding]:
        choice = choose(run, engine=config.proxy_engine, variant=config.iptables_variant)
        yield Finding("iptables", True, f"engine {choice.engine}, variant {choice.variant}: {choice.why}")
        yield from (Finding("iptables", True, f"note: {warning}") for warning in choice.warnings)

    try:
        yield from in_node(config, lambda: list(look())) if there else namespaces.in_new(lambda: list(look()))
    except EngineError as error:
        yield Finding("iptables", False, str(error), "install iptables, or choose another engine or variant")
