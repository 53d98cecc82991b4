"""The proxy: Services and their endpoints, from any Kubernetes API, into this node's netfilter.

```
informers -> World -> Snapshot -> policy -> Frontends -> lower -> Ruleset -> diff -> Plan -> engine
   loop       world    decode     `---------------------- rules ----------------------------------'
```
``loop`` decides when, ``dataplane`` does it (in one thread, because libiptc and network namespaces belong to threads),
``conntrack`` ends UDP connections that point to endpoints that are gone, ``web`` and ``metrics`` tell about it.

The process already lives in the network namespace it serves. Being cancelled leaves all rules as they are: established
connections go on, and new ones are served, while the proxy is away; when it comes back it finds its own rules and
changes only what changed meanwhile. ``cleanup`` is what removes them.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from agent.kube.client import Client
from agent.proxy.dataplane import Dataplane
from agent.proxy.host import disable_route_localnet
from agent.proxy.loop import Proxy
from agent.proxy.options import Options
from agent.proxy.snapshots import take_snapshot
from agent.shell import run as run_program
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import Engine, Run
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import lower_frontends
from rules.iptables.names import MARTIANS
from rules.iptables.preflight import Choice, make_engine, preflight
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family, Snapshot

__all__ = ["Options", "cleanup", "dry_run", "make_plan", "preflight", "run"]

log = logging.getLogger(__name__)


async def run(client: Client, options: Options, *, ready: Callable[[], None]) -> None:
    """Keep this namespace's rules as the API wants them, until cancelled; ``ready`` once they are.

    Raises EngineError if this host has no usable iptables.
    """
    choice = await asyncio.to_thread(preflight, run_program, engine=options.engine, variant=options.variant)
    log.info("engine %s, variant %s: %s", choice.engine, choice.variant, choice.why)
    for warning in choice.warnings:
        log.warning("%s", warning)
    engines = {family: make_engine(choice, run_program, family) for family in options.families}
    served = asyncio.Event()

    def announce() -> None:
        served.set()
        ready()

    async with asyncio.TaskGroup() as group:
        group.create_task(_clear_other_variant(choice, options, served))
        await Proxy(client, options, dataplane=Dataplane(engines), ready=announce).run()


async def _clear_other_variant(choice: Choice, options: Options, served: asyncio.Event) -> None:
    """Rules of an earlier run in the other variant's tables would go on sending packets where they should no longer go.
    They are removed once ours are there, so that nobody misses them."""
    await served.wait()
    others = [engine for engine in _installed_engines(run_program) if engine.variant != choice.variant]
    await asyncio.to_thread(_remove_rules, others, loopback=options.localhost_node_ports)


async def dry_run(client: Client, options: Options) -> str:
    """What ``run`` would change now, as text."""
    snapshot = await take_snapshot(client, options)
    choice = await asyncio.to_thread(preflight, run_program, engine=options.engine, variant=options.variant)
    return await asyncio.to_thread(_describe, snapshot, options, choice)


def make_plan(snapshot: Snapshot, installed: Ruleset, family: Family = Family.IPV4) -> Plan:
    """What it takes to serve a snapshot where ``installed`` is what is there. Pure; ``str(plan)`` is for people."""
    return diff_rulesets(installed, lower_frontends(resolve_frontends(snapshot), family))


def cleanup(options: Options, *, run: Run = run_program) -> None:
    """Remove all of podwire's rules from the calling thread's namespace, whichever engine put them there. Blocks."""
    _remove_rules(_installed_engines(run), loopback=False)


def _remove_rules(engines: Iterable[Engine], *, loopback: bool) -> None:
    """``loopback``: NodePorts are still served on 127.0.0.1, by others than these."""
    for engine in engines:
        installed = engine.read()
        if installed != Ruleset():
            log.info("removing podwire's rules from the %s tables", engine.variant)
        engine.cleanup()
        engine.close()
        if MARTIANS in installed.filter.chains and not loopback:
            disable_route_localnet()


def _describe(snapshot: Snapshot, options: Options, choice: Choice) -> str:
    texts = []
    for family in options.families:
        engine = make_engine(choice, run_program, family)
        texts.append(str(make_plan(snapshot, engine.read(), family)))
        engine.close()
    return "\n".join(texts)


def _installed_engines(run: Run) -> Iterator[Engine]:
    variants: tuple[Literal["nft", "legacy"], ...] = ("nft", "legacy")
    for family, tool in ((Family.IPV4, "iptables"), (Family.IPV6, "ip6tables")):
        for variant in variants:
            if shutil.which(f"{tool}-{variant}-restore") is not None:
                yield RestoreEngine(run, variant=variant, family=family, nft=shutil.which("nft"))
