"""A Plan as the input of ``iptables-restore --noflush``: one transaction per table, or many small ones.

In that input, declaring a chain creates it or empties it. A table's part is one transaction: no packet sees half of it.

The nft variant takes much longer over one large transaction than over many small ones: for each, the kernel walks the
chains that can be reached from the built-in ones (nf_tables_validate). So a large plan is cut up: first new chains,
each after those that it leads to, so that nothing can reach them yet; then the chains that change, then the jumps from
the built-in chains; at last the chains that go, each after those that led to it. Every piece is right by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rules.iptables.diff import ChainChange, JumpChange, Plan, TablePlan
from rules.iptables.ruleset import Rules


def render_plan(plan: Plan) -> str:
    """All of it as one input, with one transaction per table."""
    return "".join(_render(table.table, table.chains, table.jumps) for table in plan.tables)


def render_pieces(plan: Plan, limit: int) -> Iterator[str]:
    """Inputs of about ``limit`` lines each, to be run one after the other."""
    for table in plan.tables:
        for piece in _cut(_in_order(table), limit):
            yield _render(table.table, piece, ())
        if table.jumps:
            yield _render(table.table, (), table.jumps)
        for piece in _cut(_going(table), limit):
            yield _render(table.table, piece, ())


def _render(table: str, chains: Iterable[ChainChange], jumps: Iterable[JumpChange]) -> str:
    """Chains first, so that jumps find them; deletions last, when nothing jumps there any more."""
    lines = [f"*{table}"]
    lines += [f":{change.chain} - [0:0]" for change in chains]
    for jump in jumps:
        lines += [f"-D {jump.chain} {rule.text}" for rule in jump.before]
    for change in chains:
        prefix = f"-A {change.chain} "
        lines += [prefix + rule.text for rule in change.after or ()]
    for jump in jumps:
        lines += [f"-I {jump.chain} 1 {rule.text}" for rule in reversed(jump.after)]
    lines += [f"-X {change.chain}" for change in chains if change.after is None]
    lines += ["COMMIT", ""]
    return "\n".join(lines)


def _in_order(plan: TablePlan) -> list[ChainChange]:
    """New chains, leaves first, then those that change."""
    new = {change.chain: change for change in plan.chains if change.before is None}
    ordered = _leaves_first({chain: change.after or () for chain, change in new.items()})
    return [new[chain] for chain in ordered] + [
        change for change in plan.chains if change.before is not None and change.after is not None
    ]


def _going(plan: TablePlan) -> list[ChainChange]:
    """The chains that go, roots first."""
    old = {change.chain: change for change in plan.chains if change.after is None}
    ordered = _leaves_first({chain: change.before or () for chain, change in old.items()})
    return [old[chain] for chain in reversed(ordered)]


def _leaves_first(chains: Mapping[str, Rules]) -> list[str]:
    """Every chain after those that its rules lead to. (A loop, which nobody but a stranger makes, is entered once.)"""
    ordered: list[str] = []
    seen: set[str] = set()

    def visit(chain: str) -> None:
        seen.add(chain)
        for rule in chains[chain]:
            if rule.target in chains and rule.target not in seen:
                visit(rule.target)
        ordered.append(chain)

    for chain in chains:
        if chain not in seen:
            visit(chain)
    return ordered


def _cut(changes: Sequence[ChainChange], limit: int) -> Iterator[list[ChainChange]]:
    piece: list[ChainChange] = []
    size = 0
    for change in changes:
        piece.append(change)
        size += 1 + len(change.after or ())
        if size >= limit:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
