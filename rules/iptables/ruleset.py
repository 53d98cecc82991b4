"""Chains, rules and sets as values.

A rule is the text that ``iptables-save`` prints for it: addresses, interfaces, protocol, matches, target. That is the
one form which both variants of iptables read and write, and two rules are the same to the kernel exactly if their texts
are equal (``lower`` takes care to write them as the kernel would give them back). Text also is the cheapest form to
keep: a node of 10,000 Services has 80,000 rules, and most are never looked into.

A Ruleset holds what is ours and nothing else: our chains, our jumps to them from the built-in chains, and our sets of
addresses (``ipset``), which rules refer to by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

TABLES = ("filter", "nat")  # see diff for the order in which they are written
MAX_COMMENT = 255  # bytes: XT_MAX_COMMENT_LEN is 256 with its final zero
OWNER = "podwire"  # the first word of the comment on each of our jumps

_PLAIN = re.compile(r"[^\s\"'\\]+")
_PLAIN_COMMENT = re.compile(r"[A-Za-z0-9_-]+")
_SPECIAL, _BACKSLASH = re.compile(r"([\"'\\])"), r"\\\1"
_ODD = re.compile(r"[^ -~]")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_JUMP = re.compile(r"(?:^|(?<!--comment)\s)-[jg] (\S+)")  # somebody's comment may be "-j"
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Rule:
    """``text``: a line of ``iptables-save`` after ``-A CHAIN``."""

    text: str

    @property
    def words(self) -> tuple[str, ...]:
        """The text as iptables-restore splits it, unquoted."""
        return tuple(split_words(self.text))

    @property
    def target(self) -> str:
        """The chain or verdict that the rule jumps (or goes) to; empty for a rule that only counts."""
        found = _JUMP.search(self.text, self.text.rfind('"') + 1)  # mostly the last words: no need to split all of them
        return found[1] if found else self._after("-j") or self._after("-g")

    @property
    def comment(self) -> str:
        return self._after("--comment")

    @property
    def is_jump_of_ours(self) -> bool:
        return self.comment.split(":")[0] == OWNER

    def __str__(self) -> str:
        return self.text

    def _after(self, option: str) -> str:
        if option not in self.text:  # most rules are not what is looked for: do not split them
            return ""
        words = ["", *split_words(self.text)]
        for before, (name, value) in zip(words, pairwise(words[1:]), strict=False):
            if name == option and before != "--comment":
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
    """One family's tables. ``sets``: names of our sets (``hash:ip`` with timeouts; what is in them is the kernel's)."""

    filter: Table = field(default_factory=Table)
    nat: Table = field(default_factory=Table)
    sets: frozenset[str] = frozenset()

    def table(self, name: str) -> Table:
        return self.filter if name == "filter" else self.nat

    def __str__(self) -> str:
        return render_ruleset(self)


def render_ruleset(ruleset: Ruleset) -> str:
    """The ruleset as ``iptables-save`` would print it, if nothing else were installed. (Sets are not part of that.)"""
    lines: list[str] = []
    for name in TABLES:
        table = ruleset.table(name)
        lines += [f"*{name}", *_render_table(table), "COMMIT"]
    return "\n".join(lines) + "\n"


def shorten_comment(text: str) -> str:
    """Text that the kernel takes as a comment: printable ASCII in one line, at most MAX_COMMENT bytes."""
    clean = text if text.isascii() and text.isprintable() else _ODD.sub("?", text)
    return clean if len(clean) <= MAX_COMMENT else f"{clean[: MAX_COMMENT - 3]}..."


def quote_comment(text: str) -> str:
    """A comment as ``xtables_save_string`` prints it: bare only where it is letters, digits, ``_`` and ``-``."""
    return text if " " not in text and _PLAIN_COMMENT.fullmatch(text) else _quoted(text)


def join_words(words: Iterable[str]) -> str:
    """Words as one text, quoted where they must be."""
    found, before = [], ""
    for word in words:
        found.append(quote_comment(word) if before == "--comment" else _quote(word))
        before = word
    return " ".join(found)


def split_words(text: str) -> list[str]:
    """Words as iptables-restore splits them: by white space, except within double quotes, where backslash escapes."""
    if '"' not in text:
        return text.split()
    return [
        match[2] if match[1] is None else _ESCAPED.sub(r"\1", match[1]) if "\\" in match[1] else match[1]
        for match in _WORD.finditer(text)
    ]


def _render_table(table: Table) -> Iterator[str]:
    yield from (f":{chain} - [0:0]" for chain in sorted(table.chains))
    for rules in (table.jumps, table.chains):
        for chain in sorted(rules):
            yield from (f"-A {chain} {rule.text}" for rule in rules[chain])


def _quote(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else _quoted(word)


def _quoted(word: str) -> str:
    return f'"{_SPECIAL.sub(_BACKSLASH, word)}"' if _SPECIAL.search(word) else f'"{word}"'
