"""Engines: the only part of this backend that touches a kernel. One protocol, so that one suite tests them all.

An engine works on the network namespace of the thread that calls it, and is used by one thread at a time. It is handed
``run``, the one door through which programs are started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rules.iptables.diff import Plan
from rules.iptables.ruleset import Ruleset

Variant = Literal["nft", "legacy"]
Part = Mapping[str, Collection[str]]  # table -> names of chains
LOCK_SECONDS = 10  # how long to wait for another user of the xtables lock


class EngineError(Exception):
    """The kernel or its tools refused; the message says what, and what to do about it where that is known."""


class Run(Protocol):
    """``agent.shell.run``: run a program, return its standard output, raise when it fails. ``timeout`` in seconds."""

    def __call__(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a watch saw: how many transactions, and which chains they touched (None: that cannot be told)."""

    commits: int = 0
    chains: frozenset[tuple[str, str]] | None = frozenset()


class Watch(Protocol):
    """Tells that somebody wrote to one family's tables, in time to look. ``fileno`` is readable when somebody did."""

    def fileno(self) -> int: ...

    def drain(self) -> Seen:
        """What happened since the last call. Never blocks."""

    def close(self) -> None: ...


class Engine(Protocol):
    """Reads and writes what is ours of one IP family's tables. All methods raise EngineError."""

    @property
    def name(self) -> str: ...

    @property
    def variant(self) -> Variant: ...

    @property
    def commits(self) -> int:
        """How many transactions it has made: a watch that saw no more saw nobody else."""

    def read(self) -> Ruleset:
        """What is installed of ours."""

    def read_part(self, part: Part) -> Ruleset | None:
        """What is installed of these chains (ours, or built-in ones with our jumps), and nothing else; None if all
        has to be read for that."""

    def apply(self, plan: Plan) -> None:
        """Carry out a plan; each table in one transaction, so that a refused table is left as it was. (A plan too large
        for that is cut into pieces that are right by themselves.)"""

    def watch(self) -> Watch:
        """Be told of other people's changes from now on."""

    def cleanup(self) -> None:
        """Remove everything that is ours, and what had to be made for it; foreign rules stay."""

    def close(self) -> None:
        """Give back what the engine holds. Rules stay."""
