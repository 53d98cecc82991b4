"""The whole component: objects change in an API, names change on a socket.

The API is a small list-and-watch server of the test's own over real HTTP on loopback: it says what the informers need
(lists with a resourceVersion, watches as streams of events) at exactly the moments the test chooses.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dnslib
import httpx2
import pytest
import pytest_asyncio
import yaml

from agent.dns import BindError, Options, run
from agent.kube.client import Client, connect
from agent.telemetry import DNS_SAW, NAME_ANSWERS, read_timeline
from dnsserver.names import parse_name
from dnsserver.wire import encode_query
from dnsserver.zone import Question, Rcode

PATIENCE = 20.0
SERVICES, SLICES = "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"
NAMESPACES, PODS = "/api/v1/namespaces", "/api/v1/pods"


class Api:
    """Collections by path, with their history. ``open``: requests are answered; until then they wait."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.history: list[tuple[int, str, bytes]] = []  # revision, path, event
        self.version = 1
        self.open = asyncio.Event()
        self.happened = asyncio.Condition()
        self.writers: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def put(self, path: str, namespace: str, name: str, **fields: Any) -> None:
        meta = {"namespace": namespace, "name": name, "resourceVersion": str(self.version + 1), "uid": name}
        value = {**fields, "metadata": {**fields.get("metadata", {}), **meta}}
        known = (namespace, name) in self.objects.setdefault(path, {})
        self.objects[path][namespace, name] = value
        await self._record(path, "MODIFIED" if known else "ADDED", value)

    async def drop(self, path: str, namespace: str, name: str) -> None:
        value = self.objects[path].pop((namespace, name))
        value["metadata"]["resourceVersion"] = str(self.version + 1)
        await self._record(path, "DELETED", value)

    async def _record(self, path: str, kind: str, value: dict[str, Any]) -> None:
        self.version += 1
        event = json.dumps({"type": kind, "object": value}).encode() + b"\n"
        async with self.happened:
            self.history.append((self.version, path, event))
            self.happened.notify_all()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        self.open.set()
        for writer in self.writers.values():
            writer.transport.abort()
        async with self.happened:
            self.happened.notify_all()
        await asyncio.gather(*self.writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.writers[task] = writer
        try:
            target = urlsplit((await reader.readuntil(b"\r\n\r\n")).decode().split()[1])
            query = parse_qs(target.query)
            await self.open.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
            if "watch" in query:
                await self._watch(target.path, int(query["resourceVersion"][0]), writer)
            else:
                items = list(self.objects.get(target.path, {}).values())
                listed = {"metadata": {"resourceVersion": str(self.version)}, "items": items}
                writer.write(json.dumps(listed).encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            del self.writers[task]

    async def _watch(self, path: str, since: int, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            for revision, where, event in self.history:
                if where == path and revision > since:
                    writer.write(event)
            since = self.version
            async with self.happened:
                await self.happened.wait()


class Component:
    """``agent.dns.run`` in a task, and a client that asks it."""

    def __init__(self, client: Client, options: Options) -> None:
        self.options = options
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(run(client, options, ready=self.ready.set))

    async def ask(self, name: str, qtype: int = 1) -> Any:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((self.options.listen[0], self.options.port))
            async with asyncio.timeout(PATIENCE):
                while True:  # until it listens
                    try:
                        await loop.sock_sendall(client, encode_query(7, Question(parse_name(name), qtype)))
                        return dnslib.DNSRecord.parse(await loop.sock_recv(client, 65535))
                    except ConnectionRefusedError:
                        await asyncio.sleep(0.01)

    async def answers(self, name: str, *expected: str, qtype: int = 1) -> None:
        """Wait until ``name`` has exactly these records."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if sorted(str(rr.rdata) for rr in (await self.ask(name, qtype)).rr) == sorted(expected):
                    return
                await asyncio.sleep(0.005)

    async def http(self, path: str) -> httpx2.Response:
        assert self.options.http is not None
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://{self.options.http[0]}:{self.options.http[1]}{path}")


_numbers = itertools.count(1)


def own_address() -> str:
    """A loopback address that no other test listens on: the ports can then be any."""
    pid = os.getpid()
    return f"127.{128 | pid >> 8 & 0x7F}.{pid & 0xFF}.{next(_numbers)}"


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    made = Api()
    await made.start()
    await made.put(NAMESPACES, "", "shop")
    await made.put(
        SERVICES, "default", "kubernetes", spec={"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}
    )
    await made.put(SERVICES, "shop", "db", spec={"clusterIP": "None", "ports": [{"name": "mongo", "port": 27017}]})
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def client(api: Api, tmp_path: Path) -> AsyncIterator[Client]:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    made = connect(file)
    yield made
    await made.close()


def make_options(tmp_path: Path, **fields: Any) -> Options:
    address = own_address()
    return Options(
        (address,),
        port=5300,
        resolv_conf=tmp_path / "none",
        pod_cidrs=("10.244.0.0/24",),
        timeline=tmp_path / "timeline.jsonl",
        http=(address, 9153),
        **fields,
    )


@pytest_asyncio.fixture
async def component(client: Client, tmp_path: Path) -> AsyncIterator[Component]:
    made = Component(client, make_options(tmp_path, pods="verified"))
    yield made
    made.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await made.task


async def synced(api: Api, component: Component) -> None:
    api.open.set()
    await asyncio.wait_for(component.ready.wait(), PATIENCE)


def endpoints(*addresses: str, ready: bool = True, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": "db"}, "annotations": annotations},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
        "ports": [{"name": "mongo", "protocol": "TCP", "port": 27017}],
    }


async def test_before_the_first_sync_nothing_is_denied_and_nobody_is_ready(api: Api, component: Component) -> None:
    name = "kubernetes.default.svc.cluster.local"
    assert (await component.ask(name)).header.rcode == Rcode.SERVFAIL
    assert not component.ready.is_set()
    assert (await component.http("/ready")).status_code == 503
    assert (await component.http("/health")).status_code == 200
    await synced(api, component)
    assert (await component.http("/ready")).status_code == 200
    await component.answers(name, "10.96.0.1")
    await component.answers("1.0.96.10.in-addr.arpa", f"{name}.", qtype=12)
    metrics = (await component.http("/metrics")).text
    assert "coredns_dns_requests_total{" in metrics


async def test_services_come_change_and_go(api: Api, component: Component) -> None:
    await synced(api, component)
    name = "web.shop.svc.cluster.local"
    assert (await component.ask(name)).header.rcode == Rcode.NXDOMAIN
    await api.put(SERVICES, "shop", "web", spec={"clusterIP": "10.96.0.7"})
    await component.answers(name, "10.96.0.7")
    await api.put(SERVICES, "shop", "web", spec={"clusterIP": "10.96.0.8"})
    await component.answers(name, "10.96.0.8")
    await api.drop(SERVICES, "shop", "web")
    await component.answers(name)
    assert (await component.ask(name)).header.rcode == Rcode.NXDOMAIN


async def test_endpoints_of_a_headless_service(api: Api, component: Component) -> None:
    await synced(api, component)
    name = "db.shop.svc.cluster.local"
    await api.put(SLICES, "shop", "db-x", **{**endpoints(), "endpoints": None})
    moment = "2024-01-01T00:00:00Z"
    trigger = {"endpoints.kubernetes.io/last-change-trigger-time": moment}
    await api.put(SLICES, "shop", "db-x", **endpoints("10.244.0.3", "10.244.0.4", annotations=trigger))
    await component.answers(name, "10.244.0.3", "10.244.0.4")
    await component.answers("4.0.244.10.in-addr.arpa", f"10-244-0-4.{name}.", qtype=12)
    await api.put(SLICES, "shop", "db-x", **endpoints("10.244.0.3", annotations=trigger))
    await component.answers(name, "10.244.0.3")
    await api.put(SLICES, "shop", "db-x", **endpoints("10.244.0.3", ready=False))
    await component.answers(name)
    metrics = (await component.http("/metrics")).text
    kind = 'service_kind="headless_with_selector"'
    assert f"coredns_kubernetes_dns_programming_duration_seconds_count{{{kind}}} 1.0" in metrics


async def test_namespaces_and_pods(api: Api, component: Component) -> None:
    await synced(api, component)
    assert (await component.ask("late.svc.cluster.local")).header.rcode == Rcode.NXDOMAIN
    await api.put(NAMESPACES, "", "late")
    await api.put(PODS, "late", "p", status={"phase": "Running", "podIPs": [{"ip": "10.244.0.9"}]})
    await component.answers("10-244-0-9.late.pod.cluster.local", "10.244.0.9")
    assert (await component.ask("late.svc.cluster.local")).header.rcode == Rcode.NOERROR
    await api.drop(PODS, "late", "p")
    await component.answers("10-244-0-9.late.pod.cluster.local")


async def test_one_bad_object_stops_nobody(api: Api, component: Component, caplog: pytest.LogCaptureFixture) -> None:
    await synced(api, component)
    await api.put(SERVICES, "shop", "bad", spec={"clusterIP": "10.96.0"})
    await api.put(SERVICES, "shop", "good", spec={"clusterIP": "10.96.0.9"})
    await component.answers("good.shop.svc.cluster.local", "10.96.0.9")
    assert "shop/bad" in caplog.text


async def test_the_timeline_has_its_two_steps_in_order(api: Api, component: Component, tmp_path: Path) -> None:
    await synced(api, component)
    await component.answers("kubernetes.default.svc.cluster.local", "10.96.0.1")
    await api.put(SLICES, "shop", "db-x", **endpoints("10.244.0.3"))
    await component.answers("db.shop.svc.cluster.local", "10.244.0.3")
    await api.put(SERVICES, "shop", "web", spec={"clusterIP": "10.96.0.7"})
    await component.answers("web.shop.svc.cluster.local", "10.96.0.7")
    await api.put(SERVICES, "shop", "web", spec={"clusterIP": "10.96.0.8"})
    await component.answers("web.shop.svc.cluster.local", "10.96.0.8")
    marks = [(mark.step, mark.name) for mark in read_timeline(tmp_path / "timeline.jsonl")]
    for name in ("kubernetes", "db", "web"):
        assert [step for step, of in marks if of == name] == [DNS_SAW, NAME_ANSWERS]


async def test_cancelling_frees_the_port(api: Api, client: Client, tmp_path: Path) -> None:
    options = make_options(tmp_path)
    for _ in range(2):
        component = Component(client, options)
        await synced(api, component)
        assert (await component.http("/ready")).status_code == 200
        component.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await component.task


async def test_a_taken_port_is_an_error_in_words(client: Client, tmp_path: Path) -> None:
    options = make_options(tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((options.listen[0], options.port))
        with pytest.raises(BindError, match=r"cannot listen on 127\..* port 5300/udp.*has it"):
            await run(client, options, ready=lambda: None)


async def test_a_taken_http_port_costs_no_names(
    api: Api, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = make_options(tmp_path)
    with socket.socket() as other:
        assert options.http is not None
        other.bind(options.http)
        other.listen()
        component = Component(client, options)
        await synced(api, component)
        await component.answers("kubernetes.default.svc.cluster.local", "10.96.0.1")
        component.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await component.task
    assert "no /ready, /health, /metrics" in caplog.text
