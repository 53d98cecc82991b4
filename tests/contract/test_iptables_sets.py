"""Session affinity on the real kernel: sets of clients, from their making to their end, and real clients in them."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from rules.iptables.diff import diff_rulesets
from rules.iptables.engines import EngineError
from rules.iptables.engines.ipset import MAX_CLIENTS
from rules.iptables.names import clients_set
from rules.iptables.ruleset import Ruleset
from rules.snapshot import Family, Settings
from tests.harness.drivers import ENGINES, Driver, driving, lowered, make, node_for_engines
from tests.harness.netfilter import NODE_IP, MiniNode
from tests.harness.services import make_service, make_snapshot

PODS = {"a": "10.244.0.1", "b": "10.244.0.2", "c": "10.244.1.3"}
VIP, PORT, AFFINITY = "10.96.0.10", 53, 1000
CLIENTS = "10.50.0.0/16"  # all of them are addresses of the outside machine, to which the node's default route leads


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with node_for_engines() as made:
        made.run("ip", "route", "add", "local", CLIENTS, "dev", "lo", who="outside")
        yield made


@pytest.fixture(params=ENGINES)
def driver(node: MiniNode, request: pytest.FixtureRequest) -> Iterator[Driver]:
    with driving(node, make(request.param)) as made:
        yield made


@pytest.fixture
def nft(node: MiniNode) -> Iterator[Driver]:
    with driving(node, make("restore-nft")) as made:
        yield made


def sticky(*addresses: str, seconds: int | None = AFFINITY) -> Ruleset:
    """One UDP Service whose clients stay."""
    made = make_service(
        "dns", *addresses, vip=VIP, port=PORT, protocol="UDP", node_port=30053, affinity_seconds=seconds
    )
    return lowered(make_snapshot(made, settings=Settings(cluster_cidrs=("10.0.0.0/8",))))


def set_of(who: str) -> str:
    return clients_set("default/dns", "UDP", f"{PODS[who]}:8080", family=4)


def sets_of(node: MiniNode) -> set[str]:
    return set(node.run("ipset", "list", "-n").split())


def members(node: MiniNode, name: str) -> dict[str, int]:
    """The clients in a set, and for how many seconds yet."""
    found = re.findall(r"^(\S+) timeout (\d+)", node.run("ipset", "list", name), re.MULTILINE)
    return {address: int(seconds) for address, seconds in found}


def open_client(node: MiniNode, address: str, *, to: tuple[str, int] = (VIP, PORT)) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        made.connect(to)
        made.settimeout(5)
        return made

    return node.inside("outside", opened)


def ask(client: socket.socket) -> str:
    """Which pod answers."""
    client.send(b"who?")
    return client.recv(100).decode().split()[0]


def call(node: MiniNode, address: str, *, to: tuple[str, int] = (VIP, PORT)) -> str:
    """A new connection."""
    with closing(open_client(node, address, to=to)) as client:
        return ask(client)


# Making and unmaking.


def test_sets_come_before_the_rules_that_speak_of_them_and_go_after(driver: Driver) -> None:
    wanted = sticky(*PODS.values())
    driver.bring(wanted)
    assert driver.read() == wanted
    assert sets_of(driver.node) == {set_of(who) for who in PODS} == wanted.sets
    driver.bring(sticky(PODS["a"]))
    assert sets_of(driver.node) == {set_of("a")}
    driver.bring(sticky(PODS["a"], seconds=None))
    assert sets_of(driver.node) == set()
    driver.bring(wanted)
    driver.cleanup()
    assert sets_of(driver.node) == set()


def test_a_set_is_empty_when_it_is_new_and_kept_when_it_is_not(driver: Driver) -> None:
    """What a crash left behind is adopted as it is; what is to be new is new."""
    driver.bring(sticky(PODS["a"]))
    driver.node.run("ipset", "add", set_of("a"), "10.50.0.1")
    driver.bring(sticky(*PODS.values()))  # another process would read the same
    assert set(members(driver.node, set_of("a"))) == {"10.50.0.1"}
    driver.cleanup()
    kind = f"hash:ip family inet hashsize 64 maxelem {MAX_CLIENTS} timeout 10800"
    driver.node.run("ipset", "create", set_of("a"), *kind.split())
    driver.node.run("ipset", "add", set_of("a"), "10.50.0.1")
    driver.apply(diff_rulesets(Ruleset(), sticky(PODS["a"])))  # planned before somebody made it
    assert members(driver.node, set_of("a")) == {}


def test_foreign_sets_and_those_of_ipv6_are_left_alone(driver: Driver) -> None:
    foreign = {"cali40s:x", "PODWIRE", "PODWIRE-6-AAAAAAAAAAAAAAAA"}
    for name in foreign:
        driver.node.run("ipset", "create", name, "hash:ip")
    driver.bring(sticky(*PODS.values()))
    assert driver.read() == sticky(*PODS.values())
    driver.cleanup()
    assert sets_of(driver.node) == foreign
    driver.node.run("ipset", "destroy")


def test_sets_of_ipv6(node: MiniNode) -> None:
    driver = Driver(node, make("restore-nft", Family.IPV6))
    made = make_service("six", "fd00:244::1", vip="fd00:96::a", affinity_seconds=60)
    wanted = lowered(make_snapshot(made), Family.IPV6)
    driver.bring(wanted)
    assert driver.read() == wanted
    (name,) = wanted.sets
    node.run("ipset", "add", name, "fd00::1")
    driver.cleanup()
    assert sets_of(node) == set()


def test_without_ipset_nothing_is_written_and_the_message_says_why(
    node: MiniNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ipset" else which(name))
    for kind in ENGINES:
        with driving(node, make(kind)) as driver:
            with pytest.raises(EngineError, match=r"sessionAffinity: ClientIP.*ipset.*apt install ipset"):
                driver.bring(sticky(*PODS.values()))
            assert driver.read() == Ruleset()
            driver.bring(sticky(*PODS.values(), seconds=None))  # all else works
            assert driver.read() == sticky(*PODS.values(), seconds=None)


def test_a_set_that_somebody_elses_rule_uses(nft: Driver) -> None:
    nft.bring(sticky(PODS["a"]))
    rule = ("INPUT", "-m", "set", "--match-set", set_of("a"), "src")
    nft.node.run("iptables-nft", "-A", *rule)
    with pytest.raises(EngineError, match=f"somebody else's rules use {set_of('a')}"):
        nft.bring(sticky(PODS["a"], seconds=None))
    assert sets_of(nft.node) == {set_of("a")}
    nft.cleanup()  # takes what it can
    nft.node.run("iptables-nft", "-D", *rule)
    nft.cleanup()
    assert sets_of(nft.node) == set()
    for table in ("filter", "nat"):  # the stranger's rule kept a table that was ours
        nft.node.run("nft", "add", "table", "ip", table)
        nft.node.run("nft", "delete", "table", "ip", table)


def test_rules_of_the_other_variant_keep_their_sets(node: MiniNode) -> None:
    with driving(node, make("restore-nft")) as nft, driving(node, make("restore-legacy")) as legacy:
        legacy.bring(sticky(*PODS.values()))
        nft.bring(sticky(*PODS.values()))
        legacy.cleanup()
        assert nft.read() == sticky(*PODS.values())


# Real clients.


def test_ten_thousand_clients_stay_with_their_endpoints(nft: Driver) -> None:
    """Each by new connections; and evenly, as they were sent at first. (Mode ``recent`` of iptables remembers 100.)"""
    nft.bring(sticky(*PODS.values()))
    addresses = [f"10.50.{number // 250}.{number % 250 + 1}" for number in range(10_000)]

    def everybody() -> dict[str, str]:
        found = {}
        for address in addresses:
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.settimeout(5)
                client.bind((address, 0))
                client.connect((VIP, PORT))
                found[address] = ask(client)
        return found

    first = nft.node.inside("outside", everybody)
    known = {who: members(nft.node, set_of(who)) for who in PODS}
    assert {address: who for who, clients in known.items() for address in clients} == first
    assert all(abs(count - 10_000 / 3) < 400 for count in Counter(first.values()).values())  # 8 standard deviations
    assert nft.node.inside("outside", everybody) == first


def test_the_kernel_lets_no_set_grow_by_packets(node: MiniNode) -> None:
    """Why sets are made large: 64 buckets of 12 take no more, however many come. A program's addition makes room."""

    def everybody() -> None:
        for number in range(1500):
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.bind((f"10.50.{number // 250}.{number % 250 + 1}", 0))
                client.sendto(b"hello", (NODE_IP, 7))

    node.run("ipset", "create", "tiny", *["hash:ip", "hashsize", "64", "timeout", "60"])
    node.run("iptables-legacy", "-A", "INPUT", *["-p", "udp", "--dport", "7", "-j", "SET", "--add-set", "tiny", "src"])
    node.inside("outside", everybody)
    remembered = len(members(node, "tiny"))
    assert 0 < remembered <= 64 * 12
    lines = [f"add tiny 10.51.{number // 250}.{number % 250 + 1}\n" for number in range(1500)]
    node.run("ipset", "restore", stdin="".join(lines))
    assert len(members(node, "tiny")) == remembered + 1500
    node.run("iptables-legacy", "-F", "INPUT")
    node.run("ipset", "destroy", "tiny")


