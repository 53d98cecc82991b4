"""An engine without a kernel, for tests that need no root; ``tests/contract`` holds it to what the real ones do."""

from __future__ import annotations

from collections.abc import Callable

from rules.iptables.diff import Plan, apply_plan, diff_rulesets, render_plan
from rules.iptables.engines import EngineError, Variant
from rules.iptables.ruleset import TABLES, Ruleset


class MemoryEngine:
    """Holds a ruleset. ``refuse`` may look at a plan's text and say why it will not do (None: it will)."""

    name = "memory"
    variant: Variant = "nft"

    def __init__(self) -> None:
        self.installed = Ruleset()
        self.refuse: Callable[[str], str | None] = lambda text: None
        self.applied: list[Plan] = []
        self.reads = 0
        self.closed = False

    def read(self) -> Ruleset:
        self.reads += 1
        return self.installed

    def apply(self, plan: Plan) -> None:
        self._check(plan)
        why = self.refuse(render_plan(plan))
        if why is not None:
            raise EngineError(why)
        self.applied.append(plan)
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
                    if rule.target.startswith("KUBE-") and rule.target not in content.chains:
                        raise EngineError(f"no such chain: {rule.target}")
