"""Health checks of Services on real sockets, in a network namespace of their own; and the proxy that answers them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agent.kube.client import Client
from agent.proxy import healthchecks
from agent.proxy.dataplane import Dataplane
from agent.proxy.healthchecks import HealthChecks, Ranges, Wanted
from agent.proxy.loop import Proxy
from agent.proxy.options import Options
from agent.shell import run
from netns import namespaces
from rules.policy import HealthCheck
from rules.snapshot import Family, ServiceName
from tests.harness.cluster import Cluster, serve_cluster
from tests.harness.engines import MemoryEngine
from tests.harness.scripted_api import until

WEB, API = ServiceName("default", "web"), ServiceName("default", "api")
EVERYWHERE: Ranges = {Family.IPV4: (), Family.IPV6: ()}
NODE_IP, OTHER_IP, NODE_IP6 = "192.0.2.2", "198.51.100.7", "2001:db8::2"
ADDRESSES = ("127.0.0.1", NODE_IP, OTHER_IP, "::1", NODE_IP6)
PORT = 32000

Inside = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def inside(node_namespace: str, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Runs a coroutine in a namespace with a loopback and a few addresses on it, where every port is free."""
    monkeypatch.setattr(healthchecks, "RETRY", 0.05)

    def prepare() -> None:
        run(("ip", "link", "set", "lo", "up"))
        for address in (f"{NODE_IP}/32", f"{OTHER_IP}/32", f"{NODE_IP6}/128"):
            run(("ip", "address", "add", address, "dev", "lo"))

    namespaces.inside(node_namespace, prepare)
    return lambda main: namespaces.inside(node_namespace, lambda: asyncio.run(main()))


