"""One suite over every engine and variant, on the real kernel: what is written is what is read, and nothing else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.shell import run
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import EngineError, libiptc
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.names import is_ours
from rules.iptables.parse import parse_rule
from rules.iptables.preflight import make_engine, preflight
from rules.iptables.ruleset import Ruleset, Table
from rules.snapshot import Family, LoadBalancerIngress, Settings
from tests.harness.drivers import ENGINES, Driver, driving, lowered, make, node_for_engines
from tests.harness.engines import MemoryEngine
from tests.harness.netfilter import MiniNode
from tests.harness.services import endpoint, make_service, make_snapshot, many_services


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with node_for_engines() as made:
        yield made


@pytest.fixture(params=ENGINES)
def driver(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with driving(node, make(request.param)) as made:
        yield made


@pytest.fixture(params=[*ENGINES, "memory"])
def any_driver(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with driving(node, MemoryEngine() if request.param == "memory" else make(request.param)) as made:
        yield made


FULL = make_service(
    "full",
    "10.244.0.1",
    "10.244.0.2",
    endpoint("10.244.1.3", here=False),
    node_port=30001,
    external_ips=("198.51.100.1",),
    load_balancer=(LoadBalancerIngress("203.0.113.1"),),
    source_ranges=("198.51.100.0/24",),
    external_traffic_policy="Local",
    internal_traffic_policy="Local",
    affinity_seconds=60,
)
UDP = make_service("udp", "10.244.0.1", vip="10.96.0.11", protocol="UDP", port=53, node_port=30053)
SCTP = make_service("sctp", "10.244.0.1", vip="10.96.0.12", protocol="SCTP", node_port=30054)
NONE = make_service("none", vip="10.96.0.13", node_port=30002, external_ips=("198.51.100.2",))
AFAR = make_service("afar", endpoint("10.244.1.3", here=False), vip="10.96.0.14", internal_traffic_policy="Local")
LONG = make_service("x" * 63, "10.244.0.1", vip="10.96.0.15", port_name="y" * 63)
WIDE = Settings(
    cluster_cidrs=("10.244.0.0/16", "10.245.0.0/16"),
    egress_cidrs=("10.244.0.0/24",),
    pod_bridge="podwire0",
    node_port_addresses=("primary", "198.51.100.0/24"),
)

PORTS = (0x0100, 0xF123, 0xFFFF, *range(30000, 30033))
TREES = make_snapshot(  # of addresses, of ports (with ranges at both ends), of endpoints
    *(make_service(f"t-{n}", "10.244.0.1", vip=f"10.{n}.0.1", node_port=port) for n, port in enumerate(PORTS)),
    *(make_service(f"n-{n}", vip=f"10.{n}.0.2", node_port=port + 1000) for n, port in enumerate(PORTS[3:])),
    make_service("many", *(f"10.244.1.{n + 1}" for n in range(40)), vip="10.96.0.1", affinity_seconds=86400),
)

HISTORY = [
    make_snapshot(),
    make_snapshot(FULL, UDP, SCTP, NONE, AFAR, LONG),
    make_snapshot(FULL, UDP, settings=WIDE),
    make_snapshot(make_service("full", "10.244.0.2"), NONE, settings=Settings()),
    many_services(20, 5),
    TREES,
    make_snapshot(),
]


def test_what_is_written_is_what_is_read(any_driver: Driver) -> None:
    for snapshot in HISTORY:
        wanted = lowered(snapshot)
        any_driver.bring(wanted)
        assert any_driver.read() == wanted
    assert any_driver.bring(lowered(HISTORY[-1])) == Plan()


def test_a_change_touches_only_the_chains_it_concerns(driver: Driver) -> None:
    driver.bring(lowered(many_services(20, 5)))
    plan = driver.bring(lowered(many_services(20, 5, shift=1)))
    (table,) = plan.tables
    assert sorted(change.chain.split("-")[1] for change in table.chains) == ["SEP", "SEP", "SVC"]
    assert driver.read() == lowered(many_services(20, 5, shift=1))


FOREIGN = """\
*nat
:MINE - [0:0]
-A MINE -d 198.51.100.77/32 -j RETURN
-A PREROUTING -m comment --comment "mine; not podwire\\'s" -j MINE
-A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -j KUBE-FIREWALL
COMMIT
"""
NOT_FOREIGN = """\
*nat
-D PREROUTING -m comment --comment "mine; not podwire's" -j MINE
-D POSTROUTING -s 203.0.113.0/24 -j MASQUERADE
-F MINE
-X MINE
COMMIT
*filter
-D INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-D FORWARD -j KUBE-FIREWALL
-X KUBE-FIREWALL
COMMIT
"""


def without_ours(saved: str) -> list[str]:
    rules = [line for line in saved.splitlines() if line.startswith("-A ")]
    return [rule for rule in rules if "podwire:" not in rule and not is_ours(rule.split()[1])]


def test_foreign_rules_stay(driver: Driver) -> None:
    tool = driver.tool
    driver.node.run(f"{tool}-restore", "--noflush", stdin=FOREIGN)
    try:
        before, foreign = driver.node.saved(), without_ours(driver.node.run(f"{tool}-save"))
        for snapshot in (HISTORY[0], HISTORY[1], HISTORY[0]):
            driver.bring(lowered(snapshot))
            assert without_ours(driver.node.run(f"{tool}-save")) == foreign
        first = next(line for line in driver.node.run(f"{tool}-save").splitlines() if line.startswith("-A PREROUTING"))
        assert "podwire: Services" in first  # ours goes on top
        driver.cleanup()
        assert driver.node.saved() == before
    finally:
        driver.cleanup()
        driver.node.run(f"{tool}-restore", "--noflush", stdin=NOT_FOREIGN)


def test_cleanup_leaves_the_host_as_it_was(driver: Driver) -> None:
    before = driver.node.saved()
    driver.bring(lowered(HISTORY[1]))
    assert driver.node.saved() != before
    driver.cleanup()
    assert driver.node.saved() == before
    driver.cleanup()  # nothing is left to do
    assert driver.node.saved() == before


def test_cleanup_by_another_process_after_a_crash(node: MiniNode) -> None:
    before = node.saved()
    Driver(node, make("restore-nft")).bring(lowered(HISTORY[1]))
    Driver(node, make("restore-nft")).bring(lowered(HISTORY[2]))  # a restart in between
    Driver(node, make("restore-nft")).cleanup()
    assert node.saved() == before


def test_cleanup_keeps_what_others_put_into_tables_that_we_made(node: MiniNode) -> None:
    driver = Driver(node, make("restore-nft"))
    driver.bring(lowered(HISTORY[1]))
    node.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "198.51.100.1", "-j", "RETURN")
    node.run("iptables-nft", "-P", "FORWARD", "DROP")
    driver.cleanup()
    saved = node.saved()
    assert "-A OUTPUT -d 198.51.100.1/32 -j RETURN" in saved
    assert ":FORWARD DROP" in saved
    assert "KUBE-" not in saved
    assert "PODWIRE-" not in saved
    node.run("nft", "delete", "table", "ip", "nat")
    node.run("nft", "delete", "table", "ip", "filter")


def test_cleanup_keeps_base_chains_that_were_there(node: MiniNode) -> None:
    node.run("nft", "add table ip nat; add chain ip nat POSTROUTING { type nat hook postrouting priority 100; }")
    before = node.saved()
    driver = Driver(node, make("restore-nft"))
    driver.bring(lowered(HISTORY[1]))
    driver.cleanup()
    assert node.saved() == before
    node.run("nft", "delete", "table", "ip", "nat")


def test_without_the_nft_program_empty_tables_remain(node: MiniNode, caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver(node, RestoreEngine(run, variant="nft", nft=None))
    before = node.saved()
    driver.bring(lowered(HISTORY[1]))
    driver.cleanup()
    assert "removing them needs the nft program" in caplog.text
    assert not without_ours(node.saved())
    assert "PODWIRE-" not in node.saved()
    for table in ("nat", "filter"):
        node.run("nft", "delete", "table", "ip", table)
    assert node.saved() == before


# What somebody else does meanwhile.


def test_a_plan_that_no_longer_fits_is_refused(any_driver: Driver) -> None:
    any_driver.bring(lowered(HISTORY[1]))
    stale = diff_rulesets(any_driver.read(), Ruleset())
    any_driver.cleanup()
    with pytest.raises(EngineError):
        any_driver.apply(stale)
    any_driver.bring(lowered(HISTORY[1]))  # from a fresh reading
    assert any_driver.read() == lowered(HISTORY[1])


def test_a_change_of_a_flushed_table_is_refused(driver: Driver) -> None:
    before, after = lowered(many_services(3, 2)), lowered(many_services(3, 3))
    driver.bring(before)
    driver.cleanup()
    with pytest.raises(EngineError):
        driver.apply(
            diff_rulesets(
                Ruleset(before.filter, Table(before.nat.chains, before.nat.jumps)),
                Ruleset(after.filter, Table({**after.nat.chains, "KUBE-SVC-X": (parse_rule("-j KUBE-SVC-Y"),)})),
            )
        )
    assert driver.read() == Ruleset()


@pytest.mark.parametrize(
    "tampering",
    [
        ["-t", "nat", "-F", "KUBE-SERVICES"],
        ["-t", "nat", "-D", "KUBE-NODEPORTS", "1"],
        ["-t", "nat", "-F", "OUTPUT"],
        ["-t", "filter", "-F"],
        ["-t", "nat", "-I", "KUBE-SERVICES", "-j", "RETURN"],
        ["-t", "nat", "-N", "KUBE-SVC-STRANGE"],
    ],
)
def test_tampering_is_seen_and_repaired(driver: Driver, tampering: list[str]) -> None:
    wanted = lowered(HISTORY[1])
    driver.bring(wanted)
    driver.node.run(driver.tool, *tampering)
    assert driver.read() != wanted
    assert driver.bring(wanted)
    assert driver.read() == wanted


def test_a_chain_that_a_foreign_rule_uses_is_emptied_not_deleted(driver: Driver) -> None:
    driver.bring(lowered(HISTORY[1]))
    tool = driver.tool
    driver.node.run(tool, "-t", "nat", "-A", "INPUT", "-j", "KUBE-MARK-MASQ")
    driver.cleanup()
    assert driver.read() == Ruleset(nat=Table(chains={"KUBE-MARK-MASQ": ()}))
    driver.node.run(tool, "-t", "nat", "-D", "INPUT", "-j", "KUBE-MARK-MASQ")


# What the kernel will not have.


@pytest.mark.parametrize("text", ["-j NOSUCHTARGET", "-m comment --comment x -j KUBE-NOWHERE", "-m statistic --mode x"])
def test_a_refused_plan_changes_nothing(driver: Driver, text: str) -> None:
    wanted = lowered(HISTORY[1])
    driver.bring(wanted)
    bad = Table({**wanted.nat.chains, "KUBE-SVC-BAD": (parse_rule(text),)}, wanted.nat.jumps)
    with pytest.raises(EngineError, match="cannot write"):
        driver.apply(diff_rulesets(wanted, Ruleset(wanted.filter, bad)))
    assert driver.read() == wanted


def test_the_lock_is_waited_for(node: MiniNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    monkeypatch.setattr(libiptc, "LOCK_SECONDS", 0.2)
    driver = Driver(node, make("libiptc"))
    held = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(EngineError, match="is an iptables stuck"):
            driver.bring(lowered(HISTORY[0]))
    finally:
        os.close(held)
    driver.bring(lowered(HISTORY[0]))
    driver.cleanup()
    driver.engine.close()


# IPv6, and choosing.


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_ipv6(node: MiniNode, variant: str) -> None:
    if variant == "legacy":
        for table in ("nat", "filter"):
            node.run("ip6tables-legacy", "-t", table, "-S")
    driver = Driver(node, make(f"restore-{variant}", Family.IPV6))
    before = node.saved()
    made = make_service(
        "six", "fd00:244::1", "fd00:244::2", vip="fd00:96::a", node_port=30001, affinity_seconds=60, port_name="p"
    )
    settings = Settings(cluster_cidrs=("fd00:244::/64",), egress_cidrs=("fd00:244::/64",))
    wanted = lowered(make_snapshot(made, make_service("none", vip="fd00:96::b"), settings=settings), Family.IPV6)
    driver.bring(wanted)
    assert driver.read() == wanted
    driver.cleanup()
    assert node.saved() == before


def test_preflight_on_this_host(node: MiniNode) -> None:
    found = node.inside("node", lambda: preflight(run))
    assert found.why
    engine = make_engine(found, run)
    assert (engine.name, engine.variant) == (found.engine, found.variant)
    engine.close()
    six = make_engine(node.inside("node", lambda: preflight(run, engine="libiptc")), run, Family.IPV6)
    assert (six.name, six.variant) == ("restore", "legacy")
    six.close()


def test_preflight_follows_the_rules_that_are_there(node: MiniNode) -> None:
    node.run("iptables-legacy", "-A", "INPUT", "-j", "ACCEPT")
    found = node.inside("node", lambda: preflight(run))
    assert (found.variant, found.engine) == ("legacy", "libiptc")
    node.run("iptables-legacy", "-D", "INPUT", "-j", "ACCEPT")
