"""The proxy as a whole, between an API server that is real HTTP and a kernel made of memory."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from agent import proxy as proxy_package
from agent.config import Config
from agent.kube.client import Client
from agent.proxy import loop, traffic_meter
from agent.proxy.dataplane import Dataplane
from agent.proxy.loop import Proxy
from agent.proxy.metrics import Metrics
from agent.proxy.options import Options
from agent.proxy.snapshots import take_snapshot
from agent.proxy.web import Health
from agent.telemetry import read_timeline
from rules.iptables.diff import Plan
from rules.iptables.ruleset import Ruleset
from rules.policy import Frontends
from rules.snapshot import Family, Node, ServiceName
from tests.harness.cluster import Cluster, serve_cluster
from tests.harness.engines import MemoryEngine
from tests.harness.scripted_api import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RETRY", (0.02, 0.1))
    monkeypatch.setattr(loop, "LOOK", (0.02, 0.1))
    monkeypatch.setattr(traffic_meter, "enable_accounting", tuple)  # this machine's kernel is left as it is


class Running:
    """A running proxy, its kernel, and how often it said that it is ready."""

    def __init__(self, client: Client, options: Options) -> None:
        self.engine, self.ready = MemoryEngine(), 0
        dataplane = Dataplane({Family.IPV4: self.engine})
        self.proxy = Proxy(client, options, dataplane=dataplane, ready=self._count)
        self._task: asyncio.Task[None] | None = None

    def _count(self) -> None:
        self.ready += 1

    def has(self, *texts: str) -> Callable[[], bool]:
        return lambda: all(text in str(self.engine.installed) for text in texts)

    def lacks(self, text: str) -> Callable[[], bool]:
        return lambda: text not in str(self.engine.installed)

    async def __aenter__(self) -> Running:
        self._task = asyncio.create_task(self.proxy.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Cluster, Client]]:
    async with serve_cluster(tmp_path) as both:
        yield both


Server = tuple[Cluster, Client]
OPTIONS = Options("here", cluster_cidrs=("10.244.0.0/16",), min_interval=0.0)


async def test_services_come_change_and_go(server: Server) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as running:
        await until(running.has("DNAT --to-destination 10.244.0.1:8080"))
        cluster.put_slice("10.244.0.2")
        await until(running.has("DNAT --to-destination 10.244.0.2:8080"))
        assert running.lacks("10.244.0.1:8080")()
        cluster.put_slice()  # endpoints: null
        await until(running.has("has no endpoints"))
        cluster.services.delete("web")
        await until(running.lacks("default/web"))
        assert running.ready == 1
    assert running.engine.closed
    assert running.engine.installed != Ruleset()  # rules stay when the proxy goes


async def test_nothing_is_written_before_both_are_known(server: Server) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        (first, *_) = running.engine.applied
        assert "has no endpoints" not in str(first)  # the first thing written is the whole truth


async def test_rules_found_at_the_start_are_adopted(server: Server) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as first:
        await until(lambda: first.ready == 1)
    second = Running(client, OPTIONS)
    second.engine.installed = first.engine.installed
    async with second:
        await until(lambda: second.ready == 1)
        assert not second.engine.applied


async def test_a_failure_is_retried(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    running = Running(client, OPTIONS)
    running.engine.refuse = lambda text: "the kernel is busy"
    async with running:
        await until(lambda: caplog.text.count("trying again in") >= 3)
        assert running.ready == 0
        running.engine.refuse = lambda text: None
        await until(running.has("10.244.0.1:8080"))
        await until(lambda: running.ready == 1)


async def test_one_bad_service_gets_an_event_and_the_others_go_on(server: Server) -> None:
    cluster, client = server
    running = Running(client, OPTIONS)
    running.engine.refuse = lambda text: "no such match" if "default/bad" in text else None
    cluster.put_service("bad", vip="10.96.0.66")
    cluster.put_service("odd", vip="10.96.0.67", externalIPs=["nonsense"])
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with running:
        await until(running.has("10.244.0.1:8080", "default/odd"))
        await until(lambda: len(cluster.services.writes) == 2)
        assert running.ready == 1
        events = {body["involvedObject"]["name"]: body for _, _, body, _ in cluster.services.writes}
        assert (events["bad"]["reason"], events["odd"]["reason"]) == ("RulesRefused", "NotServed")
        assert "no such match" in events["bad"]["message"]
        assert "spec.externalIPs: Expected 4 octets in 'nonsense'" in events["odd"]["message"]
        assert events["bad"]["involvedObject"]["uid"].startswith("uid-")
        running.engine.refuse = lambda text: None
        await until(running.has("default/bad"))
    assert len(cluster.services.writes) == 2  # each complaint once


async def test_a_change_whose_sync_failed_is_made_later(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        running.engine.refuse = lambda text: "the kernel is busy"
        running.engine.tamper(Ruleset(), is_known=False)  # not even what was there can be put back
        cluster.put_slice("10.244.0.2")
        await until(lambda: "trying again in" in caplog.text)
        cluster.put_service("later", vip="10.96.0.11")
        running.engine.refuse = lambda text: None
        await until(running.has("10.244.0.2:8080", "default/later"))
        assert running.lacks("10.244.0.1:8080")()


async def test_a_refused_service_waits_until_there_is_nothing_else_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RETRY", (1000.0, 1000.0))
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    tried: list[str] = []

    def refuse(text: str) -> str | None:
        if "default/bad" in text:
            tried.append(text)
        return "no such match" if "default/bad" in text else None

    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        running.engine.refuse = refuse
        cluster.put_service("bad", vip="10.96.0.66")
        await until(lambda: len(cluster.services.writes) == 1)
        count = len(tried)
        for number in (2, 3, 4):
            cluster.put_slice(f"10.244.0.{number}")
            await until(running.has(f"10.244.0.{number}:8080"))
        assert len(tried) == count > 0


async def test_tampering_of_which_the_kernel_tells_is_repaired_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "LOOK", (1000.0, 1000.0))
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        wanted = running.engine.installed
        for _ in range(3):
            without = replace(wanted.nat, chains={**wanted.nat.chains, "KUBE-SERVICES": ()})
            running.engine.tamper(replace(wanted, nat=without), ("nat", "KUBE-SERVICES"))
            await until(lambda: running.engine.installed == wanted)
        assert caplog.text.count("somebody changed our rules") == 3
        running.engine.tell(frozenset({("nat", "FOREIGN")}))  # none of our business
        cluster.put_slice("10.244.0.2")
        await until(running.has("10.244.0.2:8080"))
        assert caplog.text.count("somebody changed our rules") == 3


async def test_after_a_quiet_time_nobody_waits_for_the_pause_between_looks(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOK", (1000.0, 1000.0))
    _, client = server
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        wanted = running.engine.installed
        running.proxy._told_pause = 1000.0  # as after a long look
        running.engine.tamper(Ruleset(), is_known=False)
        await until(lambda: running.engine.installed == wanted)


async def test_tampering_of_which_nobody_tells_is_found(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        wanted = running.engine.installed
        running.engine.installed = Ruleset()
        await until(lambda: running.engine.installed == wanted)
        await until(lambda: "somebody changed our rules" in caplog.text)


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_repair_that_does_not_hold_is_not_repeated_at_full_speed(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """The pause doubles each time, so there cannot be many, however long it takes."""
    slow, quick = (1000.0, 1000.0), (0.01, 1000.0)
    monkeypatch.setattr(loop, "LOOK", slow if is_told else quick)
    monkeypatch.setattr(loop, "TOLD", quick if is_told else slow)
    _, client = server
    running = Running(client, OPTIONS)
    async with running:
        await until(lambda: running.ready == 1)
        running.engine.read = Ruleset  # type: ignore[method-assign]  # never shows what was written
        if is_told:
            apply = running.engine.apply

            def apply_and_be_undone(plan: Plan) -> None:
                apply(plan)
                running.engine.tell(None)

            running.engine.apply = apply_and_be_undone  # type: ignore[method-assign]
            running.engine.tell(None)
        began = time.monotonic()
        await until(lambda: caplog.text.count("somebody changed our rules") >= 5)
        await asyncio.sleep(0.5)
        count, elapsed = caplog.text.count("somebody changed our rules"), time.monotonic() - began
        assert count <= math.log2(elapsed / quick[0]) + 3


async def test_looks_that_find_nothing_take_a_tenth_of_a_cpu_at_most(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes to another namespace all the time, and a look takes 30 ms: one in 0.27 s is enough."""
    monkeypatch.setattr(loop, "LOOK", (1000.0, 1000.0))
    _, client = server
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        looks, installed = 0, running.engine.installed

        def read() -> Ruleset:
            nonlocal looks
            time.sleep(0.03)
            looks += 1
            return installed

        running.engine.read = read  # type: ignore[method-assign]
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            running.engine.tell(None)
            await asyncio.sleep(0.01)
        assert 1 <= looks <= (time.monotonic() - began) / 0.27 + 2