class Balancer:
    """What a load balancer sees, and what the proxy is told to tell people."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http, self.healthy = http, True
        self.told: list[tuple[ServiceName, str]] = []
        self.counts = (0, 0)
        self.checks = HealthChecks(
            is_healthy=lambda: self.healthy,
            tell=lambda name, message: self.told.append((name, message)),
            count=lambda *counts: setattr(self, "counts", counts),
        )

    async def ask(self, port: int = PORT, address: str = "127.0.0.1", method: str = "GET") -> httpx2.Response | None:
        """None: connection refused."""
        host = f"[{address}]" if ":" in address else address
        try:
            return await self.http.request(method, f"http://{host}:{port}/")
        except httpx2.ConnectError:
            return None

    async def update(self, wanted: Wanted, ranges: Ranges = EVERYWHERE, *, listening: int, failed: int = 0) -> None:
        self.counts = (-1, -1)
        self.checks.update(wanted, ranges)
        await until(lambda: self.counts == (listening, failed))

    async def open_on(self, port: int = PORT) -> set[str]:
        return {address for address in ADDRESSES if await self.ask(port, address) is not None}


@contextlib.asynccontextmanager
async def balancing() -> AsyncIterator[Balancer]:
    async with httpx2.AsyncClient() as http:
        balancer = Balancer(http)
        task = asyncio.create_task(balancer.checks.run())
        try:
            yield balancer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    with socket.socket() as sock:
        sock.settimeout(5)
        assert sock.connect_ex(("127.0.0.1", PORT)) == errno.ECONNREFUSED  # it took its ports along


def code_of(response: httpx2.Response | None) -> int | None:
    return None if response is None else response.status_code


def test_the_answer_is_that_of_kube_proxy(inside: Inside) -> None:
    async def main() -> None:
        async with balancing() as balancer:
            await balancer.update({WEB: HealthCheck(PORT, 2), API: HealthCheck(PORT + 1, 0)}, listening=2)
            answer = await balancer.ask()
            assert answer is not None
            assert answer.status_code == 200
            assert answer.json() == {
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": 2,
                "serviceProxyHealthy": True,
            }
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-load-balancing-endpoint-weight"] == "2"
            other = await balancer.ask(PORT + 1)
            assert other is not None
            assert (other.status_code, other.json()["service"]["name"]) == (503, "api")
            assert code_of(await balancer.ask(method="HEAD")) == 200
            balancer.healthy = False
            sick = await balancer.ask()
            assert sick is not None
            assert (sick.status_code, sick.json()["serviceProxyHealthy"], sick.json()["localEndpoints"]) == (
                503,
                False,
                2,
            )

    inside(main)


def test_a_count_changes_within_one_connection(inside: Inside) -> None:
    """Nothing is closed and opened again for it."""

    async def main() -> None:
        async with balancing() as balancer:
            await balancer.update({WEB: HealthCheck(PORT, 1)}, listening=1)
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            codes = []
            for ready in (1, 0, 3):
                balancer.checks.update({WEB: HealthCheck(PORT, ready)}, EVERYWHERE)
                writer.write(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                await reader.readexactly(length)
                codes.append(int(head.split()[1]))
            assert codes == [200, 503, 200]
            balancer.checks.update({}, EVERYWHERE)
            assert await reader.read() == b""  # the Service is gone, and so is the connection
            writer.close()
            await writer.wait_closed()

    inside(main)


def test_ports_come_change_and_go(inside: Inside) -> None:
    async def main() -> None:
        async with balancing() as balancer:
            await balancer.update({WEB: HealthCheck(PORT, 1)}, listening=1)
            assert await balancer.open_on() == set(ADDRESSES)
            await balancer.update({WEB: HealthCheck(PORT + 1, 1)}, listening=1)
            assert await balancer.open_on() == set()
            assert await balancer.open_on(PORT + 1) == set(ADDRESSES)
            await balancer.update({}, listening=0)
            assert await balancer.open_on(PORT + 1) == set()
            assert not balancer.told

    inside(main)


def test_they_listen_where_node_ports_do(inside: Inside) -> None:
    async def main() -> None:
        wanted = {WEB: HealthCheck(PORT, 1)}
        async with balancing() as balancer:
            await balancer.update(wanted, {Family.IPV4: ("192.0.2.0/24",), Family.IPV6: ("::1/128",)}, listening=1)
            assert await balancer.open_on() == {NODE_IP, "::1"}
            await balancer.update(wanted, {Family.IPV4: ("198.51.100.0/24",), Family.IPV6: ()}, listening=1)
            assert await balancer.open_on() == {OTHER_IP, "::1", NODE_IP6}
            nowhere: Ranges = {Family.IPV4: ("203.0.113.0/24",), Family.IPV6: ("2001:db8:1::/64",)}
            await balancer.update(wanted, nowhere, listening=0, failed=1)
            assert await balancer.open_on() == set()
            ((name, message),) = balancer.told
            assert name == WEB
            assert "no address of this node is in nodePortAddresses" in message
            await asyncio.to_thread(run, ("ip", "address", "add", "203.0.113.9/32", "dev", "lo"))
            await until(lambda: balancer.counts == (1, 0))  # an address that comes later is found
            assert code_of(await balancer.ask(address="203.0.113.9")) == 200

    inside(main)


def test_addresses_that_cannot_be_listed_harm_nobody(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = healthchecks._local_addresses

    def fail() -> tuple[str, ...]:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        wanted, ranges = {WEB: HealthCheck(PORT, 1)}, {Family.IPV4: ("192.0.2.0/24",), Family.IPV6: ("::1/128",)}
        async with balancing() as balancer:
            await balancer.update(wanted, ranges, listening=1)
            monkeypatch.setattr(healthchecks, "_local_addresses", fail)
            await until(lambda: "cannot list this node's addresses" in caplog.text)
            assert code_of(await balancer.ask(PORT, NODE_IP)) == 200
            monkeypatch.setattr(healthchecks, "_local_addresses", listed)
            await balancer.update({API: HealthCheck(PORT + 1, 1)}, ranges, listening=1)
            assert await balancer.open_on(PORT + 1) == {NODE_IP, "::1"}

    inside(main)


def test_a_port_that_somebody_has_is_told_once_and_got_when_it_is_free(inside: Inside) -> None:
    async def main() -> None:
        async with balancing() as balancer:
            with socket.create_server((NODE_IP, PORT)):
                await balancer.update({WEB: HealthCheck(PORT, 1), API: HealthCheck(PORT + 1, 1)}, listening=1, failed=1)
                assert code_of(await balancer.ask(PORT + 1)) == 200  # nobody else waits for it
                assert code_of(await balancer.ask(PORT, "::1")) == 200  # nor does the other family
                await asyncio.sleep(healthchecks.RETRY * 3)
            await until(lambda: balancer.counts == (2, 0))
            assert await balancer.open_on() == set(ADDRESSES)
            assert balancer.told == [
                (WEB, f"cannot listen on 0.0.0.0:{PORT} for health checks: Address already in use")
            ]

    inside(main)


def test_a_port_that_two_services_claim(inside: Inside) -> None:
    async def main() -> None:
        async with balancing() as balancer:
            await balancer.update({WEB: HealthCheck(PORT, 1)}, listening=1)
            await balancer.update({WEB: HealthCheck(PORT, 1), API: HealthCheck(PORT, 0)}, listening=1, failed=1)
            assert code_of(await balancer.ask()) == 200  # who has it keeps it
            assert balancer.told == [(API, f"healthCheckNodePort {PORT} is that of Service default/web already")]
            await balancer.update({API: HealthCheck(PORT, 0)}, listening=1)
            answer = await balancer.ask()
            assert answer is not None
            assert (answer.status_code, answer.json()["service"]["name"]) == (503, "api")

    inside(main)


def test_a_node_with_ipv6_turned_off(inside: Inside) -> None:
    async def main() -> None:
        await asyncio.to_thread(run, ("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"))
        async with balancing() as balancer:
            await balancer.update({WEB: HealthCheck(PORT, 1)}, listening=1)
            assert await balancer.open_on() == {"127.0.0.1", NODE_IP, OTHER_IP}
            assert not balancer.told

    inside(main)


def test_a_kernel_without_ipv6(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.create_server

    def create_server(address: tuple[str, int], *, family: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(address, family=family)

    async def main() -> None:
        async with balancing() as balancer:
            monkeypatch.setattr(socket, "create_server", create_server)
            await balancer.update({WEB: HealthCheck(PORT, 1)}, listening=1)
            assert await balancer.open_on() == {"127.0.0.1", NODE_IP, OTHER_IP}
            assert not balancer.told

    inside(main)


# The whole proxy: from the API to the load balancer.


@contextlib.asynccontextmanager
async def proxying(client: Client, options: Options) -> AsyncIterator[None]:
    dataplane = Dataplane({Family.IPV4: MemoryEngine()})
    ready = asyncio.Event()
    task = asyncio.create_task(Proxy(client, options, dataplane=dataplane, ready=ready.set).run())
    try:
        await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_from_the_api_to_the_load_balancer(inside: Inside, tmp_path: Path) -> None:
    """A pod that terminates is the last one here: connections still go to it, the load balancer looks elsewhere."""
    options = Options("here", min_interval=0.0, web=f"{NODE_IP}:10249", healthz=f"{NODE_IP}:10256")

    async def main() -> None:
        async with serve_cluster(tmp_path) as (cluster, client), httpx2.AsyncClient() as http:
            put(cluster, PORT)
            cluster.put_slice("10.244.0.1", "10.244.0.2")
            async with proxying(client, options):
                await until_answer(http, 200, localEndpoints=2)
                put_draining(cluster, "10.244.0.1")
                await until_answer(http, 503, localEndpoints=0)
                for port in (10249, 10256):
                    assert (await http.get(f"http://{NODE_IP}:{port}/healthz")).status_code == 200
                text = (await http.get(f"http://{NODE_IP}:10249/metrics")).text
                assert 'podwire_proxy_health_check_ports{state="listening"} 1.0' in text
                with socket.create_server((NODE_IP, PORT + 1)):
                    put(cluster, PORT + 1)
                    await until(lambda: len(cluster.services.writes) == 1)
                    ((_, _, event, _),) = cluster.services.writes
                assert event["reason"] == "FailedToStartServiceHealthcheck"
                assert event["involvedObject"]["name"] == "web"
                assert f"cannot listen on 0.0.0.0:{PORT + 1}" in event["message"]

    inside(main)


def put(cluster: Cluster, port: int) -> None:
    spec: dict[str, Any] = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}
    full = {"clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}], **spec}
    cluster.services.put_meta("web", {}, spec=full)


def put_draining(cluster: Cluster, address: str) -> None:
    conditions = {"ready": False, "serving": True, "terminating": True}
    endpoints = [{"addresses": [address], "nodeName": "here", "conditions": conditions}]
    meta = {"labels": {"kubernetes.io/service-name": "web"}}
    cluster.slices.put_meta("web-1", meta, addressType="IPv4", ports=[{"name": "", "port": 8080}], endpoints=endpoints)


async def until_answer(http: httpx2.AsyncClient, code: int, **fields: Any) -> None:
    """Poll, as a load balancer does."""
    while True:
        with contextlib.suppress(httpx2.ConnectError):
            answer = await http.get(f"http://{NODE_IP}:{PORT}/")
            if answer.status_code == code and fields.items() <= answer.json().items():
                return
        await asyncio.sleep(0.01)
