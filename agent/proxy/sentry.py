"""Noticing that somebody else changed our rules, without reading them all the time.

Each engine's watch tells how many transactions there were; what is more than our own was somebody else's. Where the
watch knows which chains were touched, only those of ours among them are read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import Engine, EngineError, Part, Seen, Watch
from rules.iptables.names import is_ours
from rules.iptables.ruleset import TABLES, Rules, Ruleset, Table
from rules.snapshot import Family

log = logging.getLogger(__name__)

FEW = 40  # chains to be read one by one rather than all at once
MANY = 5000  # lines written at once, about which it is not worth being told

Chains = frozenset[tuple[str, str]]


class Sentry:
    """Watches all engines of a node; begins with their first transaction."""

    def __init__(self, engines: Mapping[Family, Engine]) -> None:
        self._engines = engines
        self._watches: dict[Family, Watch] = {}
        self._counted = dict.fromkeys(engines, 0)  # of each engine's own transactions
        self._suspect: dict[Family, Chains | None] = {}  # None: anything

    @property
    def is_suspicious(self) -> bool:
        """Somebody else wrote while we did: this is known already, and no descriptor is going to tell of it again."""
        return bool(self._suspect)

    def descriptors(self) -> list[int]:
        return [watch.fileno() for watch in self._watches.values()]

    def apply(self, family: Family, plan: Plan) -> None:
        """Carry out a plan. Announcements of thousands of rules would only be thrown away: they are not listened to."""
        engine = self._engines[family]
        if family in self._watches and plan.size > MANY:
            self._watches.pop(family).close()
        if plan:
            engine.apply(plan)
        if family not in self._watches:
            self._watches[family] = engine.watch()
            self._counted[family] = engine.commits

    def account(self) -> None:
        """After our own transactions: whatever else was seen is suspect."""
        own = {family: engine.commits - self._counted[family] for family, engine in self._engines.items()}
        for family, watch in self._watches.items():
            seen = watch.drain()
            is_nft = self._engines[family].variant == "nft"
            expected = own[family] if is_nft else sum(own.values())  # the legacy lock is one for both families
            if seen.commits < expected or (is_nft and seen.chains is None):  # it was not told of everything
                self._mistrust(family, None)
            elif seen.commits > expected:
                self._mistrust(family, seen.chains)
        self._counted = {family: engine.commits for family, engine in self._engines.items()}

    def look(self, family: Family, wanted: Ruleset, *, thorough: bool) -> Plan:
        """What is not as wanted, as far as there was reason to look."""
        self._note(family)
        chains = self._suspect.pop(family, frozenset())
        if thorough or chains is None:
            return self._compare_all(family, wanted)
        part = _part(chains, wanted)
        if not part:
            return Plan()
        found = self._read_part(family, part) if sum(map(len, part.values())) <= FEW else None
        return self._compare_all(family, wanted) if found is None else diff_rulesets(found, _only(wanted, part))

    def close(self) -> None:
        for watch in self._watches.values():
            watch.close()

    def _note(self, family: Family) -> None:
        if family in self._watches:
            seen: Seen = self._watches[family].drain()
            if seen.commits or seen.chains is None:
                self._mistrust(family, seen.chains)

    def _mistrust(self, family: Family, chains: Chains | None) -> None:
        """These too; None: anything."""
        known = self._suspect.get(family, frozenset())
        self._suspect[family] = None if known is None or chains is None else known | chains

    def _read_part(self, family: Family, part: Part) -> Ruleset | None:
        """Chain by chain is not one look: while somebody writes there may be a chain that makes no sense."""
        try:
            return self._engines[family].read_part(part)
        except EngineError as error:
            log.info("%s: reading everything", error)
            return None

    def _compare_all(self, family: Family, wanted: Ruleset) -> Plan:
        return diff_rulesets(self._engines[family].read(), wanted)


def _part(chains: Chains, wanted: Ruleset) -> dict[str, Collection[str]]:
    """Of these, our chains and the built-in ones with our jumps, by table."""
    found: dict[str, set[str]] = {}
    for table, chain in chains:
        if table in TABLES and (is_ours(chain) or chain in wanted.table(table).jumps):
            found.setdefault(table, set()).add(chain)
    return dict(found)


def _only(ruleset: Ruleset, part: Mapping[str, Collection[str]]) -> Ruleset:
    """These chains of a ruleset, and jumps from them."""
    tables = {name: _only_of(ruleset.table(name), part.get(name, ())) for name in TABLES}
    return Ruleset(tables["filter"], tables["nat"])


def _only_of(table: Table, chains: Collection[str]) -> Table:
    def among(rules: Mapping[str, Rules]) -> dict[str, Rules]:
        return {chain: rules[chain] for chain in chains if chain in rules}

    return Table(among(table.chains), among(table.jumps))
