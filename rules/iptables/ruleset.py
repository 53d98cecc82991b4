"""Chains and rules as values.

A rule is the tuple of words that ``iptables-save`` prints for it, in its order: addresses, interfaces, protocol,
matches, target. That is the one form which both variants of iptables read and write, and two rules are the same to the
kernel exactly if their words are equal (``lower`` takes care to write words as the kernel would give them back).

A Ruleset holds what is ours and nothing else: our chains, and our jumps to them from the built-in chains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

TABLES = ("filter", "nat")  # see diff for the order in which they are written
MAX_COMMENT = 255  # bytes: XT_MAX_COMMENT_LEN is 256 with its final zero
OWNER = "podwire"  # the first word of the comment on each of our jumps

_PLAIN = re.compile(r"[^\s\"'\\]+")
_PLAIN_COMMENT = re.compile(r"[A-Za-z0-9_-]+")
_ODD = re.compile(r"[^ -~]")


@dataclass(frozen=True, slots=True)
class Rule:
    """``words``: as in a line of ``iptables-save`` after ``-A CHAIN``, unquoted."""

    words: tuple[str, ...]

    @property
    def target(self) -> str:
        """The chain or verdict that the rule jumps (or goes) to; empty for a rule that only counts."""
        return self._after("-j") or self._after("-g")

    @property
    def comment(self) -> str:
        return self._after("--comment")

    @property
    def is_jump_of_ours(self) -> bool:
        return self.comment.split(":")[0] == OWNER

    def __str__(self) -> str:
        return " ".join(_quote(word, before) for before, word in zip(("", *self.words), self.words, strict=False))

    def _after(self, option: str) -> str:
        for name, value in zip(self.words, self.words[1:], strict=False):
            if name == option:
                return value
        return ""


Rules = tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """``chains``: ours. ``jumps``: by built-in chain, our rules in it, in their order.

    ``pinned``: chains of ours that somebody else's rule jumps to; the kernel would not let us delete them.
    """

    chains: Mapping[str, Rules] = field(default_factory=dict)
    jumps: Mapping[str, Rules] = field(default_factory=dict)
    pinned: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Ruleset:
    filter: Table = field(default_factory=Table)
    nat: Table = field(default_factory=Table)

    def table(self, name: str) -> Table:
        return self.filter if name == "filter" else self.nat

    def __str__(self) -> str:
        return render_ruleset(self)


def render_ruleset(ruleset: Ruleset) -> str:
    """The ruleset as ``iptables-save`` would print it, if nothing else were installed."""
    lines: list[str] = []
    for name in TABLES:
        table = ruleset.table(name)
        lines += [f"*{name}", *_render_table(table), "COMMIT"]
    return "\n".join(lines) + "\n"


def shorten_comment(text: str) -> str:
    """Text that the kernel takes as a comment: printable ASCII in one line, at most MAX_COMMENT bytes."""
    clean = _ODD.sub("?", text)
    return clean if len(clean) <= MAX_COMMENT else f"{clean[: MAX_COMMENT - 3]}..."


def _render_table(table: Table) -> Iterator[str]:
    yield from (f":{chain} - [0:0]" for chain in sorted(table.chains))
    for rules in (table.jumps, table.chains):
        for chain in sorted(rules):
            yield from (f"-A {chain} {rule}" for rule in rules[chain])


def _quote(word: str, before: str) -> str:
    """As ``xtables_save_string`` does for comments; other words are quoted only where they must be."""
    plain = _PLAIN_COMMENT if before == "--comment" else _PLAIN
    if plain.fullmatch(word):
        return word
    return '"' + re.sub(r"([\"'\\])", r"\\\1", word) + '"'
