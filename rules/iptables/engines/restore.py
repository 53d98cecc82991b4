"""The engine that runs ``iptables-restore`` and ``iptables-save``, nft or legacy, IPv4 or IPv6.

``--noflush`` keeps everything that the input does not name; each table's part is one transaction of the kernel (one
netlink batch in the nft variant, one table replacement in legacy).

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
from typing import Any

from rules.iptables.diff import Plan, diff_rulesets, render_plan
from rules.iptables.engines import LOCK_SECONDS, EngineError, Run, Variant
from rules.iptables.names import MADE, MADE_TABLE
from rules.iptables.parse import ParseError, Saved, parse_save
from rules.iptables.ruleset import Ruleset
from rules.snapshot import Family

log = logging.getLogger(__name__)

_CHANGING = re.compile(rb"^#.*\n|\[\d+:\d+\]", re.MULTILINE)  # dates and counters


class RestoreEngine:
    """``iptables-<variant>-restore`` as an Engine."""

    def __init__(self, run: Run, *, variant: Variant, family: Family = Family.IPV4, nft: str | None = "nft") -> None:
        """``nft``: the nft program, which only ``cleanup`` of the nft variant needs; None: there is none."""
        self._run = run
        self._variant: Variant = variant
        self._tool = "iptables" if family is Family.IPV4 else "ip6tables"
        self._nft_family = "ip" if family is Family.IPV4 else "ip6"
        self._nft = nft
        self._seen: tuple[bytes, Saved] = (b"", parse_save(""))

    @property
    def name(self) -> str:
        return "restore"

    @property
    def variant(self) -> Variant:
        return self._variant

    def read(self) -> Ruleset:
        return self._save().ruleset

    def apply(self, plan: Plan) -> None:
        if plan:
            self._restore(self._note(plan) + render_plan(plan))

    def cleanup(self) -> None:
        self.apply(diff_rulesets(self._save().ruleset, Ruleset()))
        if self._variant == "nft":
            self._unmake(self._save().made)

    def close(self) -> None:
        self._seen = (b"", parse_save(""))

    def _save(self) -> Saved:
        text = self._call(f"{self._tool}-{self._variant}-save")
        body = _CHANGING.sub(b"", text)
        if body != self._seen[0]:
            try:
                self._seen = (body, parse_save(text.decode()))
            except ParseError as error:
                raise EngineError(str(error)) from error
        return self._seen[1]

    def _restore(self, text: str) -> None:
        argv = (f"{self._tool}-{self._variant}-restore", "--noflush", "-w", str(LOCK_SECONDS))
        try:
            self._run(argv, stdin=text.encode(), timeout=LOCK_SECONDS + 300.0)
        except Exception as error:
            raise EngineError(f"cannot write rules: {_explain(str(error), text)}") from error

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
            if "hook" in chain:
                tables[chain["table"]].add(chain["name"])
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