async def test_each_complaint_is_told_once_until_it_changes(server: Server) -> None:
    cluster, client = server
    cluster.put_service("odd", vip="10.96.0.67", externalIPs=["nonsense"])
    async with Running(client, OPTIONS) as running:
        await until(lambda: len(cluster.services.writes) == 1)
        cluster.put_service()
        cluster.put_slice("10.244.0.1")
        await until(running.has("10.244.0.1:8080"))
        cluster.put_service("odd", vip="10.96.0.67", externalIPs=["rubbish"])
        await until(lambda: len(cluster.services.writes) == 2)
        cluster.put_service("odd", vip="10.96.0.68")
        await until(running.has("10.96.0.68"))
        cluster.put_service("odd", vip="10.96.0.68", externalIPs=["rubbish"])
        await until(lambda: len(cluster.services.writes) == 3)
        first, second, again = (body for _, _, body, _ in cluster.services.writes)
    assert "nonsense" in first["message"]
    assert "rubbish" in second["message"]
    assert again["count"] == 2  # of the second


async def test_tampering_is_repaired_though_changes_never_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK", (1000.0, 1000.0))
    monkeypatch.setattr(loop, "TOLD", (0.02, 0.05))
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    cluster.put_service("other", vip="10.96.0.11")
    async with Running(client, OPTIONS) as running:
        await until(lambda: running.ready == 1)
        sync = running.proxy._sync

        async def sync_and_be_told(thread: ThreadPoolExecutor) -> bool:
            cluster.put_slice(f"10.244.0.{2 + cluster.slices.version % 2}")
            done = await sync(thread)
            running.proxy._world._changed.add(ServiceName("default", "web"))  # the next news is there already
            running.proxy._tick.poke()
            return done

        monkeypatch.setattr(running.proxy, "_sync", sync_and_be_told)
        cluster.put_slice("10.244.0.2")
        before = running.engine.installed
        empty = dict.fromkeys(before.filter.chains, ())
        tampered = replace(before, filter=replace(before.filter, chains=empty))
        running.engine.tamper(tampered, *(("filter", chain) for chain in empty))
        await until(lambda: running.engine.installed.filter == before.filter)


