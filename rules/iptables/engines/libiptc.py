"""The engine that writes through libiptc, the C library under legacy iptables, by way of python-iptables.

It starts no program to write (but for very large plans, see ``BULK``): rules are built in memory and one system call
replaces the table. Three traits of python-iptables shape this module:

- It knows *legacy* tables only: what it commits is invisible to ``iptables-nft``.
- Its ``Table`` objects are singletons of the process, and each holds a snapshot taken by ``refresh`` in the namespace
  of the thread that called it. So every ``apply`` starts with a refresh, and commits by itself (``autocommit`` off).
- ``Chain.append_rule`` asks every match to print itself, into a pipe put in place of standard output, and parses that
  again: 6 ms a rule, and no other thread may write meanwhile. Rules are handed to ``Table`` directly instead (0.5 ms).

libiptc does not take the lock that ``iptables -w`` waits for, so this engine does. Reading is ``iptables-legacy-save``,
because text is the common language of all engines.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rules.iptables.diff import Plan, TablePlan, diff_rulesets
from rules.iptables.engines import LOCK_SECONDS, EngineError, Part, Run, Variant, Watch
from rules.iptables.engines.ipset import PATIENCE, Sets
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.engines.watch import lock_file
from rules.iptables.ruleset import Rule, Ruleset
from rules.snapshot import Family

BULK = 1000  # rules in one plan above which building them in Python costs more than starting iptables-restore
_RETRIES = 5


def why_unusable() -> str:
    """Why python-iptables cannot be used here; empty if it can."""
    try:
        _iptc()
    except EngineError as error:
        return str(error)
    return ""


class LibiptcEngine:
    """python-iptables as an Engine; IPv4."""

    def __init__(self, run: Run) -> None:
        self._iptc = _iptc()
        self._errors = (self._iptc.IPTCError, self._iptc.XTablesError, ValueError, AttributeError)
        self._restore = RestoreEngine(run, variant="legacy", family=Family.IPV4)
        self._sets = Sets(run, Family.IPV4)
        self._commits = 0

    @property
    def name(self) -> str:
        return "libiptc"

    @property
    def variant(self) -> Variant:
        return "legacy"

    @property
    def commits(self) -> int:
        return self._commits + self._restore.commits

    def read(self) -> Ruleset:
        return self._restore.read()

    def read_part(self, part: Part) -> Ruleset | None:
        return self._restore.read_part(part)

    def watch(self) -> Watch:
        return self._restore.watch()

    def apply(self, plan: Plan) -> None:
        if plan.rules > BULK:
            self._restore.apply(plan)
            return
        self._sets.make(plan.new_sets)
        for table in plan.tables:
            self._apply_table(table)
        self._sets.destroy(plan.old_sets)

    def cleanup(self) -> None:
        plan = diff_rulesets(self.read(), Ruleset())
        self.apply(replace(plan, old_sets=()))
        self._sets.destroy_unused(plan.old_sets, patience=PATIENCE if plan.tables else 0)

    def close(self) -> None:
        """There is nothing to give back: each table is closed when it has been written."""

    def _apply_table(self, plan: TablePlan) -> None:
        """Somebody who ignores the lock can still change the table between refresh and commit (EAGAIN): once more."""
        for attempt in range(1, _RETRIES + 1):
            try:
                self._commits += 1
                with _xtables_lock():
                    self._rewrite(plan)
                return
            except self._errors as error:
                if "temporarily unavailable" not in str(error) or attempt == _RETRIES:
                    raise EngineError(f"cannot write table {plan.table}: {error}") from error

    def _rewrite(self, plan: TablePlan) -> None:
        """The table does not stay in memory afterwards: at 10,000 Services it is some 50 MB, and as many again that the
        C library would keep for the next time."""
        table = self._refresh(plan.table)
        try:
            self._fill(table, plan)
            table.commit()
        finally:
            table.close()
            _give_back_memory()

    def _refresh(self, name: str) -> Any:
        """To know a jump to a chain from a target, python-iptables asks every table that it thinks exists: this one
        only, then. (Others may be closed, which it does not check, or come into being by being asked.)"""
        known = self._iptc.Table.existing_table_names
        known.update({other: other == name for other in self._iptc.Table.ALL})
        table = self._iptc.Table(name, False)
        table.refresh()
        return table

    def _fill(self, table: Any, plan: TablePlan) -> None:
        for change in plan.chains:
            if table.is_chain(change.chain):
                table.flush_entries(change.chain)
            else:
                table.create_chain(change.chain)
        for jump in plan.jumps:
            for rule in jump.before:
                built = self._build(rule)
                table.delete_entry(jump.chain, built.rule, built.mask)
        for change in plan.chains:
            for rule in change.after or ():
                table.append_entry(change.chain, self._build(rule).rule)
        for jump in plan.jumps:
            for rule in reversed(jump.after):
                table.insert_entry(jump.chain, self._build(rule).rule, 0)
        for change in plan.chains:
            if change.after is None:
                table.delete_chain(change.chain)

    def _build(self, rule: Rule) -> Any:
        """The rule as the kernel's structure. Words are those of iptables-save, so each option has its own place."""
        built = self._iptc.Rule()
        part: Any = None
        words = list(rule.words)
        while words:
            negation = "!" if words[0] == "!" else ""
            if negation:
                words.pop(0)
            option = words.pop(0)
            if option in _HEADER:
                setattr(built, _HEADER[option], negation + words.pop(0))
            elif option == "-m":
                _check(part)
                part = built.create_match(words.pop(0))
            elif option in ("-j", "-g"):
                _check(part)
                part = built.create_target(words.pop(0), goto=option == "-g")
            else:
                values = [words.pop(0) for _ in range(_count_values(words))]
                part.set_parameter(option.removeprefix("--"), _parameter(negation, values))
        _check(part)
        return built