def test_a_client_is_known_by_whatever_address_it_calls(driver: Driver) -> None:
    driver.bring(sticky(*PODS.values()))
    for number in range(1, 21):
        client = f"10.50.0.{number}"
        first = call(driver.node, client, to=(NODE_IP, 30053))
        assert {call(driver.node, client), call(driver.node, client, to=(NODE_IP, 30053))} == {first}


def test_the_time_counts_from_the_last_new_connection(driver: Driver) -> None:
    node = driver.node
    driver.bring(sticky(*PODS.values()))
    with closing(open_client(node, "10.50.0.1")) as client:
        who = ask(client)
        assert members(node, set_of(who))["10.50.0.1"] > AFFINITY - 100
        node.run("ipset", "-exist", "add", set_of(who), "10.50.0.1", "timeout", "500")
        assert ask(client) == who  # more of the same connection
        assert members(node, set_of(who))["10.50.0.1"] <= 500
    assert call(node, "10.50.0.1") == who
    assert members(node, set_of(who))["10.50.0.1"] > AFFINITY - 100


def test_who_did_not_come_back_in_time_is_forgotten(nft: Driver) -> None:
    nft.bring(sticky(*PODS.values(), seconds=1))
    who = call(nft.node, "10.50.0.1")
    deadline = time.monotonic() + 30
    while "10.50.0.1" in members(nft.node, set_of(who)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    answers = set()
    for number in range(200):  # each is a stranger again
        nft.node.run("ipset", "flush", set_of(who))
        answers.add(call(nft.node, "10.50.0.1"))
        for other in PODS:
            nft.node.run("ipset", "flush", set_of(other))
        if answers == set(PODS):
            break
        assert number < 199


def test_an_endpoint_that_goes_forgets_its_clients_at_once(driver: Driver) -> None:
    node = driver.node
    driver.bring(sticky(*PODS.values()))
    gone = call(node, "10.50.0.1")
    others = [address for who, address in PODS.items() if who != gone]
    driver.bring(sticky(*others))
    now = call(node, "10.50.0.1")
    assert now != gone
    driver.bring(sticky(*PODS.values()))  # it is back
    assert members(node, set_of(gone)) == {}
    assert {call(node, "10.50.0.1") for _ in range(20)} == {now}


def test_a_change_elsewhere_moves_nobody(driver: Driver) -> None:
    node = driver.node
    driver.bring(sticky(*PODS.values()))
    clients = [f"10.50.0.{number}" for number in range(1, 31)]
    first = {client: call(node, client) for client in clients}
    dns = make_service(
        "dns", *PODS.values(), vip=VIP, port=PORT, protocol="UDP", node_port=30053, affinity_seconds=AFFINITY + 1
    )
    others = [make_service(f"n{n}", "10.244.0.1", vip=f"10.97.0.{n + 1}") for n in range(40)]
    settings = Settings(cluster_cidrs=("10.0.0.0/8",))
    driver.bring(lowered(make_snapshot(dns, *others, settings=settings)))
    assert {client: call(node, client) for client in clients} == first
