"""Plans as inputs of iptables-restore: a small one, a table at a time, and a large one in pieces."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.iptables.diff import Plan, apply_plan, diff_rulesets
from rules.iptables.lower import lower_frontends
from rules.iptables.names import is_ours
from rules.iptables.parse import parse_rule
from rules.iptables.ruleset import Rule, Ruleset, Table
from rules.iptables.transactions import render_pieces, render_plan
from rules.policy import resolve_frontends
from rules.snapshot import Family
from tests.harness.services import Made, make_service, make_snapshot, many_services

Chains = dict[str, tuple[str, ...]]


class Kernel:
    """What ``iptables-restore --noflush`` does to the chains of each table, and what the kernel refuses of it."""

    def __init__(self, ruleset: Ruleset) -> None:
        self.tables: dict[str, Chains] = {}
        for name in ("filter", "nat"):
            table = ruleset.table(name)
            rules = {**table.chains, **dict.fromkeys(HOOKS, ()), **table.jumps}
            self.tables[name] = {chain: tuple(rule.text for rule in found) for chain, found in rules.items()}

    def restore(self, text: str) -> None:
        table, chains = "", Chains()
        for line in text.splitlines():
            if line.startswith("*"):
                table, chains = line[1:], dict(self.tables[line[1:]])
            elif line == "COMMIT":
                assert_jumps_find_their_chains(chains)
                self.tables[table] = chains
            else:
                do(chains, line)

    def chains(self, table: str) -> Chains:
        """The chains, but for built-in ones with nothing in them."""
        return {name: rules for name, rules in self.tables[table].items() if rules or name not in HOOKS}


HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def do(chains: Chains, line: str) -> None:
    """One line of the input."""
    if line.startswith(":"):
        chains[line[1:].split()[0]] = ()
        return
    option, chain, *rest = line.split(" ", 2)
    rule = rest[0] if rest else ""
    match option:
        case "-A":
            chains[chain] += (rule,)
        case "-I":
            chains[chain] = (rule.removeprefix("1 "), *chains[chain])
        case "-D":
            place = chains[chain].index(rule)
            chains[chain] = chains[chain][:place] + chains[chain][place + 1 :]
        case "-X":
            assert not chains.pop(chain), f"{chain} is not empty"
        case _:
            raise AssertionError(line)


def assert_jumps_find_their_chains(chains: Chains) -> None:
    for rules in chains.values():
        assert targets(rules) <= chains.keys()


@functools.cache
def targets(rules: tuple[str, ...]) -> frozenset[str]:
    """The chains of ours to which they lead."""
    return frozenset(target for text in rules if is_ours(target := Rule(text).target))


def lowered(*made: Made) -> Ruleset:
    return lower_frontends(resolve_frontends(make_snapshot(*made)), Family.IPV4)


def crowd(count: int, endpoints: int = 2, *, shift: int = 0, affinity: int | None = None) -> Ruleset:
    made = []
    for number in range(count):
        addresses = [f"10.244.{index}.{(number + shift) % 200 + 1}" for index in range(endpoints)]
        vip = f"10.96.{number % 7}.{number + 1}"
        made.append(
            make_service(f"svc-{number}", *addresses, vip=vip, node_port=30000 + number, affinity_seconds=affinity)
        )
    return lowered(*made)


STAGES = [
    Ruleset(),
    lowered(),
    lowered(make_service("web", "10.244.0.1", node_port=30001)),
    lowered(make_service("web", node_port=30001)),
    crowd(2, 40, affinity=60),
    crowd(34),
    crowd(34, shift=3),
    crowd(40, 0),
    crowd(60, 1),
]


@pytest.mark.parametrize("limit", [8, 100, 100000])
@given(before=st.sampled_from(STAGES), after=st.sampled_from(STAGES))
def test_pieces_come_to_the_same(limit: int, before: Ruleset, after: Ruleset) -> None:
    """Each is right by itself: its jumps find the chains that earlier ones made."""
    plan = diff_rulesets(before, after)
    whole, pieces = Kernel(before), Kernel(before)
    whole.restore(render_plan(plan))
    for piece in render_pieces(plan, limit):
        assert piece.count("\nCOMMIT\n") == 1
        pieces.restore(piece)
    for table in ("filter", "nat"):
        assert whole.chains(table) == pieces.chains(table) == Kernel(after).chains(table)


@given(before=st.sampled_from(STAGES), after=st.sampled_from(STAGES), limit=st.integers(1, 300))
def test_pieces_are_of_about_the_size_asked_for(before: Ruleset, after: Ruleset, limit: int) -> None:
    plan = diff_rulesets(before, after)
    longest = max((1 + len(c.after or ()) for table in plan.tables for c in table.chains), default=0)
    for piece in render_pieces(plan, limit):
        written = [line for line in piece.splitlines() if line.startswith((":", "-A"))]
        assert len(written) < limit + longest


def test_nothing_new_can_be_reached_before_it_is_whole() -> None:
    """Installing: a table's jumps from built-in chains come last. Removing: they go first."""
    full = crowd(50)
    for table in ("filter", "nat"):
        coming = lines_of(diff_rulesets(Ruleset(), full), table)
        assert "I" in coming
        assert not {":", "A"} & set(coming[coming.index("I") :])
        going = lines_of(diff_rulesets(full, Ruleset()), table)
        assert going.count("D") == coming.count("I")
        assert "D" not in going[going.index("X") :]


def lines_of(plan: Plan, table: str) -> list[str]:
    """What each line for a table does: a letter."""
    pieces = [piece for piece in render_pieces(plan, 50) if piece.startswith(f"*{table}\n")]
    lines = [line for piece in pieces for line in piece.splitlines() if line.startswith((":", "-"))]
    return [line[0] if line[0] == ":" else line[1] for line in lines]


def test_sets_are_no_matter_of_iptables() -> None:
    plan = Plan(new_sets=("PODWIRE-4-A",), old_sets=("PODWIRE-4-B",))
    assert plan
    assert (render_plan(plan), list(render_pieces(plan, 1))) == ("", [])
    assert apply_plan(plan, Ruleset(sets=frozenset({"PODWIRE-4-B"}))).sets == {"PODWIRE-4-A"}


def test_a_loop_that_a_stranger_made_is_taken_apart() -> None:
    """The kernel refuses loops only where packets can come to them."""
    loop = {"KUBE-SVC-A": (parse_rule("-j KUBE-SVC-B"),), "KUBE-SVC-B": (parse_rule("-j KUBE-SVC-A"),)}
    installed = Ruleset(nat=Table(loop))
    kernel = Kernel(installed)
    for piece in render_pieces(diff_rulesets(installed, Ruleset()), 2000):
        kernel.restore(piece)
    assert kernel.chains("nat") == {}


def test_a_large_plan_is_several_transactions_a_small_one_is_one_per_table() -> None:
    plan = diff_rulesets(Ruleset(), lower_frontends(resolve_frontends(many_services(300, 3)), Family.IPV4))
    assert plan.size > 2000
    assert render_plan(plan).count("\nCOMMIT\n") == 2
    assert len(list(render_pieces(plan, 500))) >= plan.size // 1000