_HEADER = {"-s": "src", "-d": "dst", "-p": "protocol", "-i": "in_interface", "-o": "out_interface"}


def _check(part: Any) -> None:
    """Let the extension complete its structure (MASQUERADE and DNAT set their range count only here).

    The public ``final_check`` would do so too, after the detour through standard output described above.
    """
    if part is not None:
        part._final_check()


def _count_values(words: list[str]) -> int:
    """How many words belong to the option before them: up to the next option or negation."""
    for index, word in enumerate(words):
        if word in ("!", "-m", "-j", "-g") or word.startswith("--"):
            return index
    return len(words)


def _parameter(negation: str, values: list[str]) -> str | list[str]:
    if len(values) > 1:
        return [negation, *values] if negation else values
    return negation + "".join(values)


def _give_back_memory() -> None:
    """What was freed in C goes back to the system, where the C library can do that (glibc's malloc_trim)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def _xtables_lock() -> Iterator[None]:
    """The lock that iptables takes with ``-w``; raises EngineError when it stays taken."""
    descriptor = os.open(lock_file(), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(descriptor, time.monotonic() + LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"another program holds {lock_file()} for more than {LOCK_SECONDS} s: is an iptables stuck?"
                raise EngineError(f"cannot write rules: {message}") from None
            time.sleep(0.05)


def _iptc() -> Any:
    """The library, its error handler put right."""
    try:
        import iptc
        from iptc import xtables
    except Exception as error:  # its import runs ldconfig, modprobe and dlopen: anything may come
        raise EngineError(
            f"python-iptables cannot be used: {type(error).__name__}: {error} "
            "(it needs libxtables.so.12, libip4tc.so.2 and /usr/lib/*/xtables: package iptables)"
        ) from error
    # When an extension dislikes a parameter, libxtables calls exit_err, which must not return. The library's handler is
    # written in Python and ends in longjmp: that skips the interpreter's own frames and corrupts it. The same jump
    # straight from C skips libxtables' frames only.
    handler = ctypes.cast(xtables._lib_xtwrapper.throw_exception, type(xtables._xt_globals.exit_err))
    xtables._xt_globals.exit_err = handler
    xtables.xtables._option_lookup = _find_option
    return iptc


_OLD_ENTRY, _NEW_ENTRY = 48, 56  # bytes of struct xt_option_entry up to iptables 1.8.10, and since


def _find_option(_: Any, entries: Any, name: bytes) -> Any:
    """The entry of an extension's option, or None: what python-iptables looks up, but for both layouts of the table.

    python-iptables knows the older one only, and the library does not say which one it has. But where the second name
    is in the older one, a pointer, the newer one has the first entry's "base": 0, or the base of a number, 16 at most.
    After a table's only entry comes one of zeros, in which either step finds no name.
    """
    entry = type(entries.contents)
    place = ctypes.addressof(entries.contents)
    second = ctypes.c_size_t.from_address(place + _OLD_ENTRY).value
    step = _OLD_ENTRY if second > 16 else _NEW_ENTRY
    while (found := entry.from_address(place)).name not in (name, None):
        place += step
    return found if found.name else None
