"""Making the kernel agree: blocking work, done by one thread that lives in the node's network namespace.

What is wanted is kept up to date Service by Service (``rules.iptables.lower.Lowering``), and each change yields the
plan that leads from what was wanted to what is: nothing here looks at Services that did not change. As long as the
kernel is known to hold what was wanted, the plan is carried out as it is; when that is not known (at the start, after a
failure), what is there is read first. What was done is committed only after success.

If the kernel refuses a change, the change is halved until the Services to blame are alone: the others go on, and those
to blame keep what they had. They are tried again when there is nothing else to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.proxy import conntrack
from agent.proxy.conntrack_netlink import Conntrack, ConntrackError
from agent.proxy.host import enable_route_localnet
from agent.proxy.sentry import Sentry
from rules.iptables.adopt import Destination, find_destinations
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import Engine, EngineError
from rules.iptables.lower import Lowering
from rules.iptables.ruleset import TABLES, Ruleset
from rules.policy import Frontends, ServiceFrontends
from rules.snapshot import Family, ServiceName

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sync did. ``refused``: Services the kernel would not take, and why. ``written``: rules, by family and
    table. ``ended``: by family, how many stale connections, and the seconds it took to find them."""

    applied: frozenset[ServiceName] = frozenset()
    refused: Mapping[ServiceName, str] = field(default_factory=dict)
    written: Mapping[Family, Mapping[str, int]] = field(default_factory=dict)
    ended: Mapping[Family, tuple[int, float]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rules(self) -> int:
        """How many were written in all."""
        return sum(count for tables in self.written.values() for count in tables.values())


class _Step(NamedTuple):
    """What to bring about: these Services (None: gone), and with ``basis`` other settings for all."""

    services: Mapping[ServiceName, ServiceFrontends | None]
    basis: Frontends | None = None


class Dataplane:
    """One engine per family. Every method raises EngineError, after which the next call starts by reading."""

    def __init__(self, engines: Mapping[Family, Engine]) -> None:
        self._engines = engines
        self._lowerings = {family: Lowering(family) for family in engines}
        self._sentry = Sentry(engines)
        self._trusted: set[Family] = set()  # the kernel holds what the lowering wants
        self._basis: Frontends | None = None
        self._done: dict[ServiceName, ServiceFrontends] = {}
        self._refused: dict[ServiceName, ServiceFrontends | None] = {}  # as they were wanted
        self._adopted: dict[Family, frozenset[Destination]] = {}  # until the first sync is through
        self._written: dict[Family, dict[str, int]] = {}
        self._refusals: dict[Family, int] = {}
        self._conntrack_told = False

    def sync(self, wanted: Frontends, *, changed: Collection[ServiceName] | None = None) -> Outcome:
        """Bring the kernel to ``wanted``, as far as it lets us.

        ``changed``: only these Services are other than at the last call, and settings are the same; those that
        ``wanted`` does not have are gone. None: anything may be. Nothing changed: those that were refused have another
        chance.
        """
        began = time.monotonic()
        self._written = {family: dict.fromkeys(TABLES, 0) for family in self._engines}
        self._refusals = dict.fromkeys(self._engines, 0)
        step = self._step(wanted, changed)
        before = self._done_of(step)
        refused = self._bring_about(step)
        for name, service in step.services.items():
            self._refused.pop(name, None)
            if name in refused:
                self._refused[name] = service
        return Outcome(
            applied=frozenset(step.services.keys() - refused.keys()),
            refused=refused,
            written=self._written,
            ended={family: self._end_stale(family, before, self._done_of(step)) for family in self._engines},
            seconds=time.monotonic() - began,
        )

    @property
    def refused(self) -> Collection[ServiceName]:
        """Services of which the kernel holds something else than was wanted."""
        return self._refused.keys()

    @property
    def refusals(self) -> Mapping[Family, int]:
        """How often the kernel said no during the last sync, whether or not that failed."""
        return self._refusals

    def check(self, *, thorough: bool = False) -> Plan:
        """Repair what somebody else changed; the plan says what had to be done. Looks only where the kernel announced
        a change, unless ``thorough``."""
        if self._basis is None:
            return Plan()
        found: list[Plan] = []
        for family, lowering in self._lowerings.items():
            try:
                plan = self._sentry.look(family, lowering.ruleset, thorough=thorough)
                if plan:
                    self._engines[family].apply(plan)
                    found.append(plan)
            except EngineError:
                self._trusted.discard(family)  # something was wrong, and maybe it still is
                raise
        self._sentry.account()
        return Plan(tuple(table for plan in found for table in plan.tables))

    def watched(self) -> list[int]:
        """Descriptors that become readable when somebody writes to the tables."""
        return self._sentry.descriptors()

    @property
    def is_suspicious(self) -> bool:
        """There is reason for a ``check`` now, of which ``watched`` is not going to tell."""
        return self._sentry.is_suspicious

    def rules(self) -> dict[Family, dict[str, int]]:
        """How many rules are installed, by family and table."""
        return {family: dict(lowering.rules) for family, lowering in self._lowerings.items()}

    def close(self) -> None:
        """Let go of the kernel. Rules stay."""
        self._sentry.close()
        for engine in self._engines.values():
            engine.close()

    def _step(self, wanted: Frontends, changed: Collection[ServiceName] | None) -> _Step:
        """What of all this differs from what was done."""
        if changed is None or self._basis is None:
            names = self._done.keys() | wanted.services.keys()
            basis = replace(wanted, services={})
            return _Step(self._pending(names, wanted.services), None if basis == self._basis else basis)
        if not changed:
            return _Step(dict(self._refused))
        return _Step(self._pending(changed, wanted.services))

    def _pending(
        self, names: Collection[ServiceName], wanted: Mapping[ServiceName, ServiceFrontends]
    ) -> dict[ServiceName, ServiceFrontends | None]:
        found = {name: wanted.get(name) for name in names}
        return {n: s for n, s in found.items() if n in self._refused or _rules_of(s) != _rules_of(self._done.get(n))}

    def _done_of(self, step: _Step) -> list[ServiceFrontends]:
        """The Services of a step as the kernel has them."""
        return [self._done[name] for name in step.services if name in self._done]

    def _bring_about(self, step: _Step) -> dict[ServiceName, str]:
        """As much of it as the kernel takes; returns what it refused, and why."""
        try:
            self._commit(step)
        except EngineError as error:
            log.warning("%s: looking for the Services to blame among %d", error, len(step.services))
            self._commit(_Step({}, step.basis or self._basis))  # if not even this works, no Service is to blame
            return self._isolate(step, error)
        return {}

    def _isolate(self, step: _Step, error: EngineError) -> dict[ServiceName, str]:
        """``step`` was refused with ``error``: take of it what can be taken, return the Services to blame."""
        if len(step.services) <= 1:
            return {name: str(error) for name in step.services}
        refused: dict[ServiceName, str] = {}
        for half in _halves(step):
            try:
                self._commit(half)
            except EngineError as reason:
                refused |= self._isolate(half, reason)
        return refused

    def _commit(self, step: _Step) -> None:
        """All families. On failure nothing is believed of the kernel, and what is wanted is again what was."""
        basis = step.basis or self._basis
        assert basis is not None
        try:
            if step.basis is not None and step.basis.settings.localhost_node_ports:
                enable_route_localnet()
            for family in self._engines:
                self._carry_out(family, self._follow(family, step, basis))
        except EngineError:
            self._trusted.clear()
            self._take_back(step)
            raise
        self._basis = basis
        for name, service in step.services.items():
            self._done.pop(name, None)
            if service is not None:
                self._done[name] = service
        self._sentry.account()

    def _follow(self, family: Family, step: _Step, basis: Frontends) -> Plan:
        lowering = self._lowerings[family]
        services = {name: service for name, service in step.services.items() if service is not None}
        if step.basis is None:
            return lowering.update(replace(basis, services=services), changed=step.services.keys())
        unchanged = {name: service for name, service in self._done.items() if name not in step.services}
        return lowering.update(replace(basis, services={**unchanged, **services}))

    def _take_back(self, step: _Step) -> None:
        for family, lowering in self._lowerings.items():
            if self._basis is None:
                self._lowerings[family] = Lowering(family)
            elif step.basis is None:
                before = {service.name: service for service in self._done_of(step)}
                lowering.update(replace(self._basis, services=before), changed=step.services.keys())
            else:
                lowering.update(replace(self._basis, services=self._done))

    def _carry_out(self, family: Family, plan: Plan) -> None:
        """A plan made from what was true no more is made again; one that fits and is refused is the plan's fault."""
        engine, lowering = self._engines[family], self._lowerings[family]
        if family not in self._trusted:
            plan = diff_rulesets(self._read(family), lowering.ruleset)
        self._trusted.discard(family)
        try:
            self._apply(family, plan)
        except EngineError as error:
            again = diff_rulesets(engine.read(), lowering.ruleset)
            if _is_same(again, plan):
                raise
            log.info("somebody else changed our rules meanwhile, planning again (%s)", error)
            plan = again
            self._apply(family, plan)
        self._trusted.add(family)
        for table in plan.tables:
            self._written[family][table.table] += table.rules

    def _apply(self, family: Family, plan: Plan) -> None:
        try:
            self._sentry.apply(family, plan)
        except EngineError:
            self._refusals[family] += 1
            raise

    def _read(self, family: Family) -> Ruleset:
        """What is installed. The first time this is all that is known of what an earlier proxy did."""
        found = self._engines[family].read()
        if self._basis is None:
            self._adopted.setdefault(family, find_destinations(found, *conntrack.CONNECTIONLESS))
        return found

    def _end_stale(
        self, family: Family, before: Iterable[ServiceFrontends], after: Iterable[ServiceFrontends]
    ) -> tuple[int, float]:
        """Only if a connectionless frontend changed. Returns how many connections were ended, and the seconds."""
        began = time.monotonic()
        old: dict[Destination, conntrack.Usable] = dict.fromkeys(self._adopted.pop(family, ()))
        old |= conntrack.usable_endpoints(before, family)
        new = conntrack.usable_endpoints(after, family)
        if old == new or self._basis is None:
            return 0, 0.0
        try:
            with Conntrack() as kernel:
                entries = kernel.dump(family, conntrack.CONNECTIONLESS)
                addresses = self._basis.node.addresses
                stale = conntrack.stale_entries(entries, before=old, after=new, node_addresses=addresses)
                return sum(kernel.delete(entry) for entry in stale), time.monotonic() - began
        except ConntrackError as error:
            if not self._conntrack_told:
                log.warning("cannot end UDP connections to endpoints that are gone: %s", error)
            self._conntrack_told = True
            return 0, time.monotonic() - began


def _is_same(one: Plan, other: Plan) -> bool:
    """Whatever the order in which they name what is to be changed."""
    changes = [{(t.table, change) for t in plan.tables for change in (*t.chains, *t.jumps)} for plan in (one, other)]
    return changes[0] == changes[1] and (one.new_sets, one.old_sets) == (other.new_sets, other.old_sets)


def _rules_of(service: ServiceFrontends | None) -> object:
    """What a Service's rules depend on."""
    return (service.ports, service.health_check and service.health_check.port) if service is not None else ((), None)


def _halves(step: _Step) -> tuple[_Step, _Step]:
    ordered = sorted(step.services)
    middle = len(ordered) // 2
    first, second = ({name: step.services[name] for name in part} for part in (ordered[:middle], ordered[middle:]))
    return _Step(first), _Step(second)
