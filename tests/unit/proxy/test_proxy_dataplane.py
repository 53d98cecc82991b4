"""Making the kernel agree, with a kernel made of memory; and which UDP connections have to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from agent.proxy import conntrack
from agent.proxy.conntrack import Flow, parse_flows, stale_flows, usable_endpoints
from agent.proxy.dataplane import Dataplane
from agent.shell import CommandError
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import EngineError
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Family, Node, ServiceName
from tests.harness.engines import MemoryEngine
from tests.harness.services import Made, endpoint, make_service, make_snapshot

A, B, C = "10.244.0.1", "10.244.0.2", "10.244.1.3"


def resolved(*made: Made) -> Frontends:
    return resolve_frontends(make_snapshot(*made, node=Node("here", ("192.0.2.2",))))


def lowered(*made: Made) -> Ruleset:
    return lower_frontends(resolved(*made), Family.IPV4)


def web(name: str, *endpoints: str, number: int = 10) -> Made:
    return make_service(name, *endpoints, vip=f"10.96.0.{number}")


class Programs:
    """Stands for ``conntrack``: lists these entries, remembers deletions."""

    def __init__(self, listing: str = "") -> None:
        self.listing = listing
        self.calls: list[str] = []
        self.error: CommandError | None = None

    def __call__(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        self.calls.append(" ".join(argv))
        if self.error is not None:
            raise self.error
        return self.listing.encode() if "-L" in argv and "udp" in argv else b""

    @property
    def deletions(self) -> list[str]:
        return [call for call in self.calls if " -D " in call]


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def programs() -> Programs:
    return Programs()


@pytest.fixture
def dataplane(engine: MemoryEngine, programs: Programs) -> Dataplane:
    return Dataplane({Family.IPV4: engine}, programs)


# Syncing.


def test_a_sync_reads_once_and_then_knows(dataplane: Dataplane, engine: MemoryEngine) -> None:
    made = [web("one", A), web("two", B, number=11)]
    outcome = dataplane.sync(resolved(*made))
    assert engine.installed == lowered(*made)
    assert outcome.applied == {ServiceName("default", "one"), ServiceName("default", "two")}
    assert outcome.rules == diff_rulesets(Ruleset(), lowered(*made)).rules > sum(dataplane.rules().values())
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


def test_both_families(programs: Programs) -> None:
    four, six = MemoryEngine(), MemoryEngine()
    dataplane = Dataplane({Family.IPV4: four, Family.IPV6: six}, programs)
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


# Repairing.


def test_nothing_to_check_before_the_first_sync(dataplane: Dataplane, engine: MemoryEngine) -> None:
    assert dataplane.check() == Plan()
    assert engine.reads == 0


def test_tampering_is_repaired(dataplane: Dataplane, engine: MemoryEngine) -> None:
    dataplane.sync(resolved(web("one", A)))
    assert dataplane.check() == Plan()
    assert dataplane.check() == Plan()  # from memory: the reading is the same object
    engine.installed = lowered(web("one", B))
    repair = dataplane.check()
    assert repair == diff_rulesets(lowered(web("one", B)), lowered(web("one", A)))
    assert engine.installed == lowered(web("one", A))
    assert dataplane.check() == Plan()


# UDP connections.

LISTING = """\
udp      17 29 src=10.244.0.2 dst=10.96.0.10 sport=4000 dport=80 src=10.244.0.1 dst=10.244.0.2 sport=8080 dport=4000 [ASSURED] mark=0 use=1
udp      17 29 src=10.244.0.2 dst=8.8.8.8 sport=4000 dport=53 [UNREPLIED] src=8.8.8.8 dst=192.0.2.2 sport=53 dport=4000 mark=0 use=1
icmp     1 29 src=10.244.0.2 dst=8.8.8.8 type=8 code=0 id=1 src=8.8.8.8 dst=10.244.0.2 type=0 code=0 id=1 use=1
"""


def test_reading_conntrack() -> None:
    assert list(parse_flows(LISTING)) == [
        Flow("UDP", ("10.96.0.10", 80), (A, 8080)),
        Flow("UDP", ("8.8.8.8", 53), ("8.8.8.8", 53)),
    ]


def udp(*endpoints: str, **fields: object) -> Made:
    return make_service("udp", *(endpoint(e) for e in endpoints), protocol="UDP", **fields)  # type: ignore[arg-type]


VIP, NODE_PORT = ("10.96.0.10", 80), ("192.0.2.2", 30053)
FOREIGN_PORT = ("198.51.100.9", 30053)  # our NodePort's number on somebody else's address


@pytest.mark.parametrize(
    ("flow", "before", "after", "stale"),
    [
        ((VIP, A), [A, B], [A, B], False),
        ((VIP, A), [A, B], [B], True),  # the endpoint is gone
        ((VIP, A), [A], [], True),  # N to 0
        ((VIP, "10.96.0.10"), [], [A], True),  # 0 to N: the flow never went to an endpoint
        ((VIP, C), None, [A], True),  # after a restart: who was before is not known
        ((VIP, A), None, [A], False),
        ((VIP, A), [A], None, True),  # the Service is gone
        ((VIP, C), [A], None, False),
        ((NODE_PORT, A), [A], [B], True),
        ((NODE_PORT, B), [A], [B], False),
        ((NODE_PORT, C), None, [B], True),
        ((NODE_PORT, A), [A], None, True),
        ((FOREIGN_PORT, C), [A], [B], False),
        ((FOREIGN_PORT, A), [A], [B], True),  # another of our addresses, then
        ((("198.51.100.9", 53), A), [A], [B], False),
    ],
)
def test_stale_flows(
    flow: tuple[tuple[str, int], str], before: list[str] | None, after: list[str] | None, stale: bool
) -> None:
    destination, answered_by = flow
    port = 80 if answered_by == "10.96.0.10" else 8080
    (old, new) = (
        usable_endpoints(resolved() if e is None else resolved(udp(*e, node_port=30053)), Family.IPV4)
        for e in (before, after)
    )
    found = stale_flows(
        [Flow("UDP", destination, (answered_by, port))], before=old, after=new, node_addresses=["192.0.2.2"]
    )
    assert bool(found) == stale


def test_only_connectionless_protocols_are_looked_at() -> None:
    made = [
        make_service(name, A, protocol=name.upper(), vip=f"10.96.0.{n}")
        for n, name in enumerate(("tcp", "udp", "sctp"))
    ]
    assert {place[0] for place in usable_endpoints(resolved(*made), Family.IPV4)} == {"UDP", "SCTP"}


def test_stale_flows_end_after_a_sync(dataplane: Dataplane, programs: Programs) -> None:
    programs.listing = LISTING
    dataplane.sync(resolved(udp(A)))
    assert not programs.deletions
    dataplane.sync(resolved(udp(B)))
    assert programs.deletions == [
        "conntrack -D -p udp --orig-dst 10.96.0.10 --orig-port-dst 80 --reply-src 10.244.0.1 --reply-port-src 8080"
    ]
    count = len(programs.calls)
    dataplane.sync(resolved(udp(B), web("tcp", A, number=11)))  # nothing connectionless changed
    assert len(programs.calls) == count


def test_a_flow_that_ended_by_itself() -> None:
    programs = Programs()
    flow = Flow("UDP", VIP, (A, 8080))
    assert conntrack.delete_flows(programs, [flow]) == 1
    programs.error = CommandError(["conntrack"], code=1, output="conntrack: 0 flow entries have been deleted.")
    assert conntrack.delete_flows(programs, [flow]) == 0
    programs.error = CommandError(["conntrack"], code=1, output="Operation not permitted")
    with pytest.raises(CommandError):
        conntrack.delete_flows(programs, [flow])


def test_a_host_without_conntrack_is_told_once(
    dataplane: Dataplane, programs: Programs, engine: MemoryEngine, caplog: pytest.LogCaptureFixture
) -> None:
    programs.error = CommandError(["conntrack"], code=None, output="conntrack: no such program")
    dataplane.sync(resolved(udp(A)))
    dataplane.sync(resolved(udp(B)))
    assert caplog.text.count("package conntrack") == 1
    assert B in str(engine.installed)
