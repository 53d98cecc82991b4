"""All that ``iptables-save -c`` prints, with counters and positions: everybody's chains and rules, not only ours.

For looking, not for writing: the kernel's own trace names a rule by its place in its chain, and a packet may end at a
rule that is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rules.iptables.ruleset import Rule


class ChainName(NamedTuple):
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class Counted:
    """A rule, and how many packets and bytes it has matched since it was written."""

    rule: Rule
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """``policies`` of built-in chains: ACCEPT or DROP."""

    chains: Mapping[ChainName, tuple[Counted, ...]] = field(default_factory=dict)
    policies: Mapping[ChainName, str] = field(default_factory=dict)

    def rule_at(self, table: str, chain: str, number: int) -> Counted | None:
        """A rule by its place, counted from 1; None: there is no such place."""
        rules = self.chains.get(ChainName(table, chain), ())
        return rules[number - 1] if 0 < number <= len(rules) else None

    def find(self, table: str, chain: str, rule: Rule) -> Counted | None:
        """A rule with its counters."""
        rules = self.chains.get(ChainName(table, chain), ())
        return next((counted for counted in rules if counted.rule == rule), None)


def parse_listing(text: str) -> Listing:
    """The output of ``iptables-save``, with or without ``-c``; what is neither chain nor rule is passed over."""
    chains: dict[ChainName, list[Counted]] = {}
    policies: dict[ChainName, str] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith(("[", "-A ")):
            chain, counted = _read_rule(line)
            chains.setdefault(ChainName(table, chain), []).append(counted)
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            chains.setdefault(ChainName(table, chain), [])
            if policy != "-":
                policies[ChainName(table, chain)] = policy
        elif line.startswith("*"):
            table = line[1:].strip()
    return Listing({name: tuple(rules) for name, rules in chains.items()}, policies)


def _read_rule(line: str) -> tuple[str, Counted]:
    """``[3:180] -A CHAIN text``."""
    counters, _, rule = line.partition("-A ")
    chain, _, text = rule.partition(" ")
    packets, _, size = counters.strip("[] ").partition(":")
    return chain, Counted(Rule(text), int(packets or 0), int(size or 0))
