"""The engine that runs ``iptables-restore`` and ``iptables-save``, nft or legacy, IPv4 or IPv6.

``--noflush`` keeps everything that the input does not name; each table's part is one transaction of the kernel (one
netlink batch in the nft variant, one table replacement in legacy). Legacy likes one large transaction, nft many small
ones (``transactions``).

Sets of addresses are ``ipset``'s: made before the rules that speak of them, destroyed after.

The nft variant makes tables and base chains when they are first needed and never removes them. To leave a host as it
was found, this engine notes what it is about to make, in the kernel itself, where the note survives a crash: an empty
chain ``PODWIRE-MADE-TABLE`` or ``PODWIRE-MADE-<base chain>`` beside it. The legacy variant's tables belong to the
kernel: once used they exist until the namespace goes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import LOCK_SECONDS, EngineError, Part, Run, Variant, Watch
from rules.iptables.engines.ipset import PATIENCE, Sets
from rules.iptables.engines.watch import LockWatch, NftWatch
from rules.iptables.names import MADE, MADE_TABLE
from rules.iptables.parse import ParseError, Saved, parse_chains, parse_save
from rules.iptables.ruleset import TABLES, Ruleset, Table
from rules.iptables.transactions import render_pieces, render_plan
from rules.snapshot import Family

log = logging.getLogger(__name__)

PIECE = 2000  # lines; what iptables-nft-restore writes best at a time


class RestoreEngine:
    """``iptables-<variant>-restore`` as an Engine."""

    def __init__(self, run: Run, *, variant: Variant, family: Family = Family.IPV4, nft: str | None = "nft") -> None:
        """``nft``: the nft program, which only ``cleanup`` of the nft variant needs; None: there is none."""
        self._run = run
        self._variant: Variant = variant
        self._tool = "iptables" if family is Family.IPV4 else "ip6tables"
        self._nft_family = "ip" if family is Family.IPV4 else "ip6"
        self._nft = nft
        self._family = family
        self._sets = Sets(run, family)
        self._commits = 0

    @property
    def name(self) -> str:
        return "restore"

    @property
    def variant(self) -> Variant:
        return self._variant

    @property
    def commits(self) -> int:
        return self._commits

    def read(self) -> Ruleset:
        return self._save().ruleset

    def read_part(self, part: Part) -> Ruleset | None:
        if self._variant == "legacy":  # it always travels whole
            return None
        listed = {table: [self._list_chain(table, c) for c in sorted(chains)] for table, chains in part.items()}
        if any(text is None for texts in listed.values() for text in texts):
            return None
        tables = {table: self._parse_chains("".join(filter(None, texts))) for table, texts in listed.items()}
        return Ruleset(tables.get("filter", Table()), tables.get("nat", Table()))

    def apply(self, plan: Plan) -> None:
        self._sets.make(plan.new_sets)
        if plan.tables:
            notes = self._note(plan)
            if self._variant == "nft" and plan.size > PIECE:
                for piece in (notes, *render_pieces(plan, PIECE)):
                    self._restore(piece)
            else:
                self._restore(notes + render_plan(plan))
        self._sets.destroy(plan.old_sets)

    def watch(self) -> Watch:
        return NftWatch(self._family) if self._variant == "nft" else LockWatch()

    def cleanup(self) -> None:
        plan = diff_rulesets(self._save().ruleset, Ruleset())
        self.apply(replace(plan, old_sets=()))
        self._sets.destroy_unused(plan.old_sets, patience=PATIENCE if plan.tables else 0)
        if self._variant == "nft":
            self._unmake(self._save().made)

    def close(self) -> None:
        """There is nothing to give back: each program ends with its work."""

    def _save(self) -> Saved:
        sets, text = self._sets.read(), self._call(f"{self._tool}-{self._variant}-save")
        _check_complete(text)
        try:
            return parse_save(text.decode(), sets=sets)
        except ParseError as error:
            raise EngineError(str(error)) from error

    def _list_chain(self, table: str, chain: str) -> str | None:
        """A chain as ``iptables -S`` prints it; nothing if it is not there; None if that cannot be told (1.8.9 says
        of a chain that is not there that it is incompatible, as if nft had put something strange into it)."""
        try:
            return self._run((f"{self._tool}-{self._variant}", "-t", table, "-S", chain)).decode()
        except Exception as error:
            if "No chain" in str(error) or "does not exist" in str(error):
                return ""
            if "is incompatible" in str(error):
                return None
            raise EngineError(f"cannot read rules: {error}") from error

    def _parse_chains(self, text: str) -> Table:
        try:
            return parse_chains(text)
        except ParseError as error:
            raise EngineError(str(error)) from error

    def _restore(self, text: str) -> None:
        if not text:
            return
        argv = (f"{self._tool}-{self._variant}-restore", "--noflush", "-w", str(LOCK_SECONDS))
        try:
            self._run(argv, stdin=text.encode(), timeout=LOCK_SECONDS + 300.0)
        except Exception as error:
            raise EngineError(f"cannot write rules: {_explain(str(error), text)}") from error
        self._commits += text.count("\nCOMMIT\n")

    def _call(self, *argv: str) -> bytes:
        try:
            return self._run(argv, timeout=60.0)
        except Exception as error:
            raise EngineError(f"cannot read rules: {error}") from error

    def _note(self, plan: Plan) -> str:
        """Input that notes which tables and base chains the plan is going to make (by adding jumps to them)."""
        if self._variant == "legacy" or not any(jump.after for table in plan.tables for jump in table.jumps):
            return ""
        present = self._base_chains()
        lines: list[str] = []
        for table in plan.tables:
            chains = present.get(table.table)
            notes = [f":{MADE}{jump.chain} - [0:0]" for jump in table.jumps if jump.chain not in (chains or ())]
            if chains is None:
                notes.insert(0, f":{MADE_TABLE} - [0:0]")
            if notes:
                lines += [f"*{table.table}", *notes, "COMMIT"]
        return "".join(f"{line}\n" for line in lines)

    def _base_chains(self) -> dict[str, set[str]]:
        """The base chains of each table that exists."""
        if self._nft is None:  # iptables-save prints base chains whether they exist or not: take them all for existing
            return {table: set(_BUILT_IN[table]) for table in self._save().tables if table in _BUILT_IN}
        tables: dict[str, set[str]] = {table["name"]: set() for table in _each(self._nft_list("tables"), "table")}
        for chain in _each(self._nft_list("chains"), "chain"):
            if "hook" in chain:  # two lists are not one look: the table may have come after the first
                tables.setdefault(chain["table"], set()).add(chain["name"])
        return tables

    def _nft_list(self, what: str) -> list[dict[str, Any]]:
        assert self._nft is not None
        listing = json.loads(self._call(self._nft, "-j", "list", what, self._nft_family))
        return list(listing["nftables"])

    def _unmake(self, made: Mapping[str, frozenset[str]]) -> None:
        """Remove what the notes say we made, unless somebody uses it by now, and the notes."""
        notes = {table: sorted(f"{MADE}{chain}" for chain in chains) for table, chains in made.items() if chains}
        for table, chains in notes.items():
            self._restore("\n".join([f"*{table}", *(f"-X {chain}" for chain in chains), "COMMIT", ""]))
        if self._nft is None:
            if notes:
                log.warning("empty tables remain (%s): removing them needs the nft program", ", ".join(notes))
            return
        for table in notes:
            left = [
                item for item in self._nft_list("ruleset") if any(_is_in(table, content) for content in item.values())
            ]
            for chain in _unused(left, made[table]):
                self._call(self._nft, "delete", "chain", self._nft_family, table, chain)
            if "TABLE" in made[table] and len(left) == len(_unused(left, made[table])):
                self._call(self._nft, "delete", "table", self._nft_family, table)


_BUILT_IN = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
}


def _check_complete(text: bytes) -> None:
    """iptables-nft leaves out a table with a rule that it cannot show, and calls it a success; taking the table for
    empty, we would put our jumps there again and again."""
    for table in TABLES:
        if f"# Table `{table}' is incompatible".encode() in text:
            raise EngineError(
                f"cannot read rules: iptables-nft cannot show table {table}, because of a rule in it that was made with"
                f" nft; move that rule to a table of its own (nft -a list table ip {table} shows it; ip6 for IPv6)"
            )


def _each(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item[kind] for item in items if kind in item]


def _is_in(table: str, content: dict[str, Any]) -> bool:
    return content.get("table") == table


def _unused(items: list[dict[str, Any]], made: frozenset[str]) -> list[str]:
    """The base chains that we made and that are as we made them: empty, policy accept."""
    used = {rule["chain"] for rule in _each(items, "rule")}
    return [
        chain["name"]
        for chain in _each(items, "chain")
        if chain["name"] in made - used and chain.get("policy", "accept") == "accept"
    ]


def _explain(message: str, text: str) -> str:
    """The message, with the input line that it speaks of."""
    match = re.search(r"line:? (\d+)", message)
    lines = text.splitlines()
    if match is None or not 0 < int(match[1]) <= len(lines):
        return message
    return f"{message}\n  line {match[1]}: {lines[int(match[1]) - 1]}"
