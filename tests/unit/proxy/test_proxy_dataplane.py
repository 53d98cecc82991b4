"""Making the kernel agree, with a kernel made of memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

import pytest

from agent.proxy import dataplane as dataplane_module
from agent.proxy.conntrack_netlink import ConntrackError
from agent.proxy.conntrack_wire import PROTOCOLS, Direction, Entry
from agent.proxy.dataplane import Dataplane
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import EngineError
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import TABLES, Ruleset, Table
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, Node, ServiceName
from tests.harness.engines import MemoryEngine
from tests.harness.services import Made, make_service, make_snapshot

A, B, C = "10.244.0.1", "10.244.0.2", "10.244.1.3"


def resolved(*made: Made) -> Frontends:
    return resolve_frontends(make_snapshot(*made, node=Node("here", ("192.0.2.2",))))


def lowered(*made: Made) -> Ruleset:
    return lower_frontends(resolved(*made), Family.IPV4)


def web(name: str, *endpoints: str, number: int = 10) -> Made:
    return make_service(name, *endpoints, vip=f"10.96.0.{number}")


class Connections:
    """Stands for the kernel's connection tracking: lists these entries, remembers what it was asked."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.deleted: list[Entry] = []
        self.asked = 0
        self.error = ""

    def __call__(self) -> Connections:
        if self.error:
            raise ConntrackError(self.error)
        return self

    def dump(self, family: Family, protocols: Collection[str]) -> list[Entry]:
        self.asked += 1
        return [e for e in self.entries if e.family is family and e.protocol_name in protocols]

    def delete(self, entry: Entry) -> bool:
        """Others may have ended by themselves."""
        self.deleted.append(entry)
        return entry in self.entries

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    """No test without root asks this machine's kernel."""
    made = Connections()
    monkeypatch.setattr(dataplane_module, "Conntrack", made)
    return made


@pytest.fixture
def dataplane(engine: MemoryEngine) -> Iterator[Dataplane]:
    made = Dataplane({Family.IPV4: engine})
    yield made
    if not engine.closed:
        made.close()


# Syncing.


def test_a_sync_reads_once_and_then_knows(dataplane: Dataplane, engine: MemoryEngine) -> None:
    made = [web("one", A), web("two", B, number=11)]
    outcome = dataplane.sync(resolved(*made))
    assert engine.installed == lowered(*made)
    assert outcome.applied == {ServiceName("default", "one"), ServiceName("default", "two")}
    assert outcome.rules == diff_rulesets(Ruleset(), lowered(*made)).rules
    counts = {name: sum(map(len, lowered(*made).table(name).chains.values())) for name in TABLES}
    assert dataplane.rules() == {Family.IPV4: counts}
    again = dataplane.sync(resolved(web("one", A), web("two", C, number=11)))
    assert again.applied == {ServiceName("default", "two")}
    assert again.rules < 6
    assert engine.reads == 1


def test_rules_that_are_there_are_adopted(engine: MemoryEngine, dataplane: Dataplane) -> None:
    engine.installed = lowered(web("one", A))
    assert dataplane.sync(resolved(web("one", A))).rules == 0
    assert not engine.applied


def test_a_deleted_service_goes(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A), web("two", B, number=11)))
    assert dataplane.sync(resolved(web("one", A))).applied == {ServiceName("default", "two")}
    assert engine.installed == lowered(web("one", A))


def test_both_families() -> None:
    four, six = MemoryEngine(), MemoryEngine()
    dataplane = Dataplane({Family.IPV4: four, Family.IPV6: six})
    dataplane.sync(resolved(web("one", A), make_service("six", "fd00::1", vip="fd00::a")))
    assert A in str(four.installed)
    assert "fd00::1" in str(six.installed)
    assert A not in str(six.installed)
    dataplane.close()
    assert four.closed
    assert six.closed


def refuse(*words: str) -> Callable[[str], str | None]:
    """Will have nothing to do with these Services."""
    return lambda text: next((f"bad {word}" for word in words if f"/{word} " in text), None)


@pytest.mark.parametrize("bad", [["s3"], ["s0"], ["s0", "s7"], ["s2", "s3", "s4"]])
def test_the_kernel_refuses_some_and_the_others_go_on(
    dataplane: Dataplane, engine: MemoryEngine, bad: list[str]
) -> None:
    made = {f"s{n}": web(f"s{n}", A, number=10 + n) for n in range(8)}
    engine.refuse = refuse(*bad)
    outcome = dataplane.sync(resolved(*made.values()))
    assert {name.name: why for name, why in outcome.refused.items()} == {name: f"bad {name}" for name in bad}
    assert engine.installed == lowered(*(one for name, one in made.items() if name not in bad))
    engine.refuse = refuse()
    outcome = dataplane.sync(resolved(*made.values()))  # tried again
    assert not outcome.refused
    assert {name.name for name in outcome.applied} == set(bad)
    assert engine.installed == lowered(*made.values())