async def test_this_node_decides_what_is_local(server: Server) -> None:
    cluster, client = server
    cluster.put_service(internalTrafficPolicy="Local")
    cluster.put_slice("10.244.0.1")
    addresses = [{"type": "InternalIP", "address": "192.0.2.2"}]
    async with Running(client, replace(OPTIONS, node_port_addresses=("primary",))) as running:
        await until(running.has("KUBE-SVL-"))
        assert running.lacks("192.0.2.2")()
        cluster.nodes.put_meta("here", {"namespace": ""}, status={"addresses": addresses})
        await until(running.has("-d 192.0.2.2/32"))


async def test_the_timeline_tells_of_new_services(server: Server, tmp_path: Path) -> None:
    cluster, client = server
    path = tmp_path / "timeline.jsonl"
    cluster.put_service("old", vip="10.96.0.20")
    cluster.put_slice("10.244.0.9", name="old")
    async with Running(client, replace(OPTIONS, timeline=path)) as running:
        await until(lambda: running.ready == 1)
        cluster.put_service()
        cluster.put_slice("10.244.0.1")
        await until(lambda: len(list(read_timeline(path))) == 2)
        cluster.put_slice("10.244.0.2")
        await until(running.has("10.244.0.2:8080"))
    marks = list(read_timeline(path))
    assert [(mark.step, mark.name) for mark in marks] == [("proxy saw it", "web"), ("rules in the kernel", "web")]
    assert marks[0].at <= marks[1].at


