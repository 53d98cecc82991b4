"""``agent.proxy`` as it runs on a node: an API server, real rules, real connections; then every trace of it removed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import proxy
from agent.config import Engine, Variant
from agent.kube.client import Client
from agent.proxy import Options
from agent.proxy.conntrack_netlink import Conntrack
from agent.proxy.dataplane import Dataplane
from agent.proxy.loop import Proxy
from agent.shell import CommandError, run
from rules.iptables.diff import diff_rulesets
from rules.iptables.engines import EngineError
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family, ServiceName
from tests.harness.cluster import Cluster, serve_cluster
from tests.harness.netfilter import GATEWAY, PODS, MiniNode, mini_node
from tests.harness.scripted_api import until
from tests.harness.services import Made, make_service, make_snapshot
from tests.leaks import assert_no_leaks

VARIANTS: list[Variant] = ["nft", "legacy"]
VIP = "10.96.0.10"
CHOICES: list[tuple[Engine, Variant]] = [
    ("restore", "nft"),
    ("restore", "legacy"),
    ("libiptc", "auto"),
    ("auto", "auto"),
]


@pytest.fixture(scope="module")
def node() -> Iterator[MiniNode]:
    with assert_no_leaks(), mini_node() as made:
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for table in ("nat", "filter"):
                made.run(tool, "-t", table, "-S")
        yield made


@pytest.fixture
def clean(node: MiniNode) -> Iterator[MiniNode]:
    """Without rules of ours afterwards."""
    yield node
    node.inside("node", lambda: proxy.cleanup(make_options()))


@asynccontextmanager
async def running(client: Client, options: Options) -> AsyncIterator[None]:
    """A proxy that is ready."""
    ready = asyncio.Event()
    task = asyncio.create_task(proxy.run(client, options, ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        assert waiting.done(), task
        yield
    finally:
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)


def make_options(engine: Engine = "auto", variant: Variant = "auto") -> Options:
    return Options(
        "here",
        cluster_cidrs=("10.244.0.0/16", "fd00:244::/64"),
        egress_cidrs=("10.244.0.0/24",),
        masquerade_egress=True,
        engine=engine,
        variant=variant,
    )


@pytest.mark.parametrize(("engine", "variant"), CHOICES)
def test_a_proxy_from_start_to_cleanup(node: MiniNode, tmp_path: Path, engine: Engine, variant: Variant) -> None:
    options, before = make_options(engine, variant), node.saved()

    async def once(client: Client) -> None:
        """Run until ready, and let go."""
        async with running(client, options):
            pass

    async def main() -> str:
        async with serve_cluster(tmp_path) as (cluster, client):
            _publish(cluster, PODS["a"])
            await once(client)
            assert await asyncio.to_thread(node.ask, "c", VIP, 80) == f"a {PODS['c']}"
            left = await proxy.dry_run(client, options)
            _publish(cluster, PODS["b"])
            await once(client)  # adopts, and changes what changed
            assert await asyncio.to_thread(node.ask, "c", VIP, 80) == f"b {PODS['c']}"
            return left

    assert node.inside("node", lambda: asyncio.run(main())) == "nothing to change\nnothing to change"
    node.inside("node", lambda: proxy.cleanup(options))
    assert node.saved() == before
    node.inside("node", lambda: proxy.cleanup(options))


def _publish(cluster: Cluster, address: str) -> None:
    cluster.put_service()
    cluster.put_slice(address)


def test_a_wish_that_cannot_be_met_is_an_error_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve_cluster(tmp_path) as (_, client):
            await proxy.run(client, make_options("libiptc", "nft"), ready=lambda: None)

    with pytest.raises(EngineError, match="use restore"):
        asyncio.run(main())


# What a proxy tells over HTTP, and what it sets beside rules.


def test_metrics_and_traffic_over_http(clean: MiniNode, tmp_path: Path) -> None:
    options = replace(make_options("restore", "nft"), web="127.0.0.1:10249", healthz="127.0.0.1:10256")

    clean.run("conntrack", "-F")  # of connections of other tests

    async def main() -> None:
        async with serve_cluster(tmp_path) as (cluster, client), httpx2.AsyncClient() as http:
            _publish(cluster, PODS["a"])
            async with running(client, options):
                for _ in range(3):
                    await asyncio.to_thread(clean.ask, "c", VIP, 80)
                report = (await http.get("http://127.0.0.1:10249/traffic?namespace=default&service=web")).json()
                (port,) = report["ports"]
                assert (port["service"], port["total"]["connections"]) == ("web", 3)
                metrics = (await http.get("http://127.0.0.1:10249/metrics")).text
                assert "podwire_proxy_service_connections_total{" in metrics
                assert 'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{ip_family="IPv4"} 0.0' in metrics
                assert (await http.get("http://127.0.0.1:10256/healthz")).status_code == 200

    clean.inside("node", lambda: asyncio.run(main()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_node_ports_on_the_loopback(clean: MiniNode, tmp_path: Path, variant: Variant) -> None:
    options = replace(make_options("auto", variant), localhost_node_ports=True)
    setting = ("sysctl", "-n", "net.ipv4.conf.all.route_localnet")
    before = clean.saved()

    async def main() -> None:
        async with serve_cluster(tmp_path) as (cluster, client):
            cluster.put_service(type="NodePort", ports=[{"port": 80, "nodePort": 30001}])
            cluster.put_slice(PODS["a"])
            async with running(client, options):
                pass

    assert clean.run(*setting) == "0\n"
    clean.inside("node", lambda: asyncio.run(main()))
    assert clean.run(*setting) == "1\n"
    assert clean.ask("node", "127.0.0.1", 30001) == f"a {GATEWAY}"
    clean.inside("node", lambda: proxy.cleanup(options))
    assert clean.run(*setting) == "0\n"
    assert clean.saved() == before


# Restarts: what was there is adopted, connections too.


@pytest.mark.parametrize("variant", VARIANTS)
def test_flows_of_services_that_went_meanwhile_end_and_healthy_ones_stay(
    clean: MiniNode, tmp_path: Path, variant: Variant
) -> None:
    """While no proxy runs one Service is deleted, one loses an endpoint, one stays as it is."""
    options = make_options("auto", variant)
    places = {"gone": "10.96.0.21", "moved": "10.96.0.22", "same": "10.96.0.23"}

    async def main() -> None:
        async with serve_cluster(tmp_path) as (cluster, client):
            for name, address in places.items():
                cluster.put_service(name, address, ports=[{"port": 80, "protocol": "UDP"}])
                cluster.put_slice(PODS["a"], name=name, protocol="UDP")
            async with running(client, options):
                pass
            sockets = {name: talk(address) for name, address in places.items()}
            direct = talk(PODS["a"], 8080)
            cluster.services.delete("gone")
            cluster.slices.delete("gone-1")
            cluster.put_slice(PODS["c"], name="moved", protocol="UDP")
            ids = tracked()
            async with running(client, options):
                pass
            left = tracked()
            assert "10.96.0.21" not in left
            assert "10.96.0.22" not in left
            for address in ("10.96.0.23", PODS["a"]):
                assert left[address] == ids[address]  # the same entry, not a new one
            assert ask(sockets["moved"]) == "c"
            assert ask(sockets["same"]) == ask(direct) == "a"
            for sock in (*sockets.values(), direct):
                sock.close()

    def talk(address: str, port: int = 80) -> socket.socket:
        sock = clean.udp_client("b")
        sock.connect((address, port))
        assert ask(sock) == "a"
        return sock

    def ask(sock: socket.socket) -> str:
        sock.send(b"hello")
        return sock.recv(100).decode().split()[0]

    def tracked() -> dict[str, int]:
        """The identifier of the connection to each destination."""
        with Conntrack() as kernel:
            return {entry.destination[0]: entry.id for entry in kernel.dump(Family.IPV4, ["UDP"])}

    clean.inside("node", lambda: asyncio.run(main()))


# What the kernel refuses, and what it cannot tell.


def test_one_poisonous_service_among_fifty(clean: MiniNode, tmp_path: Path) -> None:
    poisoned = True

    def refusing(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        if poisoned and stdin is not None and b"default/poison " in stdin:
            raise CommandError(argv, code=2, output="Couldn't load match `poison'")
        return run(argv, stdin=stdin, timeout=timeout)

    async def main() -> None:
        nonlocal poisoned
        dataplane = Dataplane({Family.IPV4: RestoreEngine(refusing, variant="nft")})
        async with serve_cluster(tmp_path) as (cluster, client):
            for number in range(50):
                cluster.put_service(f"good-{number}", f"10.96.2.{number}")
                cluster.put_slice(PODS["a"], name=f"good-{number}")
            cluster.put_service("poison", "10.96.3.1")
            cluster.put_slice(PODS["b"], name="poison")
            task = asyncio.create_task(Proxy(client, options, dataplane=dataplane, ready=ready.set).run())
            try:
                await ready.wait()
                for number in range(50):
                    assert (await asyncio.to_thread(clean.ask, "c", f"10.96.2.{number}", 80)).startswith("a ")
                await until(lambda: cluster.services.writes)
                ((_, _, event, _),) = cluster.services.writes
                assert (event["reason"], event["involvedObject"]["name"]) == ("RulesRefused", "poison")
                assert "Couldn't load match `poison'" in event["message"]
                poisoned = False
                await until(lambda: b"default/poison" in run(("iptables-nft-save", "-t", "nat")))  # tried again
                assert (await asyncio.to_thread(clean.ask, "c", "10.96.3.1", 80)).startswith("b ")
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    options, ready = Options("here", cluster_cidrs=("10.244.0.0/16",)), asyncio.Event()
    clean.inside("node", lambda: asyncio.run(main()))


def test_a_table_that_iptables_cannot_show_is_not_taken_for_empty(clean: MiniNode) -> None:
    engine = RestoreEngine(run, variant="nft")
    clean.run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT")
    clean.run("nft", "add", "rule", "ip", "filter", "INPUT", "fib", "daddr", "type", "local", "accept")
    try:
        with pytest.raises(EngineError, match=r"cannot show table filter.*made with nft"):
            clean.inside("node", engine.read)
    finally:
        clean.run("nft", "delete", "table", "ip", "filter")


def test_a_table_that_comes_while_the_engine_looks_is_no_surprise(clean: MiniNode) -> None:
    """Somebody replaces a table: between the list of tables and that of chains it comes back."""
    before = clean.saved()

    def hiding(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
        if argv[-2:] == ("tables", "ip"):
            return b'{"nftables": []}'
        return run(argv, stdin=stdin, timeout=timeout)

    clean.run("iptables-nft", "-t", "nat", "-A", "OUTPUT", "-d", "203.0.113.1", "-j", "ACCEPT")
    engine = RestoreEngine(hiding, variant="nft")
    wanted = lower_frontends(resolve_frontends(make_snapshot()), Family.IPV4)
    clean.inside("node", lambda: engine.apply(diff_rulesets(Ruleset(), wanted)))
    assert clean.inside("node", engine.read) == wanted
    clean.inside("node", RestoreEngine(run, variant="nft").cleanup)
    clean.run("nft", "delete", "table", "ip", "nat")
    assert clean.saved() == before


# After any history there is what would be made from scratch.

ADDRESSES = st.lists(st.sampled_from([f"10.244.0.{n}" for n in range(1, 6)]), unique=True, max_size=4)
SERVICES = st.fixed_dictionaries(
    {
        "endpoints": ADDRESSES,
        "node_port": st.booleans(),
        "protocol": st.sampled_from(["TCP", "UDP"]),
        "affinity_seconds": st.sampled_from([None, 60]),
        "external_traffic_policy": st.sampled_from(["Cluster", "Local"]),
    }
)
CHANGES = st.tuples(st.integers(0, 5), st.none() | SERVICES)  # which Service, and what it is now (None: gone)
HISTORIES = st.lists(st.lists(CHANGES, min_size=1, max_size=4), min_size=1, max_size=5)


@pytest.mark.parametrize("engine", ["restore-nft", "restore-legacy", "libiptc"])
@settings(max_examples=4)
@given(history=HISTORIES)
def test_any_history_ends_where_a_start_from_scratch_does(
    node: MiniNode, engine: str, history: list[list[tuple[int, dict[str, Any] | None]]]
) -> None:
    made = LibiptcEngine(run) if engine == "libiptc" else RestoreEngine(run, variant=_variant(engine))
    services: dict[ServiceName, Made] = {}

    def play() -> None:
        dataplane = Dataplane({Family.IPV4: made})
        try:
            dataplane.sync(resolve_frontends(make_snapshot()))
            for step in history:
                changed = {_apply(services, number, fields) for number, fields in step}
                part = resolve_frontends(make_snapshot(*(services[name] for name in changed if name in services)))
                assert not dataplane.sync(part, changed=changed).refused
                whole = resolve_frontends(make_snapshot(*services.values()))
                assert made.read() == lower_frontends(whole, Family.IPV4)
            assert not dataplane.check(thorough=True)
        finally:
            made.cleanup()
            dataplane.close()

    node.inside("node", play)


def _variant(engine: str) -> Literal["nft", "legacy"]:
    return "nft" if engine.endswith("nft") else "legacy"


def _apply(services: dict[ServiceName, Made], number: int, fields: dict[str, Any] | None) -> ServiceName:
    name = ServiceName("default", f"s{number}")
    services.pop(name, None)
    if fields is not None:
        own = dict(fields)
        endpoints, port = own.pop("endpoints"), 30000 + number if own.pop("node_port") else 0
        services[name] = make_service(name.name, *endpoints, vip=f"10.96.0.{number}", node_port=port, **own)
    return name
