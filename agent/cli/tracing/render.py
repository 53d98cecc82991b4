"""Branches as text for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from agent.cli.tracing.live import Sighting
from agent.cli.tracing.node import Installed
from rules.explain import Branch, Ending, Sentence, percent
from rules.iptables.names import MARK_MASQ
from rules.trace import Step

SHOWN = 8  # endpoints of one branch: more are counted, unless verbose


class Renderer:
    """Text. ``verbose``: every rule with its text, not only the last of each sentence."""

    def __init__(self, installed: Installed, *, verbose: bool) -> None:
        self._installed, self._verbose = installed, verbose

    def lines(self, branches: Sequence[Branch]) -> Iterator[str]:
        """All branches: what they have in common once, then each."""
        common = common_sentences(branches)
        yield from self._sentences(common, 1, indent="")
        if len(branches) == 1:
            yield from self._branch(branches[0], len(common), indent="")
            return
        for number, branch in enumerate(branches, 1):
            yield ""
            share = "if it is remembered" if branch.remembered else percent(branch.probability)
            yield f"Branch {number} ({share}):"
            yield from self._branch(branch, len(common), indent="  ")

    def _branch(self, branch: Branch, done: int, *, indent: str) -> Iterator[str]:
        rest = branch.sentences[done:]
        yield from self._sentences(rest, done + 1, indent=indent)
        number = done + len(rest) + 1
        if branch.endings:
            yield f"{indent}{number}. {_capital(branch.choice)}:"
            yield from self._endings(branch.endings, f"{indent}     ")
            number += 1
        yield from self._sentences(branch.after, number, indent=indent)
        yield f"{indent}=> {branch.result}"

    def _sentences(self, sentences: Iterable[Sentence], first: int, *, indent: str) -> Iterator[str]:
        for number, sentence in enumerate(sentences, first):
            yield f"{indent}{number}. {_capital(sentence.text)}"
            yield from (f"{indent}     {line}" for line in self._steps(sentence.steps))

    def _endings(self, endings: Sequence[Ending], indent: str) -> Iterator[str]:
        shown = endings if self._verbose or len(endings) <= SHOWN else endings[: SHOWN - 1]
        width = max(len(ending.endpoint) for ending in shown)
        names = max(len(ending.who) for ending in shown)
        for ending in shown:
            if self._verbose:
                yield f"{indent}{ending.endpoint}  {ending.who}".rstrip()
                yield from (f"{indent}  {line}" for line in self._steps(ending.steps))
            else:
                who = f"  {ending.who:<{names}}" if names else ""
                yield f"{indent}{ending.endpoint:<{width}}{who}  {self._place(ending.steps)}"
        if len(shown) < len(endings):
            yield f"{indent}... and {len(endings) - len(shown)} more (-v shows them)"

    def _steps(self, steps: Sequence[Step]) -> Iterator[str]:
        if self._verbose:
            for step in steps:
                yield f"{step.table} {step.chain} [{self._count(step)}] {step.rule}"
        elif steps:
            yield self._place(steps)

    def _place(self, steps: Sequence[Step]) -> str:
        """The last rule; of those that mark a packet, the one that says whose."""
        step = next((step for step in reversed(steps) if step.chain != MARK_MASQ), steps[-1])
        target = f" -> {step.rule.target}" if step.rule.target else ""
        return f"({step.table} {step.chain}{target}, {self._count(step)})"

    def _count(self, step: Step) -> str:
        found = self._installed.listing.find(step.table, step.chain, step.rule)
        packets = found.packets if found is not None else 0
        return f"{packets} packet{'' if packets == 1 else 's'}"


def _capital(text: str) -> str:
    """A sentence begins with a capital, unless with a name: ``externalTrafficPolicy``."""
    first = text.split(maxsplit=1)[0].rstrip(":;,")
    return text[0].upper() + text[1:] if first.isalpha() and first.islower() else text


def common_sentences(branches: Sequence[Branch]) -> tuple[Sentence, ...]:
    """What all branches begin with; of a single branch, everything before its choice."""
    columns = zip(*(branch.sentences for branch in branches), strict=False)
    same = takewhile(lambda column: len({sentence.text for sentence in column}) == 1, columns)
    return tuple(column[0] for column in same)


def sighting_lines(number: int, sighting: Sighting, branches: Sequence[Branch], *, verbose: bool) -> Iterator[str]:
    """What the kernel did with one real packet."""
    if sighting.matched is None:
        yield f"packet {number}: {sighting.answer}; NOT as predicted: {sighting.difference}"
    else:
        which = 1 + next(i for i, branch in enumerate(branches) if sighting.matched in branch.outcomes)
        where = f", to {sighting.matched.endpoint}" if sighting.matched.endpoint else ""
        who = "the kernel" if sighting.by == "trace" else "it (by rule counters alone: there is no nft to trace with)"
        yield f"packet {number}: {sighting.answer}; {who} went as predicted in branch {which}{where}"
    if verbose or sighting.matched is None:
        yield from (f"    {hop}{'' if hop.ours or hop.rule is None else '  (not podwire)'}" for hop in sighting.hops)


def branch_json(branch: Branch, installed: Installed) -> dict[str, Any]:
    return {
        "verdict": branch.verdict,
        "probability": round(branch.probability, 9),
        "onlyIfRemembered": branch.remembered,
        "sentences": [_sentence_json(sentence, installed) for sentence in branch.sentences],
        "choice": branch.choice,
        "endpoints": [_ending_json(ending, installed) for ending in branch.endings],
        "after": [_sentence_json(sentence, installed) for sentence in branch.after],
        "result": branch.result,
    }


def sighting_json(sighting: Sighting, branches: Sequence[Branch]) -> dict[str, Any]:
    matched = sighting.matched
    return {
        "answer": sighting.answer,
        "asPredicted": matched is not None,
        "by": sighting.by,
        "branch": None if matched is None else next(i for i, b in enumerate(branches) if matched in b.outcomes),
        "endpoint": "" if matched is None else matched.endpoint,
        "difference": sighting.difference,
        "kernel": [
            {
                "table": hop.event.table,
                "chain": hop.event.chain,
                "kind": hop.event.kind,
                "rule": str(hop.rule) if hop.rule is not None else None,
                "podwire": hop.ours,
            }
            for hop in sighting.hops
        ],
    }


def _ending_json(ending: Ending, installed: Installed) -> dict[str, Any]:
    return {
        "endpoint": ending.endpoint,
        "who": ending.who,
        "probability": round(ending.probability, 9),
        "rules": _steps_json(ending.steps, installed),
    }


def _sentence_json(sentence: Sentence, installed: Installed) -> dict[str, Any]:
    return {"text": sentence.text, "rules": _steps_json(sentence.steps, installed)}


def _steps_json(steps: Sequence[Step], installed: Installed) -> list[dict[str, Any]]:
    found = []
    for step in steps:
        counted = installed.listing.find(step.table, step.chain, step.rule)
        found.append(
            {
                "table": step.table,
                "chain": step.chain,
                "rule": str(step.rule),
                "packets": counted.packets if counted is not None else None,
                "bytes": counted.bytes if counted is not None else None,
            }
        )
    return found
