"""Being told of changes: by the kernel (nft), and by the lock (legacy). What we assume of both is pinned here.

The lock is a file of the whole machine; these tests have one of their own, so that nobody else takes it.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import EngineError, Seen, Watch
from rules.iptables.engines import watch as module
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.parse import parse_rule
from rules.iptables.ruleset import Ruleset, Table
from rules.snapshot import Family
from tests.harness.drivers import ENGINES, Driver, driving, lowered, make, node_for_engines
from tests.harness.netfilter import MiniNode
from tests.harness.services import make_service, make_snapshot, many_services


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with node_for_engines() as made:
        yield made


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))


@pytest.fixture(params=ENGINES)
def driver(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with driving(node, make(request.param)) as made:
        yield made


@pytest.fixture
def nft(node: MiniNode) -> Iterator[Driver]:
    with driving(node, make("restore-nft")) as made:
        yield made


@pytest.fixture
def legacy(node: MiniNode) -> Iterator[Driver]:
    with driving(node, make("restore-legacy")) as made:
        yield made


@pytest.fixture
def watch(driver: Driver) -> Iterator[Watch]:
    made = driver.watch()
    yield made
    made.close()


WEB = make_service("web", "10.244.0.1", "10.244.0.2", node_port=30001, affinity_seconds=60)
NONE = make_service("none", vip="10.96.0.13", node_port=30002)
HISTORY = [
    make_snapshot(),
    make_snapshot(WEB),
    make_snapshot(WEB, NONE),  # only filter changes
    many_services(40, 3),
    make_snapshot(make_service("web", "10.244.0.2")),
    make_snapshot(),
]


def touched(plan: Plan) -> set[tuple[str, str]]:
    chains = {(table.table, change.chain) for table in plan.tables for change in table.chains}
    return chains | {(table.table, change.chain) for table in plan.tables for change in table.jumps}


def test_our_own_transactions_are_counted_as_the_engine_counts_them(driver: Driver, watch: Watch) -> None:
    for snapshot in HISTORY:
        before = driver.engine.commits
        plan = driver.bring(lowered(snapshot))
        seen = watch.drain()
        assert seen.commits == driver.engine.commits - before >= len(plan.tables)
        if driver.engine.variant == "nft":
            assert seen.chains is not None
            notes = {place for place in seen.chains if place[1].startswith("PODWIRE-MADE-")}
            assert seen.chains - notes >= touched(plan)
            assert {chain for _, chain in seen.chains - notes - touched(plan)} <= set(BUILT_IN)
        else:
            assert seen.chains is None  # which ones, nobody tells
        assert watch.drain() == Seen()


BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def test_looking_is_no_change(driver: Driver, watch: Watch) -> None:
    driver.bring(lowered(HISTORY[1]))
    watch.drain()
    driver.read()
    driver.node.inside("node", lambda: driver.engine.read_part({"nat": ["KUBE-SERVICES", "PREROUTING"]}))
    assert watch.drain() == Seen()


def test_a_refused_plan_is_no_more_than_what_the_engine_counts(driver: Driver, watch: Watch) -> None:
    """Or it is seen as somebody else's change: then somebody looks, which does no harm."""
    wanted = lowered(HISTORY[1])
    driver.bring(wanted)
    watch.drain()
    before = driver.engine.commits
    bad = Table({**wanted.nat.chains, "KUBE-SVC-BAD": (parse_rule("-j NOSUCHTARGET"),)}, wanted.nat.jumps)
    with pytest.raises(EngineError):
        driver.apply(diff_rulesets(wanted, Ruleset(wanted.filter, bad, wanted.sets)))
    seen = watch.drain()
    assert seen.commits >= driver.engine.commits - before
    if driver.engine.variant == "nft":
        assert seen == Seen()