def test_a_refused_change_keeps_what_was_there(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A), web("two", A, number=11)))
    engine.refuse = lambda text: "no" if C in text else None
    outcome = dataplane.sync(resolved(web("one", C), web("two", B, number=11)))
    assert [name.name for name in outcome.refused] == ["one"]
    assert engine.installed == lowered(web("one", A), web("two", B, number=11))


def test_a_deletion_goes_through_beside_a_refused_change(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A), web("two", A, number=11)))
    engine.refuse = lambda text: "no" if C in text else None
    outcome = dataplane.sync(resolved(web("one", C)))
    assert ([name.name for name in outcome.refused], [name.name for name in outcome.applied]) == (["one"], ["two"])
    assert engine.installed == lowered(web("one", A))


def test_a_kernel_that_refuses_everything_blames_nobody(dataplane: Dataplane, engine: MemoryEngine) -> None:
    engine.refuse = lambda text: "out of memory"
    with pytest.raises(EngineError, match="out of memory"):
        dataplane.sync(resolved(web("one", A), web("two", B, number=11)))
    engine.refuse = lambda text: None
    assert not dataplane.sync(resolved(web("one", A))).refused
    assert engine.installed == lowered(web("one", A))


def test_what_somebody_else_changed_meanwhile_is_planned_again(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    engine.installed = Ruleset()  # flushed
    dataplane.sync(resolved(web("one", A), web("two", B, number=11)))
    assert engine.installed == lowered(web("one", A), web("two", B, number=11))


def names(*words: str) -> frozenset[ServiceName]:
    return frozenset(ServiceName("default", word) for word in words)


def test_a_partial_sync_looks_at_nothing_else(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A), web("two", B, number=11)))
    reads = engine.reads
    outcome = dataplane.sync(resolved(web("one", C)), changed=names("one"))
    assert outcome.applied == names("one")
    assert engine.installed == lowered(web("one", C), web("two", B, number=11))
    assert dataplane.sync(resolved(), changed=names("two")).applied == names("two")
    assert engine.installed == lowered(web("one", C))
    assert engine.reads == reads


