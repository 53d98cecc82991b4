"""How long rules take, without any API: everything into empty tables, then one endpoint changed.

Each time is two. The agent's share: policy, lowering, plan, and at first also rendering the rules as text (libiptc
without programs, where there are few rules: building them). The kernel's share: the programs that write tables; for one
change, where some engines start none, ``Engine.apply``.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.shell import run
from benchmarks.dataplane.network import Network
from rules.iptables import names
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import Engine, Variant
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import Lowering
from rules.iptables.ruleset import Rules, Ruleset, Table
from rules.policy import resolve_frontends
from rules.snapshot import Family, Snapshot

_BRANCH = "PODWIRE-V-"  # chains into which KUBE-SERVICES is split


@dataclass(frozen=True, slots=True)
class Way:
    """A way into the kernel. ``flags``: how ``podwire proxy`` is told to take it."""

    name: str
    variant: Variant
    make: Callable[[Stopwatch], Engine]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds on the clock, and of CPU time, which a busy machine does not stretch."""

    seconds: float
    cpu: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.seconds - other.seconds, self.cpu - other.cpu)

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.seconds + other.seconds, self.cpu + other.cpu)


@dataclass(frozen=True, slots=True)
class Share:
    """Who took how long."""

    agent: Taken
    kernel: Taken


@dataclass(slots=True)
class Stopwatch:
    """What was spent in programs."""

    taken: Taken = Taken(0.0, 0.0)

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        """``agent.shell.run``, timed."""
        began = now()
        try:
            return run(argv, stdin=stdin, timeout=timeout)
        finally:
            self.taken += now() - began


def now() -> Taken:
    """By the clock, and of this process and the programs that it has run."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Taken(time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages))


WAYS = (
    Way(
        "iptables-nft-restore",
        "nft",
        lambda watch: RestoreEngine(watch.run, variant="nft"),
        ("--engine", "restore", "--iptables-variant", "nft"),
    ),
    Way(
        "iptables-legacy-restore",
        "legacy",
        lambda watch: RestoreEngine(watch.run, variant="legacy"),
        ("--engine", "restore", "--iptables-variant", "legacy"),
    ),
    Way("libiptc", "legacy", lambda watch: LibiptcEngine(watch.run), ("--engine", "libiptc")),
)


class Programmer:
    """Keeps one node's rules, as a proxy would, with a stopwatch in its hand."""

    def __init__(self, way: Way, network: Network) -> None:
        self._network = network
        self._programs = Stopwatch()
        self._engine = way.make(self._programs)
        self._lowering = Lowering(Family.IPV4)

    def load(self, world: Snapshot) -> Share:
        """Everything, into empty tables."""
        began = now()
        plan = self._lowering.update(resolve_frontends(world))
        self._apply(plan)
        return Share(now() - began - self._programs.taken, self._programs.taken)

    def change(self, news: Snapshot) -> Share:
        """The Services in ``news`` are as it says."""
        began = now()
        plan = self._lowering.update(resolve_frontends(news), changed=news.services.keys())
        planned = now()
        self._apply(plan)
        return Share(planned - began, now() - planned)

    def load_flat(self, world: Snapshot) -> None:
        """The same rules, but all of KUBE-SERVICES in one chain, as kube-proxy lays them out."""
        self._lowering.update(resolve_frontends(world))
        self._apply(diff_rulesets(Ruleset(), flatten(self._lowering.ruleset)))

    def close(self) -> None:
        """Let go of the kernel; rules go with their namespace."""
        self._engine.close()

    def _apply(self, plan: Plan) -> None:
        self._network.inside("node", lambda: self._engine.apply(plan))


def flatten(ruleset: Ruleset) -> Ruleset:
    """Without the branches of KUBE-SERVICES: their lines in one list, in the order of addresses."""
    chains = ruleset.nat.chains

    def lines(chain: str) -> Rules:
        return tuple(
            line
            for rule in chains[chain]
            for line in (lines(rule.target) if rule.target.startswith(_BRANCH) else (rule,))
        )

    kept = {chain: rules for chain, rules in chains.items() if not chain.startswith(_BRANCH)}
    return Ruleset(filter=ruleset.filter, nat=Table({**kept, names.SERVICES: lines(names.SERVICES)}, ruleset.nat.jumps))
