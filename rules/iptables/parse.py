"""The text of ``iptables-save`` -> what of it is ours.

Ours are the chains that ``names.is_ours`` knows, whatever has been put into them, and the rules in other chains that
jump to them and carry our comment. Everything else belongs to somebody else; it is not even remembered, with two
exceptions: chains of ours that foreign rules jump to (``Table.pinned``), and the notes of an engine (``Saved.made``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rules.iptables.names import ENTRIES, MADE, is_ours
from rules.iptables.ruleset import TABLES, Rule, Rules, Ruleset, Table, join_words, split_words

_COUNTERS = re.compile(r"\[\d+:\d+\] ")


class ParseError(ValueError):
    """Not the text of iptables-save; the message cites the line."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One run of ``iptables-save``: what is ours, which tables exist, and per table the notes an engine left there."""

    ruleset: Ruleset
    tables: frozenset[str]
    made: Mapping[str, frozenset[str]]


@dataclass(slots=True)
class _Reading:
    """A table as it is being read."""

    chains: dict[str, list[Rule]] = field(default_factory=dict)
    jumps: dict[str, list[Rule]] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    def declare(self, chain: str) -> None:
        if chain.startswith(MADE):
            self.made.add(chain.removeprefix(MADE))
        elif is_ours(chain):
            self.chains[chain] = []

    def add_line(self, line: str) -> None:
        """A line ``-A CHAIN RULE``."""
        words = line.split(" ", 2)
        if words[0] != "-A" or len(words) < 2 or not words[1]:
            raise ParseError(f"cannot read iptables-save: not a rule: {line!r}")
        self.add(words[1], Rule(words[2] if len(words) > 2 else ""))

    def add(self, chain: str, rule: Rule) -> None:
        if chain in self.chains:
            self.chains[chain].append(rule)
        elif rule.target in ENTRIES and rule.is_jump_of_ours:
            self.jumps.setdefault(chain, []).append(rule)
        elif is_ours(rule.target):
            self.pinned.add(rule.target)

    def table(self) -> Table:
        return Table(_frozen(self.chains), _frozen(self.jumps), frozenset(self.pinned))


def parse_ruleset(text: str) -> Ruleset:
    """What is ours in the output of ``iptables-save``. Raises ParseError."""
    return parse_save(text).ruleset


def parse_save(text: str, *, sets: Iterable[str] = ()) -> Saved:
    """As ``parse_ruleset``, with what engines need besides. ``sets``: names of ours that exist. Raises ParseError."""
    tables: dict[str, _Reading] = {}
    current: _Reading | None = None
    for line in text.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), _Reading())
        elif current is not None:
            _read_line(current, line)
        elif line and not line.startswith("#"):
            raise ParseError(f"cannot read iptables-save: expected a table, found {line!r}")
    found = {name: tables.get(name, _Reading()) for name in TABLES}
    return Saved(
        ruleset=Ruleset(filter=found["filter"].table(), nat=found["nat"].table(), sets=frozenset(sets)),
        tables=frozenset(tables),
        made={name: frozenset(reading.made) for name, reading in found.items()},
    )


def parse_rule(text: str) -> Rule:
    """A rule from text that a person wrote: ``-d 10.96.0.1/32  -p tcp ...``."""
    return Rule(join_words(split_words(text)))


def parse_chains(text: str) -> Table:
    """What is ours in the output of ``iptables -S CHAIN`` for some chains of one table. Raises ParseError."""
    reading = _Reading()
    for line in text.splitlines():
        if line.startswith("-N "):
            reading.declare(line[3:])
        elif line.startswith("-A "):
            reading.add_line(line)
        elif line and not line.startswith("-P "):
            raise ParseError(f"cannot read iptables -S: {line!r} is neither a chain nor a rule")
    return reading.table()


def _read_line(table: _Reading, line: str) -> None:
    if line.startswith("-A "):
        table.add_line(line)
    elif line.startswith(":"):
        table.declare(line[1:].split(" ", 1)[0])
    elif line.startswith("["):
        table.add_line(_COUNTERS.sub("", line, count=1))
    elif line and not line.startswith("#") and line != "COMMIT":
        raise ParseError(f"cannot read iptables-save: {line!r} is neither a chain, a rule nor COMMIT")


def _frozen(rules: Mapping[str, list[Rule]]) -> dict[str, Rules]:
    return {chain: tuple(found) for chain, found in rules.items()}