def test_somebody_elses_transaction_is_one_more(driver: Driver, watch: Watch) -> None:
    driver.bring(lowered(HISTORY[1]))
    watch.drain()
    before = driver.engine.commits
    driver.bring(lowered(HISTORY[3]))
    driver.node.run(driver.tool, "-w", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN")
    seen = watch.drain()
    assert seen.commits == driver.engine.commits - before + 1
    assert seen.chains is None or ("nat", "KUBE-SERVICES") in seen.chains


def test_a_change_wakes_who_waits(driver: Driver, watch: Watch) -> None:
    driver.bring(lowered(HISTORY[1]))
    watch.drain()
    assert select.select([watch.fileno()], [], [], 0)[0] == []
    driver.node.run(driver.tool, "-w", "-t", "nat", "-F", "KUBE-NODEPORTS")
    assert select.select([watch.fileno()], [], [], 30)[0] == [watch.fileno()]
    assert watch.drain().commits == 1


@pytest.mark.parametrize(
    ("tampering", "places"),
    [
        (["-t", "nat", "-F", "KUBE-SERVICES"], {("nat", "KUBE-SERVICES")}),
        (["-t", "nat", "-D", "KUBE-NODEPORTS", "1"], {("nat", "KUBE-NODEPORTS")}),
        (["-t", "nat", "-N", "KUBE-SVC-STRANGE"], {("nat", "KUBE-SVC-STRANGE")}),
        (["-t", "nat", "-F", "OUTPUT"], {("nat", "OUTPUT")}),
        (["-t", "filter", "-P", "FORWARD", "DROP"], {("filter", "FORWARD")}),
    ],
)
def test_nft_says_where(nft: Driver, tampering: list[str], places: set[tuple[str, str]]) -> None:
    nft.bring(lowered(HISTORY[1]))
    watch = nft.watch()
    nft.node.run("iptables-nft", *tampering)
    seen = watch.drain()
    watch.close()
    assert seen == Seen(1, frozenset(places))
    nft.node.run("iptables-nft", "-P", "FORWARD", "ACCEPT")


def test_a_whole_table_that_goes_may_be_anything(nft: Driver) -> None:
    nft.bring(lowered(HISTORY[1]))
    watch = nft.watch()
    nft.node.run("nft", "delete", "table", "ip", "nat")
    assert watch.drain() == Seen(1, None)
    watch.close()


def test_other_families_tables_and_namespaces_are_not_ours(nft: Driver) -> None:
    nft.bring(lowered(HISTORY[1]))
    watch = nft.watch()
    nft.node.run("nft", "add table inet x; add chain inet x y; add rule inet x y counter")
    nft.node.run("nft", "delete", "table", "inet", "x")
    nft.node.run("ip6tables-nft", "-t", "nat", "-N", "KUBE-SVC-X")
    nft.node.run("iptables-nft", "-t", "nat", "-N", "KUBE-SVC-X", who="outside")
    assert watch.drain() == Seen()
    nft.node.run("nft", "delete", "table", "ip6", "nat")
    assert watch.drain() == Seen()
    nft.node.run("iptables-nft", "-t", "mangle", "-N", "OTHERS")
    assert watch.drain() == Seen(1, frozenset({("mangle", "OTHERS")}))  # of our family: who hears it knows whose it is
    nft.node.run("nft", "delete", "table", "ip", "mangle")
    watch.close()


def test_one_for_ipv6_hears_of_ipv6(nft: Driver) -> None:
    six = Driver(nft.node, make("restore-nft", Family.IPV6))
    watch = six.watch()
    nft.bring(lowered(HISTORY[1]))
    assert watch.drain() == Seen()
    nft.node.run("ip6tables-nft", "-t", "nat", "-N", "KUBE-SVC-X")
    assert watch.drain() == Seen(1, frozenset({("nat", "KUBE-SVC-X")}))
    nft.node.run("nft", "delete", "table", "ip6", "nat")
    watch.close()


def test_announcements_that_were_lost_are_told_of(nft: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUFFER", 2048)
    watch = nft.watch()
    nft.bring(lowered(many_services(60, 3)))
    assert watch.drain().chains is None
    nft.node.run("iptables-nft", "-t", "nat", "-N", "KUBE-SVC-STRANGE")
    seen = watch.drain()  # and it goes on
    assert seen.commits == 1
    assert seen.chains is not None
    assert ("nat", "KUBE-SVC-STRANGE") in seen.chains
    watch.close()


# What we assume of the kernel and of iptables.


def test_nft_closes_each_transaction_with_one_announcement(nft: Driver) -> None:
    """net/netfilter/nf_tables_api.c, nf_tables_commit: nf_tables_gen_notify(NFT_MSG_NEWGEN)."""
    nft.bring(lowered(HISTORY[1]))
    watch = nft.watch()
    two = "*nat\n:KUBE-SVC-A - [0:0]\nCOMMIT\n*filter\n:KUBE-FORWARD - [0:0]\nCOMMIT\n"
    nft.node.run("iptables-nft-restore", "--noflush", stdin=two)
    assert watch.drain().commits == 2  # iptables-restore makes one per table
    one = "add chain ip nat A\nadd chain ip nat B\nadd chain ip filter C\n"
    nft.node.run("nft", "-f", "-", stdin=one)
    assert watch.drain() == Seen(1, frozenset({("nat", "A"), ("nat", "B"), ("filter", "C")}))
    nft.node.run("nft", "-f", "-", stdin=one.replace("add", "delete"))
    watch.close()


def test_a_transaction_that_changes_nothing_of_ours_is_not_counted(nft: Driver) -> None:
    nft.bring(lowered(HISTORY[1]))
    watch = nft.watch()
    nft.node.run("iptables-nft-restore", "--noflush", stdin="*nat\nCOMMIT\n")
    nft.node.run("nft", "add", "table", "ip", "nat")
    assert watch.drain() == Seen()
    watch.close()


@pytest.mark.parametrize(
    ("argv", "stdin", "count"),
    [
        (("iptables-legacy", "-t", "nat", "-N", "MINE"), "", 1),
        (("iptables-legacy", "-t", "nat", "-X", "MINE"), "", 1),
        (("iptables-legacy-save",), "", 0),
        (("iptables-legacy-restore", "--noflush"), "*nat\nCOMMIT\n*filter\nCOMMIT\n", 2),
        (("iptables-legacy-restore", "--noflush", "-w", "10"), "*nat\nCOMMIT\n*filter\nCOMMIT\n", 2),
        (("ip6tables-legacy-restore", "--noflush"), "*filter\nCOMMIT\n", 1),  # the lock is one for both families
    ],
)
def test_the_lock_is_let_go_once_per_table(legacy: Driver, argv: tuple[str, ...], stdin: str, count: int) -> None:
    """iptables/xshared.c: xtables_lock opens the file, and closing it is what lets it go."""
    watch = legacy.watch()
    if "MINE" in argv and "-X" in argv:
        legacy.node.run("iptables-legacy", "-t", "nat", "-N", "MINE")
        watch.drain()
    legacy.node.run(*argv, stdin=stdin)
    assert watch.drain().commits == count
    watch.close()
    if "-N" in argv:
        legacy.node.run("iptables-legacy", "-t", "nat", "-X", "MINE")


def test_the_lock_tells_of_other_namespaces_too(legacy: Driver) -> None:
    watch = legacy.watch()
    legacy.node.run("iptables-legacy", "-t", "nat", "-N", "MINE", who="outside")
    assert watch.drain() == Seen(1, None)
    watch.close()


# Reading a part.


def part_of(driver: Driver, **part: list[str]) -> Ruleset | None:
    return driver.node.inside("node", lambda: driver.engine.read_part(part))


def test_some_chains_are_read_as_they_are(nft: Driver) -> None:
    wanted = lowered(HISTORY[1])
    nft.bring(wanted)
    nft.node.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-j", "ACCEPT")  # is not ours, and is not told of
    svc = next(chain for chain in wanted.nat.chains if chain.startswith("KUBE-SVC-"))
    found = part_of(nft, nat=["OUTPUT", svc], filter=["KUBE-FORWARD", "INPUT"])
    assert found == Ruleset(
        filter=Table({"KUBE-FORWARD": wanted.filter.chains["KUBE-FORWARD"]}, {"INPUT": wanted.filter.jumps["INPUT"]}),
        nat=Table({svc: wanted.nat.chains[svc]}, {"OUTPUT": wanted.nat.jumps["OUTPUT"]}),
    )
    nft.node.run("iptables-nft", "-t", "nat", "-D", "OUTPUT", "-j", "ACCEPT")


def test_parts_of_what_is_not_there(nft: Driver) -> None:
    """Or all has to be read: iptables 1.8.9 does not say clearly of a chain that it is not there."""
    assert part_of(nft, nat=["OUTPUT"], filter=["INPUT"]) == Ruleset()
    assert part_of(nft, nat=["KUBE-SVC-A"]) in (Ruleset(), None)
    nft.bring(lowered(HISTORY[1]))
    assert part_of(nft, nat=["KUBE-SVC-GONE", "OUTPUT"]) in (
        Ruleset(nat=Table(jumps={"OUTPUT": lowered(HISTORY[1]).nat.jumps["OUTPUT"]})),
        None,
    )


@pytest.mark.parametrize("output", [b"", b"nonsense\n"])
def test_a_part_that_cannot_be_read(output: bytes) -> None:
    def broken(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        if not output:
            raise RuntimeError("Permission denied (you must be root)")
        return output

    with pytest.raises(EngineError, match="cannot read"):
        RestoreEngine(broken, variant="nft").read_part({"nat": ["OUTPUT"]})


def test_a_part_with_tampering_in_it(nft: Driver) -> None:
    wanted = lowered(HISTORY[1])
    nft.bring(wanted)
    nft.node.run("iptables-nft", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN")
    found = part_of(nft, nat=["KUBE-SERVICES"])
    assert found is not None
    assert found.nat.chains["KUBE-SERVICES"] == (parse_rule("-j RETURN"), *wanted.nat.chains["KUBE-SERVICES"])


def test_legacy_travels_whole(legacy: Driver) -> None:
    legacy.bring(lowered(HISTORY[1]))
    assert part_of(legacy, nat=["KUBE-SERVICES"]) is None
