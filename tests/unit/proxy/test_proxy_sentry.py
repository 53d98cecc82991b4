"""Noticing tampering: what makes the sentry look, and at what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.proxy import sentry as sentry_module
from agent.proxy.sentry import Sentry
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import EngineError, Part, Variant
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family
from tests.harness.engines import MemoryEngine
from tests.harness.services import make_service, make_snapshot

IPV4, IPV6 = Family.IPV4, Family.IPV6
SERVICES = ("nat", "KUBE-SERVICES")


def lowered(*endpoints: str) -> Ruleset:
    return lower_frontends(resolve_frontends(make_snapshot(make_service("web", *endpoints))), IPV4)


WANTED, NEXT = lowered("10.244.0.1"), lowered("10.244.0.2")
TAMPERED = replace(WANTED, nat=replace(WANTED.nat, chains={**WANTED.nat.chains, "KUBE-SERVICES": ()}))


class Watched:
    """A sentry over one or two engines, whose first transaction has been made and accounted for."""

    def __init__(self, variant: Variant = "nft", *families: Family) -> None:
        self.engines = {family: MemoryEngine() for family in families or (IPV4,)}
        for engine in self.engines.values():
            engine.variant = variant
        self.engine = self.engines[IPV4]
        self.sentry = Sentry(self.engines)
        for family in self.engines:
            self.sentry.apply(family, diff_rulesets(Ruleset(), WANTED))
        self.sentry.account()

    def look(self, *, thorough: bool = False) -> tuple[Plan, int]:
        """What was found, and how often the engine was read for it."""
        before = self.engine.reads
        found = self.sentry.look(IPV4, WANTED, thorough=thorough)
        return found, self.engine.reads - before


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.sentry.close()


def test_nobody_did_anything(watched: Watched) -> None:
    assert watched.look() == (Plan(), 0)
    assert watched.look(thorough=True) == (Plan(), 1)


def test_our_own_transactions_are_no_reason_to_look(watched: Watched) -> None:
    watched.sentry.apply(IPV4, diff_rulesets(WANTED, NEXT))
    watched.sentry.apply(IPV4, diff_rulesets(NEXT, WANTED))
    watched.sentry.account()
    assert watched.look() == (Plan(), 0)


def test_a_foreign_change_of_ours_is_found(watched: Watched) -> None:
    watched.engine.tamper(TAMPERED, SERVICES)
    assert watched.look() == (diff_rulesets(TAMPERED, WANTED), 1)
    assert watched.look() == (Plan(), 0)  # told once


def test_a_foreign_change_of_foreign_chains_is_none_of_our_business(watched: Watched) -> None:
    watched.engine.tell(frozenset({("nat", "DOCKER"), ("mangle", "KUBE-SERVICES"), ("filter", "ufw-user-input")}))
    assert watched.look() == (Plan(), 0)


def test_a_foreign_change_beside_our_own(watched: Watched) -> None:
    watched.sentry.apply(IPV4, diff_rulesets(WANTED, NEXT))
    watched.engine.tamper(TAMPERED, SERVICES)
    watched.sentry.account()
    assert watched.look()[0] == diff_rulesets(TAMPERED, WANTED)


def test_a_built_in_chain_is_looked_at_where_our_jumps_belong(watched: Watched) -> None:
    jumps = {chain: rules for chain, rules in WANTED.nat.jumps.items() if chain != "OUTPUT"}
    without = replace(WANTED, nat=replace(WANTED.nat, jumps=jumps))
    watched.engine.tamper(without, ("nat", "OUTPUT"), ("nat", "INPUT"))
    (table,) = watched.look()[0].tables
    assert [jump.chain for jump in table.jumps] == ["OUTPUT"]


def test_a_change_of_which_only_its_happening_is_known_is_looked_for_everywhere(watched: Watched) -> None:
    watched.engine.tamper(Ruleset(), is_known=False)
    assert watched.look()[0] == diff_rulesets(Ruleset(), WANTED)


def test_many_chains_are_read_at_once(watched: Watched) -> None:
    watched.engine.tamper(TAMPERED, SERVICES, *(("nat", f"KUBE-SEP-{n:016}") for n in range(sentry_module.FEW)))
    watched.engine.read_part = None  # type: ignore[assignment,method-assign]  # is not called
    assert watched.look() == (diff_rulesets(TAMPERED, WANTED), 1)


def test_chains_that_cannot_be_read_one_by_one_are_read_all_at_once(watched: Watched) -> None:
    """As happens while somebody writes to them."""

    def fail(part: Part) -> Ruleset | None:
        raise EngineError("this chain makes no sense")

    watched.engine.tamper(TAMPERED, SERVICES)
    watched.engine.read_part = fail  # type: ignore[method-assign]
    assert watched.look() == (diff_rulesets(TAMPERED, WANTED), 1)


def test_announcements_that_were_lost_make_everything_suspect(watched: Watched) -> None:
    watched.sentry.apply(IPV4, diff_rulesets(WANTED, NEXT))
    watched.engine.watches[0].drain()  # we are told of none of it
    watched.sentry.account()
    watched.engine.installed = TAMPERED
    assert watched.look()[0] == diff_rulesets(TAMPERED, WANTED)


def test_a_large_plan_is_not_listened_to(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentry_module, "MANY", 3)
    watched.sentry.apply(IPV4, diff_rulesets(WANTED, NEXT))
    watched.sentry.account()
    assert [watch.closed for watch in watched.engine.watches] == [True, False]
    assert watched.look() == (Plan(), 0)
    assert watched.sentry.descriptors() == [watched.engine.watches[1].fileno()]


def test_the_lock_of_legacy_iptables_is_one_for_both_families() -> None:
    """Each watch sees the transactions of both; as many as were ours are no reason to look."""
    watched = Watched("legacy", IPV4, IPV6)
    watched.sentry.account()
    four, six = watched.engines.values()
    watched.sentry.apply(IPV4, diff_rulesets(WANTED, NEXT))
    for _ in range(four.commits // 2):
        six.tell(None)
    watched.sentry.account()
    assert watched.look() == (Plan(), 0)
    assert watched.sentry.look(IPV6, WANTED, thorough=False) == Plan()
    assert six.reads == 0
    four.tamper(TAMPERED, is_known=False)
    assert watched.look()[0] == diff_rulesets(TAMPERED, WANTED)
    watched.sentry.close()