async def test_metrics_and_health_over_http(server: Server) -> None:
    cluster, client = server
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = Running(client, replace(OPTIONS, web=f"127.0.0.1:{port}"))
    async with running, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        await until(lambda: running.ready == 1)
        cluster.put_service()
        cluster.put_slice("10.244.0.1", changed="2020-01-01T00:00:00.5Z")
        await until(running.has("10.244.0.1:8080"))
        text = ""
        while 'kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1.0' not in text:
            text = (await http.get("/metrics")).text
        assert 'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"}' in text
        assert "kubeproxy_sync_proxy_rules_service_changes_total 1.0" in text
        assert "kubeproxy_sync_proxy_rules_endpoint_changes_total 1.0" in text
        assert "kubeproxy_sync_proxy_rules_duration_seconds_bucket" in text
        assert (await http.get("/traffic")).json()["ports"] is not None
        for path in ("/healthz", "/livez"):
            assert (await http.get(path)).status_code == 200
        cluster.nodes.put_meta("here", {"namespace": "", "deletionTimestamp": "2026-01-01T00:00:00Z"}, status=None)
        while (await http.get("/healthz")).status_code != 503:
            pass
        assert (await http.get("/livez")).status_code == 200


async def test_a_taken_address_is_told_and_does_no_harm(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    _, client = server
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Running(client, replace(OPTIONS, web=address)) as running:
            await until(lambda: running.ready == 1)
            assert f"cannot serve metrics and health on {address}" in caplog.text


def test_options_of_a_node(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, node_name="here", pod_cidr="10.244.7.0/24", proxy_engine="restore")
    options = Options.from_config(config)
    assert (options.node_name, options.engine, options.variant) == ("here", "restore", "auto")
    assert options.settings.cluster_cidrs == options.settings.egress_cidrs == ("10.244.7.0/24",)
    assert options.settings.pod_bridge == "podwire0"
    assert options.timeline == config.paths.timeline


def test_health_is_lost_when_work_waits_too_long() -> None:
    patient, hasty = Health(60.0), Health(0.0)
    assert patient.is_healthy
    assert not hasty.is_healthy  # not even the first sync is done
    hasty.synced()
    assert hasty.is_healthy
    hasty.queued()
    hasty.queued()
    assert not hasty.is_healthy


def test_a_change_dated_in_the_future_took_no_time() -> None:
    metrics = Metrics()
    metrics.committed(Frontends(Node("here")), triggered=[4e9])
    name = "kubeproxy_network_programming_duration_seconds_sum"
    assert metrics.registry.get_sample_value(name, {"ip_family": "IPv4"}) == 0.0


async def test_a_snapshot_for_a_dry_run(server: Server) -> None:
    cluster, client = server
    cluster.put_service()
    cluster.put_slice("10.244.0.1")
    cluster.nodes.put_meta("here", {"namespace": ""}, status=None)
    snapshot = await take_snapshot(client, OPTIONS)
    assert set(snapshot.services) == {ServiceName("default", "web")}
    plan = proxy_package.make_plan(snapshot, Ruleset())
    assert "+ -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp" in str(plan)
    assert snapshot.settings == OPTIONS.settings
