"""An engine without a kernel, for tests that need no root; ``tests/contract`` holds it to what the real ones do."""

from __future__ import annotations

import contextlib
import os
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
        self.watches: list[MemoryWatch] = []

    def read(self) -> Ruleset:
        self.reads += 1
        return self.installed

    def read_part(self, part: Part) -> Ruleset | None:
        self.reads += 1
        tables = {name: _only(self.installed.table(name), part.get(name, ())) for name in TABLES}
        return Ruleset(tables["filter"], tables["nat"])

    def watch(self) -> MemoryWatch:
        self.watches.append(MemoryWatch())
        return self.watches[-1]

    def tamper(self, installed: Ruleset, *chains: tuple[str, str], is_known: bool = True) -> None:
        """Somebody else puts this there instead, and watches are told that it was about these chains (not
        ``is_known``: that it was about something)."""
        self.installed = installed
        self.tell(frozenset(chains) if is_known else None)

    def tell(self, chains: frozenset[tuple[str, str]] | None) -> None:
        """Let all watches see one transaction."""
        for watch in self.watches:
            watch.tell(chains)

    def apply(self, plan: Plan) -> None:
        self._check(plan)
        why = self.refuse(render_plan(plan))
        if why is not None:
            raise EngineError(why)
        self.applied.append(plan)
        self.installed = apply_plan(plan, self.installed)
        for table in plan.tables:
            self.commits += 1
            touched = [change.chain for change in table.chains] + [jump.chain for jump in table.jumps]
            self.tell(frozenset((table.table, chain) for chain in touched))

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

    def __init__(self) -> None:
        self._seen: list[frozenset[tuple[str, str]] | None] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.closed = False

    def tell(self, chains: frozenset[tuple[str, str]] | None) -> None:
        if not self.closed:
            self._seen.append(chains)
            os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        return self._event

    def drain(self) -> Seen:
        seen, self._seen = self._seen, []
        with contextlib.suppress(BlockingIOError):  # whoever tells may not have come that far yet
            os.eventfd_read(self._event)
        known = frozenset(place for chains in seen for place in chains or ())
        return Seen(len(seen), None if None in seen else known)

    def close(self) -> None:
        self.closed = True
        os.close(self._event)


def _only(table: Table, chains: Collection[str]) -> Table:
    found = {chain: rules for chain, rules in table.chains.items() if chain in chains}
    return Table(found, {chain: rules for chain, rules in table.jumps.items() if chain in chains})