def test_those_refused_are_tried_again_when_there_is_nothing_else(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    engine.refuse = refuse("bad")
    assert set(dataplane.sync(resolved(web("bad", B, number=11)), changed=names("bad")).refused) == names("bad")
    engine.refuse = lambda text: f"must not be tried: {text}" if "/bad " in text else None
    assert dataplane.sync(resolved(web("one", B)), changed=names("one")).applied == names("one")
    assert dataplane.refused == names("bad")
    engine.refuse = refuse()
    assert dataplane.sync(Frontends(Node("here")), changed=frozenset()).applied == names("bad")
    assert not dataplane.refused
    assert engine.installed == lowered(web("one", B), web("bad", B, number=11))


def test_a_refused_service_that_is_deleted_is_forgotten(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    engine.refuse = refuse("bad")
    dataplane.sync(resolved(web("bad", B, number=11)), changed=names("bad"))
    dataplane.sync(resolved(), changed=names("bad"))
    assert not dataplane.refused
    assert engine.installed == lowered(web("one", A))


def test_refusals_are_counted(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    assert dataplane.refusals == {Family.IPV4: 0}
    engine.refuse = refuse("bad")
    dataplane.sync(resolved(web("bad", B, number=11), web("good", B, number=12)), changed=names("bad", "good"))
    assert dataplane.refusals == {Family.IPV4: 2}  # both together, then the bad one alone


def test_what_one_family_refuses_the_other_does_not_keep() -> None:
    four, six = MemoryEngine(), MemoryEngine()
    dataplane = Dataplane({Family.IPV4: four, Family.IPV6: six})
    dataplane.sync(resolved(web("one", A)))
    before = four.installed
    six.refuse = lambda text: "no" if "fd00::1" in text else None
    four_part, six_part = web("dual", B, number=11), make_service("dual", "fd00::1", vip="fd00::a")
    service = replace(four_part[0], cluster_ips=("10.96.0.11", "fd00::a"))
    both = (service, (*four_part[1], *six_part[1]))
    assert set(dataplane.sync(resolved(both), changed=names("dual")).refused) == names("dual")
    dataplane.sync(resolved(web("one", C)), changed=names("one"))  # the next one puts right what was half done
    assert four.installed == lowered(web("one", C)) != before
    dataplane.close()


# Repairing.


def test_nothing_to_check_before_the_first_sync(dataplane: Dataplane, engine: MemoryEngine) -> None:
    assert dataplane.check() == Plan()
    assert engine.reads == 0


def test_tampering_is_repaired(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    assert dataplane.check(thorough=True) == Plan()
    engine.installed = lowered(web("one", B))  # nobody is told
    assert dataplane.check() == Plan()
    repair = dataplane.check(thorough=True)
    assert repair == diff_rulesets(lowered(web("one", B)), lowered(web("one", A)))
    assert engine.installed == lowered(web("one", A))
    assert dataplane.check(thorough=True) == Plan()


def test_only_what_somebody_touched_is_looked_at(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    reads = engine.reads
    assert dataplane.check() == Plan()
    assert engine.reads == reads  # nobody did anything
    emptied = dict.fromkeys(engine.installed.nat.chains, ())
    engine.tamper(
        replace(engine.installed, nat=Table(emptied)),
        ("nat", "KUBE-SERVICES"),
        ("nat", "POSTROUTING"),
        ("nat", "FOREIGN"),
    )
    repair = dataplane.check()
    (table,) = repair.tables
    assert [change.chain for change in table.chains] == ["KUBE-SERVICES"]
    assert [jump.chain for jump in table.jumps] == ["POSTROUTING"]


def test_a_repair_that_the_kernel_refuses_is_made_by_the_next_sync(dataplane: Dataplane, engine: MemoryEngine) -> None:
    made = web("one", A)
    dataplane.sync(resolved(made))
    engine.tamper(Ruleset(), is_known=False)
    engine.refuse = lambda text: "busy"
    with pytest.raises(EngineError, match="busy"):
        dataplane.check()
    engine.refuse = refuse()
    dataplane.sync(Frontends(Node("here")), changed=frozenset())
    dataplane.check(thorough=True)
    assert engine.installed == lowered(made)


def test_what_a_failed_look_did_not_see_is_repaired_by_the_next_sync(
    dataplane: Dataplane, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Ruleset:
        raise EngineError("cannot read rules")

    dataplane.sync(resolved(web("one", A)))
    engine.tamper(Ruleset(), is_known=False)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "read", fail)
        with pytest.raises(EngineError, match="cannot read"):
            dataplane.check()
    dataplane.sync(Frontends(Node("here")), changed=frozenset())
    assert engine.installed == lowered(web("one", A))


# UDP connections.


def udp(*endpoints: str) -> Made:
    return make_service("udp", *endpoints, protocol="UDP")


def flow(address: str, answered_by: str) -> Entry:
    """From a pod to a Service's address; an endpoint answers."""
    client, vip, endpoint = map(socket.inet_aton, (C, address, answered_by))
    reply = Direction(endpoint, client, 8080, 4000)
    return Entry(Family.IPV4, PROTOCOLS["UDP"], Direction(client, vip, 4000, 80), reply)


def test_stale_flows_end_after_a_sync(dataplane: Dataplane, connections: Connections) -> None:
    connections.entries = [flow("10.96.0.10", A), flow("10.96.0.10", B), flow("10.96.0.99", A)]
    dataplane.sync(resolved(udp(A, B)))
    assert not connections.deleted
    outcome = dataplane.sync(resolved(udp(B)))
    assert connections.deleted == [flow("10.96.0.10", A)]
    assert outcome.ended[Family.IPV4][0] == 1
    asked = connections.asked
    dataplane.sync(resolved(udp(B), web("tcp", A, number=11)))  # nothing connectionless changed
    assert connections.asked == asked


def test_a_refused_change_ends_no_flow(dataplane: Dataplane, engine: MemoryEngine, connections: Connections) -> None:
    connections.entries = [flow("10.96.0.10", A)]
    dataplane.sync(resolved(udp(A)))
    engine.refuse = lambda text: "no" if B in text else None
    assert dataplane.sync(resolved(udp(B))).refused
    assert not connections.deleted  # the rules still send there


def test_flows_of_a_service_that_went_while_the_proxy_was_away(
    dataplane: Dataplane, engine: MemoryEngine, connections: Connections
) -> None:
    """Its rules, which are still there, are all that is known of it."""
    gone = make_service("gone", C, vip="10.96.0.66", protocol="UDP")
    engine.installed = lowered(udp(A), gone)
    connections.entries = [flow("10.96.0.10", A), flow("10.96.0.66", C), flow("10.96.0.99", C)]
    dataplane.sync(resolved(udp(A)))
    assert connections.deleted == [flow("10.96.0.66", C)]


def test_a_flow_that_ended_by_itself_is_not_counted(dataplane: Dataplane, connections: Connections) -> None:
    dataplane.sync(resolved(udp(A)))
    connections.dump = lambda family, protocols: [flow("10.96.0.10", A)]  # type: ignore[method-assign]
    assert dataplane.sync(resolved(udp(B))).ended[Family.IPV4][0] == 0
    assert connections.deleted


def test_a_kernel_that_does_not_tell_of_connections_is_told_once(
    dataplane: Dataplane, connections: Connections, engine: MemoryEngine, caplog: pytest.LogCaptureFixture
) -> None:
    connections.error = "no such protocol"
    dataplane.sync(resolved(udp(A)))
    dataplane.sync(resolved(udp(B)))
    assert caplog.text.count("no such protocol") == 1
    assert B in str(engine.installed)
