"""An engine without a kernel, for tests that need no root; ``tests/contract`` holds it to what the real ones do."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rules.iptables.diff import Plan, apply_plan, diff_rulesets
from rules.iptables.engines import EngineError, Part, Seen, Variant
from rules.iptables.names import is_ours
from rules.iptables.ruleset import TABLES, Ruleset, Table
from rules.iptables.transactions import render_plan


class MemoryEngine:
    """Holds a ruleset. ``refuse`` may look at a plan's text and say why it will not do (None: it will)."""

    name = "memory"
    variant: Variant = "nft"

    def __init__(self) -> None:
        self.installed = Ruleset()
        self.refuse: Callable[[str], str | None] = lambda text: None
        self.applied: list[Plan] = []
        self.reads = 0
        self.commits = 0
        self.closed = False
        self.told: list[frozenset[tuple[str, str]] | None] = []  # what a watch is going to see of others

    def read(self) -> Ruleset:
        self.reads += 1
        return self.installed

    def read_part(self, part: Part) -> Ruleset | None:
        self.reads += 1
        tables = {name: _only(self.installed.table(name), part.get(name, ())) for name in TABLES}
        return Ruleset(tables["filter"], tables["nat"])

    def watch(self) -> MemoryWatch:
        return MemoryWatch(self)

    def apply(self, plan: Plan) -> None:
        self._check(plan)
        why = self.refuse(render_plan(plan))
        if why is not None:
            raise EngineError(why)
        self.applied.append(plan)
        self.commits += len(plan.tables)
        self.installed = apply_plan(plan, self.installed)

    def cleanup(self) -> None:
        self.apply(diff_rulesets(self.installed, Ruleset()))

    def close(self) -> None:
        self.closed = True

    def _check(self, plan: Plan) -> None:
        """Jumps to delete must be there, chains to jump to must exist."""
        after = apply_plan(plan, self.installed)
        for table in plan.tables:
            for jump in table.jumps:
                have = self.installed.table(table.table).jumps.get(jump.chain, ())
                if any(rule not in have for rule in jump.before):
                    raise EngineError(f"no such rule in {jump.chain}")
        for name in TABLES:
            content = after.table(name)
            for rules in (*content.chains.values(), *content.jumps.values()):
                for rule in rules:
                    if is_ours(rule.target) and rule.target not in content.chains:
                        raise EngineError(f"no such chain: {rule.target}")


class MemoryWatch:
    """Sees each transaction of its engine, and what a test lets it be told of others."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine, self._counted = engine, engine.commits

    def fileno(self) -> int:
        raise NotImplementedError("there is no kernel to tell of anything")

    def drain(self) -> Seen:
        own, self._counted = self._engine.commits - self._counted, self._engine.commits
        told, self._engine.told = self._engine.told, []
        if None in told:
            return Seen(own + len(told), None)
        return Seen(own + len(told), frozenset(place for chains in told for place in chains or ()))

    def close(self) -> None:
        pass


def _only(table: Table, chains: Collection[str]) -> Table:
    found = {chain: rules for chain, rules in table.chains.items() if chain in chains}
    return Table(found, {chain: rules for chain, rules in table.jumps.items() if chain in chains})
