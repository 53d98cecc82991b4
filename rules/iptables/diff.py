"""Installed and wanted Ruleset -> Plan: the smallest set of whole chains to rewrite.

A table is changed in one transaction, so no packet sees half of a plan. Only our chains and our jumps are named in it;
foreign rules keep their place, except that our jumps go on top of a built-in chain when they are not there as they
should be (a rule that somebody put above ours later is left where it is).

Two tables are two transactions, so their order matters: a Service has a REJECT in ``filter`` or its DNAT in ``nat``,
and a packet that came in between and found neither would be lost. So ``filter`` goes first, unless all it does is to
lose rules: then it goes last. (A plan in which one Service loses its endpoints and another gets its first one cannot
have both; the latter's clients then try again, as they do anyway while there is no endpoint.)

Chains keep the order in which their Services came. Names of chains are hashes, so this is no order at all, which is as
well: iptables-nft sorts what the kernel lists with a quicksort whose worst case is a list that is sorted already
(iptables/nft-cache.c of 1.8.9); ten seconds instead of one, at 10,000 Services.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rules.iptables.ruleset import TABLES, Rules, Ruleset, Table


@dataclass(frozen=True, slots=True)
class ChainChange:
    """One chain of ours, before and after; None: it does not exist."""

    chain: str
    before: Rules | None
    after: Rules | None


@dataclass(frozen=True, slots=True)
class JumpChange:
    """Our jumps in one built-in chain, before and after, each in order."""

    chain: str
    before: Rules
    after: Rules


@dataclass(frozen=True, slots=True)
class TablePlan:
    """One transaction on one table."""

    table: str
    chains: tuple[ChainChange, ...]
    jumps: tuple[JumpChange, ...]

    @property
    def rules(self) -> int:
        """How many rules the engine has to write."""
        return sum(len(c.after or ()) for c in self.chains) + sum(len(jump.after) for jump in self.jumps)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, table by table; false if there is nothing to do. ``str`` is what ``--dry-run`` prints.

    ``new_sets`` have to be there, empty, before any rule; ``old_sets`` can go when no rule speaks of them any more.
    """

    tables: tuple[TablePlan, ...] = ()
    new_sets: tuple[str, ...] = ()
    old_sets: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tables or self.new_sets or self.old_sets)

    def __str__(self) -> str:
        return "\n".join(_describe(self)) or "nothing to change"

    @property
    def rules(self) -> int:
        """How many rules the engine has to write."""
        return sum(table.rules for table in self.tables)

    @property
    def size(self) -> int:
        """About how many lines of ``iptables-restore`` it is."""
        return self.rules + sum(len(table.chains) for table in self.tables)


def make_plan(tables: Iterable[TablePlan], *, new_sets: Iterable[str] = (), old_sets: Iterable[str] = ()) -> Plan:
    """A plan of what really changes, tables in the order in which they are to be written."""
    changed = (plan for plan in tables if plan.chains or plan.jumps)
    ordered = sorted(changed, key=lambda plan: plan.table == "filter" and _only_loses(plan))
    return Plan(tuple(ordered), tuple(sorted(new_sets)), tuple(sorted(old_sets)))


def diff_rulesets(installed: Ruleset, wanted: Ruleset) -> Plan:
    """The plan that turns ``installed`` into ``wanted``."""
    return make_plan(
        (_diff_table(name, installed.table(name), wanted.table(name)) for name in TABLES),
        new_sets=wanted.sets - installed.sets,
        old_sets=installed.sets - wanted.sets,
    )


def apply_plan(plan: Plan, ruleset: Ruleset) -> Ruleset:
    """What an engine leaves installed: ``apply_plan(diff_rulesets(a, b), a) == b``, pinned chains aside."""
    plans = {table.table: table for table in plan.tables}
    tables = {
        name: _apply_table(plans[name], ruleset.table(name)) if name in plans else ruleset.table(name)
        for name in TABLES
    }
    sets = ruleset.sets.union(plan.new_sets).difference(plan.old_sets)
    return Ruleset(filter=tables["filter"], nat=tables["nat"], sets=sets)


def _diff_table(name: str, installed: Table, wanted: Table) -> TablePlan:
    chains: list[ChainChange] = []
    for chain in dict.fromkeys((*wanted.chains, *installed.chains)):
        before, after = installed.chains.get(chain), wanted.chains.get(chain)
        if after is None and chain in installed.pinned:
            after = ()  # a foreign rule jumps here: it can be emptied, not deleted
        if before is not after and before != after:
            chains.append(ChainChange(chain, before, after))
    jumps = [
        JumpChange(chain, before, after)
        for chain in sorted(installed.jumps.keys() | wanted.jumps.keys())
        if (before := installed.jumps.get(chain, ())) != (after := wanted.jumps.get(chain, ()))
    ]
    return TablePlan(name, tuple(chains), tuple(jumps))


def _only_loses(plan: TablePlan) -> bool:
    """Whether the plan adds no rule."""
    changes: tuple[ChainChange | JumpChange, ...] = (*plan.chains, *plan.jumps)
    return all(set(change.after or ()) <= set(change.before or ()) for change in changes)


def _apply_table(plan: TablePlan, table: Table) -> Table:
    chains, jumps = dict(table.chains), dict(table.jumps)
    for change in plan.chains:
        if change.after is None:
            chains.pop(change.chain, None)
        else:
            chains[change.chain] = change.after
    for jump in plan.jumps:
        if jump.after:
            jumps[jump.chain] = jump.after
        else:
            jumps.pop(jump.chain, None)
    return Table(chains, jumps, table.pinned)


def _describe(plan: Plan) -> Iterator[str]:
    yield from (f"+ set {name}" for name in plan.new_sets)
    for table in plan.tables:
        yield from _describe_table(table)
    yield from (f"- set {name}" for name in plan.old_sets)


def _describe_table(plan: TablePlan) -> Iterator[str]:
    yield f"*{plan.table}"
    for jump in plan.jumps:
        yield from _describe_rules(jump.chain, jump.before, jump.after)
    for change in plan.chains:
        if change.before is None:
            yield f"+ :{change.chain}"
        yield from _describe_rules(change.chain, change.before or (), change.after or ())
        if change.after is None:
            yield f"- :{change.chain}"


def _describe_rules(chain: str, before: Rules, after: Rules) -> Iterator[str]:
    old, new = ([f" -A {chain} {rule}" for rule in rules] for rules in (before, after))
    hunks = difflib.unified_diff(old, new, n=0, lineterm="")
    yield from (line for line in hunks if line.startswith(("+ ", "- ")))
