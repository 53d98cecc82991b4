"""All that ``iptables-save -c`` prints, with counters and positions: everybody's chains and rules, not only ours.

For looking, not for writing: the kernel's own trace names a rule by its place in its chain, and a packet may end at a
rule that is not ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rules.iptables.parse import parse_rule
from rules.iptables.ruleset import Rule

_RULE = re.compile(r"(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)")
_CHAIN = re.compile(r":(\S+) (\S+)")


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
    for table, line in _by_table(text):
        if match := _CHAIN.match(line):
            name = ChainName(table, match[1])
            chains.setdefault(name, [])
            if match[2] != "-":
                policies[name] = match[2]
        elif match := _RULE.fullmatch(line):
            counted = Counted(parse_rule(match[4]), int(match[1] or 0), int(match[2] or 0))
            chains.setdefault(ChainName(table, match[3]), []).append(counted)
    return Listing({name: tuple(rules) for name, rules in chains.items()}, policies)


def _by_table(text: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        else:
            yield table, line
