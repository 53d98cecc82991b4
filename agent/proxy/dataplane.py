"""Making the kernel agree: blocking work, done by one thread that lives in the node's network namespace.

State is what is known to be installed; it is committed only after success, and forgotten (read again) after a failure.

If the kernel refuses a change, the change is halved until the Services to blame are alone: the others go on, and those
to blame keep what they had. They are tried again with every later ``sync``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.proxy import conntrack
from agent.shell import CommandError
from rules.iptables.diff import Plan, apply_plan, diff_rulesets
from rules.iptables.engines import Engine, EngineError, Run
from rules.iptables.lower import Memo, lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import Frontends, ServiceFrontends
from rules.snapshot import Family, ServiceName

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sync did. ``refused``: Services the kernel would not take, and why. ``rules``: how many were written."""

    applied: frozenset[ServiceName] = frozenset()
    refused: Mapping[ServiceName, str] = field(default_factory=dict)
    rules: int = 0
    seconds: float = 0.0


class Dataplane:
    """One engine per family. Every method raises EngineError, after which the next call starts by reading."""

    def __init__(self, engines: Mapping[Family, Engine], run: Run) -> None:
        self._engines, self._run = engines, run
        self._memos = {family: Memo() for family in engines}
        self._installed: dict[Family, Ruleset] = {}
        self._done: Frontends | None = None
        self._verified: dict[Family, tuple[int, int]] = {}  # what was read and found to be as wanted
        self._written = 0
        self._conntrack_missing = False

    def sync(self, wanted: Frontends) -> Outcome:
        """Bring the kernel to ``wanted``, as far as it lets us."""
        began, self._written = time.monotonic(), 0
        base = self._done or replace(wanted, services={})
        pending = _pending(base, wanted)
        refused: dict[ServiceName, str] = {}
        try:
            self._commit(wanted)
        except EngineError as error:
            log.warning("%s: looking for the Services to blame among %d", error, len(pending))
            self._commit(base)  # if not even this works, no Service is to blame
            refused = self._isolate(wanted, pending, error)
        return Outcome(
            applied=frozenset(pending - refused.keys()),
            refused=refused,
            rules=self._written,
            seconds=time.monotonic() - began,
        )

    def check(self) -> Plan:
        """Compare with the kernel and repair what somebody else changed; the plan says what had to be done."""
        if self._done is None:
            return Plan()
        found: list[Plan] = []
        for family, engine in self._engines.items():
            seen = engine.read()
            if self._verified.get(family) == (id(seen), id(self._done)):
                continue
            plan = diff_rulesets(seen, self._lower(self._done, family))
            if plan:
                self._carry_out(family, plan, seen)
                found.append(plan)
            else:
                self._verified[family] = (id(seen), id(self._done))
        return Plan(tuple(table for plan in found for table in plan.tables))

    def rules(self) -> dict[str, int]:
        """How many rules are installed, by table."""
        counts = {"filter": 0, "nat": 0}
        for ruleset in self._installed.values():
            for table in counts:
                counts[table] += sum(len(rules) for rules in ruleset.table(table).chains.values())
        return counts

    def close(self) -> None:
        """Let go of the kernel. Rules stay."""
        for engine in self._engines.values():
            engine.close()

    def _isolate(self, wanted: Frontends, pending: set[ServiceName], error: EngineError) -> dict[ServiceName, str]:
        """``pending`` was refused with ``error``: apply what can be applied of it, return the Services to blame."""
        if len(pending) <= 1:
            return {name: str(error) for name in pending}
        refused: dict[ServiceName, str] = {}
        for half in _halves(pending):
            try:
                self._commit(_with(self._done or replace(wanted, services={}), wanted, half))
            except EngineError as reason:
                refused |= self._isolate(wanted, half, reason)
        return refused

    def _commit(self, frontends: Frontends) -> None:
        """All families to ``frontends``, then connections that lost their endpoint."""
        for family in self._engines:
            self._apply(family, self._lower(frontends, family))
        before, self._done = self._done, frontends
        for family in self._engines:
            self._end_stale_flows(family, before, frontends)

    def _lower(self, frontends: Frontends, family: Family) -> Ruleset:
        return lower_frontends(frontends, family, self._memos[family])

    def _apply(self, family: Family, wanted: Ruleset) -> None:
        """A plan made from what was true no more is made again; one that fits and is refused is the plan's fault."""
        known = self._installed.get(family)
        installed = self._engines[family].read() if known is None else known
        try:
            self._carry_out(family, diff_rulesets(installed, wanted), installed)
        except EngineError as error:
            found = self._engines[family].read()
            if found == installed:
                raise
            log.info("somebody else changed our rules meanwhile, planning again (%s)", error)
            self._carry_out(family, diff_rulesets(found, wanted), found)

    def _carry_out(self, family: Family, plan: Plan, installed: Ruleset) -> None:
        self._installed.pop(family, None)
        if plan:
            self._engines[family].apply(plan)
        self._installed[family] = apply_plan(plan, installed)
        self._written += plan.rules

    def _end_stale_flows(self, family: Family, before: Frontends | None, after: Frontends) -> None:
        """Only if a connectionless frontend changed. A host without the conntrack program is told of once."""
        old = conntrack.usable_endpoints(before, family) if before is not None else {}
        new = conntrack.usable_endpoints(after, family)
        if old == new or self._conntrack_missing:
            return
        try:
            flows = conntrack.list_flows(self._run, family)
            stale = conntrack.stale_flows(flows, before=old, after=new, node_addresses=after.node.addresses)
            conntrack.delete_flows(self._run, stale)
        except CommandError as error:
            self._conntrack_missing = error.code is None
            log.warning("cannot end UDP connections to endpoints that are gone (package conntrack?): %s", error)


def _pending(base: Frontends, wanted: Frontends) -> set[ServiceName]:
    """The Services whose rules may differ."""
    names = base.services.keys() | wanted.services.keys()
    return {name for name in names if _ports(base, name) != _ports(wanted, name)}


def _ports(frontends: Frontends, name: ServiceName) -> object:
    found = frontends.services.get(name)
    return found.ports if found is not None else ()


def _halves(names: set[ServiceName]) -> tuple[set[ServiceName], set[ServiceName]]:
    ordered = sorted(names)
    middle = len(ordered) // 2
    return set(ordered[:middle]), set(ordered[middle:])


def _with(base: Frontends, wanted: Frontends, names: set[ServiceName]) -> Frontends:
    """``base`` with these Services as ``wanted`` has them."""
    services: dict[ServiceName, ServiceFrontends] = dict(base.services)
    for name in names:
        if name in wanted.services:
            services[name] = wanted.services[name]
        else:
            services.pop(name, None)
    return replace(wanted, services=services)
