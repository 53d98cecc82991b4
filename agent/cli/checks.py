"""``podwire check``: what was looked at on this machine, whether it will do, and if not, what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from agent.config import Config
from agent.shell import run
from agent.supervisor.neighbours import look_at_firewalls, look_at_port_53
from agent.supervisor.prepare import in_node
from agent.supervisor.state import running_pid
from netns import namespaces
from netns.host import Finding, preflight


def run_checks(config: Config) -> bool:
    """Print a line per finding; True where a node can run here."""
    findings = (*preflight(netns=config.node_netns, bridge=config.bridge), *_iptables(config), *_others(config))
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.secho(f"{_verdict(finding)}  {finding.name:<{width}}  {finding.what}", fg=_color(finding))
        if finding.hint:
            click.echo(f"      {'':<{width}}  -> {finding.hint}")
    good = all(finding.ok for finding in findings)
    click.echo("a node can run here" if good else "a node cannot run here yet")
    return good


def _verdict(finding: Finding) -> str:
    return "FAIL" if not finding.ok else "note" if finding.hint else "ok  "


def _color(finding: Finding) -> str | None:
    return "red" if not finding.ok else "yellow" if finding.hint else None


def _others(config: Config) -> Iterator[Finding]:
    """Who else is in the node's namespace: it takes root to look, and one that is not made yet is empty."""
    if os.geteuid() != 0 or (config.node_netns and not namespaces.exists(config.node_netns)):
        return
    if running_pid(config.paths) is not None:
        yield Finding("port 53", True, "this node runs; `podwire status` says whether its DNS server has the port")
    else:
        yield from look_at_port_53(config)
    yield from look_at_firewalls(config)


def _iptables(config: Config) -> Iterator[Finding]:
    """Which variant and engine would be used in the node's namespace, and why."""
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
