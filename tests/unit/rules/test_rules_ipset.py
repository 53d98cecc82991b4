"""Sets of clients: what is asked of the ipset program, and what is made of its answers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence

import pytest

from rules.iptables.engines import EngineError
from rules.iptables.engines.ipset import Sets, choose_buckets
from rules.snapshot import Family

ONE, TWO, SIX = "PODWIRE-4-A", "PODWIRE-4-B", "PODWIRE-6-A"


class Program:
    """ipset: keeps sets, and says what it was asked. ``used``: for how many looks rules still use a set."""

    def __init__(self, *names: str) -> None:
        self.sets = list(names)
        self.used: dict[str, int] = {}
        self.asked: list[str] = []
        self.broken = ""

    def __call__(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        if self.broken:
            raise RuntimeError(self.broken)
        if tuple(argv) == ("ipset", "list", "-n"):
            return "".join(f"{name}\n" for name in self.sets).encode()
        if tuple(argv) == ("ipset", "list", "-t"):
            return "\n".join(map(self.describe, self.sets)).encode()
        assert tuple(argv) == ("ipset", "-exist", "restore")
        for line in (stdin or b"").decode().splitlines():
            self.asked.append(line)
            self.do(*line.split()[:2])
        return b""

    def describe(self, name: str) -> str:
        """As ipset 7.17 does."""
        self.used[name] = left = max(self.used.get(name, 0) - 1, 0)
        return f"""Name: {name}
Type: hash:ip
Revision: 5
Header: family inet hashsize 64 maxelem 65536 timeout 60 bucketsize 12 initval 0x6a3bc0c5
Size in memory: 216
References: {1 if left else 0}
Number of entries: 7
"""

    def do(self, command: str, name: str) -> None:
        if command == "create" and name not in self.sets:
            self.sets.append(name)
        if command == "destroy":
            assert not self.used.get(name), "Set cannot be destroyed: it is in use by a kernel component"
            self.sets.remove(name)


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")


@pytest.mark.parametrize(("family", "expected"), [(Family.IPV4, {ONE, TWO}), (Family.IPV6, {SIX})])
def test_only_sets_of_ours_and_of_the_family_are_read(family: Family, expected: set[str]) -> None:
    assert Sets(Program("cali40s:x", ONE, SIX, TWO, "PODWIRE"), family).read() == expected


@pytest.mark.parametrize(("family", "inet"), [(Family.IPV4, "inet"), (Family.IPV6, "inet6")])
def test_sets_are_made_empty(family: Family, inet: str) -> None:
    program = Program(ONE)
    Sets(program, family).make([ONE, TWO])
    kind = f"hash:ip family {inet} hashsize 16384 maxelem 1048576 timeout 10800"
    assert program.asked == [f"create {ONE} {kind}", f"flush {ONE}", f"create {TWO} {kind}", f"flush {TWO}"]


@pytest.mark.parametrize(
    ("sets", "buckets"), [(1, 16384), (512, 16384), (513, 8192), (1000, 8192), (8192, 1024), (10**6, 1024)]
)
def test_the_more_sets_the_smaller_each(sets: int, buckets: int) -> None:
    assert choose_buckets(sets) == buckets


def test_all_sets_of_the_family_count() -> None:
    program = Program(*(f"PODWIRE-4-{number}" for number in range(600)))
    Sets(program, Family.IPV4).make([ONE])
    assert " hashsize 8192 " in program.asked[0]


def test_nothing_to_do_asks_nobody() -> None:
    program = Program(ONE)
    sets = Sets(program, Family.IPV4)
    program.broken = "must not be asked"
    sets.make([])
    sets.destroy([])


def test_rules_that_were_just_removed_are_waited_for() -> None:
    program = Program("cali40s:x", ONE, TWO)
    program.used = {ONE: 3}
    Sets(program, Family.IPV4).destroy([ONE, TWO, "PODWIRE-4-GONE"])
    assert program.sets == ["cali40s:x"]
    assert program.asked == [f"destroy {TWO}", f"destroy {ONE}"]


def test_sets_that_stay_in_use(caplog: pytest.LogCaptureFixture) -> None:
    program = Program(ONE, TWO)
    program.used = {ONE: 1000}
    sets = Sets(program, Family.IPV4)
    with pytest.raises(EngineError, match=f"cannot destroy sets of clients: somebody else's rules use {ONE}"):
        sets.destroy([ONE, TWO], patience=0)
    assert program.sets == [ONE]
    caplog.set_level(logging.INFO)
    sets.destroy_unused([ONE], patience=0)
    assert f"rules use {ONE}" in caplog.text


def test_a_program_that_fails() -> None:
    program = Program(ONE)
    program.broken = "Kernel error received: Operation not permitted"
    sets = Sets(program, Family.IPV4)
    with pytest.raises(EngineError, match=r"cannot read sets of clients: .*not permitted"):
        sets.read()
    with pytest.raises(EngineError, match=r"cannot read sets of clients: .*not permitted"):
        sets.make([ONE])


def test_a_set_that_cannot_be_destroyed_for_another_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(ONE)

    def refuse(command: str, name: str) -> None:
        raise RuntimeError("Kernel error received: Operation not permitted")

    monkeypatch.setattr(program, "do", refuse)
    with pytest.raises(EngineError, match=r"cannot change sets of clients: .*not permitted"):
        Sets(program, Family.IPV4).destroy([ONE])


def test_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    program = Program(ONE)
    sets = Sets(program, Family.IPV4)
    assert sets.read() == frozenset()
    sets.make([])
    with pytest.raises(EngineError, match=r"sessionAffinity: ClientIP.*apt install ipset"):
        sets.make([ONE])
    assert program.asked == []
