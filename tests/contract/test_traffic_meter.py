"""The proxy's traffic meter on real connections: counted exactly, whatever becomes of the rules meanwhile.

What each packet weighs is also counted by nftables, in a chain of the test's own: two witnesses that must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette

from agent.proxy.conntrack_netlink import Conntrack
from agent.proxy.traffic import PortRow, Report, Tally
from agent.proxy.traffic_meter import TrafficCollector, TrafficMeter, routes
from agent.shell import run
from agent.web import serve_app
from netns import namespaces
from rules.policy import Frontends, resolve_frontends
from rules.snapshot import Node
from tests.harness.flows import ENDPOINT_PORT, ENDPOINTS, NODE_IPS, PORT, VIPS, Flows, prepare_flows
from tests.harness.services import HERE, Made, make_service, make_snapshot

HEADERS = {4: 28, 6: 48}  # bytes of the IP and UDP headers
NODE_PORT = 30001
both_families = pytest.mark.parametrize("version", [4, 6])


def frontends(*made: Made) -> Frontends:
    return resolve_frontends(make_snapshot(*made, node=Node(HERE, tuple(NODE_IPS.values()))))


def service(version: int, *endpoints: str, protocol: str = "TCP", node_port: int = 0, port_name: str = "") -> Frontends:
    found = endpoints or ENDPOINTS[version]
    made = make_service("web", *found, vip=VIPS[version], protocol=protocol, node_port=node_port, port_name=port_name)
    return frontends(made)


@pytest.fixture
def flows(node_namespace: str) -> Flows:
    return prepare_flows(node_namespace)


@pytest.fixture
def meter(flows: Flows) -> Iterator[TrafficMeter]:
    made = flows.inside(TrafficMeter)
    yield made
    made.close()


def total(meter: TrafficMeter) -> Tally:
    report = meter.report()
    assert (report.lost, report.problems) == (0, ())
    [row] = report.ports
    return row.total


def by_endpoint(row: PortRow) -> dict[str, Tally]:
    return {found.address: found.total for found in row.endpoints}


def end_all(flows: Flows) -> None:
    """Every connection ends now, in the eyes of the kernel."""
    with flows.inside(Conntrack) as conntrack:
        for entry in conntrack.dump():
            conntrack.delete(entry)


@both_families
def test_udp_is_counted_to_the_byte(flows: Flows, meter: TrafficMeter, version: int) -> None:
    meter.follow(service(version, protocol="UDP"))
    sizes, header = [(1, 2), (1000, 500), (33, 0)], HEADERS[version]
    for endpoint in ENDPOINTS[version]:
        flows.send_to(endpoint, to=VIPS[version])
        with flows.udp(endpoint, VIPS[version]) as exchange:
            for sent, answered in sizes:
                exchange(sent, answered)
    there, back = (sum(size[way] for size in sizes) + len(sizes) * header for way in (0, 1))
    [row] = meter.report().ports
    assert by_endpoint(row) == dict.fromkeys(ENDPOINTS[version], Tally(1, 1, there, back))
    assert row.total == Tally(2, 2, 2 * there, 2 * back)
    end_all(flows)
    assert total(meter) == Tally(2, 0, 2 * there, 2 * back)


@both_families
def test_tcp_is_counted_as_nftables_counts_it(flows: Flows, meter: TrafficMeter, version: int) -> None:
    meter.follow(service(version))
    endpoint, vip = ENDPOINTS[version][0], VIPS[version]
    flows.send_to(endpoint, to=vip)
    witness(flows, version)
    with flows.tcp(endpoint, vip) as (client, server):
        for size in (1, 70_000, 300_000):
            client.sendall(bytes(size))
            receive(server, size)
            server.sendall(bytes(2 * size))
            receive(client, 2 * size)
        assert total(meter).open == 1
    seen = total(meter)
    assert (seen.connections, seen.open) == (1, 0)  # still in the kernel's table, but over
    assert (seen.bytes_in, seen.bytes_out) == witnessed(flows)
    assert seen.bytes_in > 370_001
    end_all(flows)
    assert total(meter) == seen


def test_rules_may_go_and_come(flows: Flows, meter: TrafficMeter) -> None:
    meter.follow(service(4, protocol="UDP"))
    one, other = ENDPOINTS[4]
    flows.send_to(one, to=VIPS[4])
    with flows.udp(one, VIPS[4]) as long_lived:
        long_lived(100, 100)
        for _ in range(3):
            flows.translate()  # as when all rules are flushed
            meter.follow(service(4, protocol="UDP"))
            flows.send_to(other, to=VIPS[4])
            with flows.udp(other, VIPS[4]) as short_lived:
                short_lived(10, 20)
            end_all_but_one(flows, endpoint=one)
            long_lived(100, 100)
        [row] = meter.report().ports
        assert by_endpoint(row) == {one: Tally(1, 1, 4 * 128, 4 * 128), other: Tally(3, 0, 3 * 38, 3 * 48)}


def test_a_node_port(flows: Flows, meter: TrafficMeter) -> None:
    meter.follow(service(4, node_port=NODE_PORT))
    flows.send_to(ENDPOINTS[4][1], to=NODE_IPS[4], port=NODE_PORT)
    with flows.tcp(ENDPOINTS[4][1], NODE_IPS[4], NODE_PORT), flows.tcp(ENDPOINTS[4][0], ENDPOINTS[4][0], ENDPOINT_PORT):
        [row] = meter.report().ports
        assert (row.total.connections, row.total.open) == (1, 1)
        assert by_endpoint(row)[ENDPOINTS[4][1]].connections == 1


def test_a_deleted_service_keeps_its_connections(flows: Flows, meter: TrafficMeter) -> None:
    meter.follow(service(4, protocol="UDP"))
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with flows.udp(ENDPOINTS[4][0], VIPS[4]) as exchange:
        exchange(1, 1)
        meter.follow(frontends())
        exchange(1, 1)
    end_all(flows)
    [row] = meter.report().ports
    assert (row.exists, row.total) == (False, Tally(1, 0, 2 * 29, 2 * 29))


def test_a_list_and_the_ended_never_overlap(flows: Flows, meter: TrafficMeter) -> None:
    """Connections end while somebody asks again and again: each report has every one of them exactly once."""
    count = 200
    meter.follow(service(4, protocol="UDP"))
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(flows.open_socket(4, socket.SOCK_DGRAM))
            client.sendto(b"x", (VIPS[4], PORT))
        with flows.inside(Conntrack) as conntrack:
            for entry in conntrack.dump():
                conntrack.delete(entry)
                if entry.id % 5 == 0:
                    assert total(meter).connections == count
        assert total(meter) == Tally(count, 0, count * 29, 0)


async def test_what_ends_is_taken_while_nobody_asks(flows: Flows, meter: TrafficMeter) -> None:
    """The kernel's buffer is emptied by ``run``: more connections end than it could hold."""
    meter.follow(service(4, protocol="UDP"))
    small = flows.inside(lambda: TrafficMeter(receive_buffer=1 << 16))
    small.follow(service(4, protocol="UDP"))
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    running = asyncio.create_task(small.run())
    try:
        with flows.udp(ENDPOINTS[4][0], VIPS[4]) as exchange, flows.inside(Conntrack) as conntrack:
            for number in range(1, 301):
                exchange(1, 1)
                conntrack.delete(conntrack.dump()[0])
                if number % 20 == 0:
                    await until_counted(small, number)
        assert total(small) == total(meter) == Tally(300, 0, 300 * 29, 300 * 29)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        small.close()


def test_what_was_lost_is_told(flows: Flows) -> None:
    meter = flows.inside(lambda: TrafficMeter(receive_buffer=16_384))
    try:
        meter.follow(service(4, protocol="UDP"))
        flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
        with ExitStack() as stack:
            for _ in range(300):
                client = stack.enter_context(flows.open_socket(4, socket.SOCK_DGRAM))
                client.sendto(b"x", (VIPS[4], PORT))
            before = exposition(registered(meter))
            end_all(flows)
            report = meter.report()
            assert 0 < report.ports[0].total.connections == 300 - report.lost < 300
            assert sample(before, "podwire_proxy_service_connections_total") == 300
    finally:
        meter.close()


async def test_over_http(flows: Flows, meter: TrafficMeter) -> None:
    meter.follow(service(4, protocol="UDP", port_name="dns"))
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with flows.udp(ENDPOINTS[4][0], VIPS[4]) as exchange:
        exchange(10, 20)
        listener = flows.inside(lambda: socket.create_server((NODE_IPS[4], 10249)))
        serving = asyncio.create_task(serve_app(Starlette(routes=list(routes(meter))), [listener]))
        try:
            body = await asyncio.to_thread(flows.inside, lambda: get("/traffic?namespace=default&service=web"))
            assert msgspec.json.decode(body, type=Report).ports[0].total == Tally(1, 1, 38, 48)
            assert json.loads(body)["ports"][0]["endpoints"][0]["address"] == ENDPOINTS[4][0]
            other = await asyncio.to_thread(flows.inside, lambda: get("/traffic?namespace=elsewhere"))
            assert json.loads(other)["ports"] == []
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def test_prometheus_counters_never_fall(flows: Flows, meter: TrafficMeter) -> None:
    meter.follow(service(4, protocol="UDP"))
    registry = registered(meter)
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    name = "podwire_proxy_service_bytes_total"
    with flows.udp(ENDPOINTS[4][0], VIPS[4]) as exchange:
        assert sample(exposition(registry), name, direction="in") == 0
        exchange(10, 20)
        assert sample(exposition(registry), name, direction="in") == 38
        end_all(flows)
        exchange(10, 20)
        text = exposition(registry)
    assert (sample(text, name, direction="in"), sample(text, name, direction="out")) == (76, 96)
    assert sample(text, "podwire_proxy_service_connections_total") == 2
    assert 'namespace="default",port="80",service="web"' in text
    assert "podwire_proxy_lost_connections_total 0.0" in text


def test_a_meter_that_cannot_count_says_so(meter: TrafficMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to use netlink (here: a socket family that the kernel refuses), all else goes on."""
    monkeypatch.setattr("agent.proxy.conntrack_netlink.NETLINK_NETFILTER", 31)
    deaf = namespaces.in_new(TrafficMeter)
    try:
        deaf.follow(service(4))
        report = deaf.report()
        assert [row.total for row in report.ports] == [Tally()]
        assert any("traffic of Services is not counted completely" in problem for problem in report.problems)
    finally:
        deaf.close()


def witness(flows: Flows, version: int) -> None:
    """nftables counts the packets of translated connections, by direction, where they are sent."""
    match = f"ct status dnat meta nfproto ipv{version}"
    rules = "\n".join(f"{match} ct direction {way} counter name {way}" for way in ("original", "reply"))
    chain = f"chain out {{ type filter hook output priority 0;\n{rules}\n}}"
    flows.nft(f"table inet witness {{\ncounter original {{ }}\ncounter reply {{ }}\n{chain}\n}}")


def witnessed(flows: Flows) -> tuple[int, int]:
    found = json.loads(flows.inside(_list_counters))["nftables"]
    sizes = {each["counter"]["name"]: each["counter"]["bytes"] for each in found if "counter" in each}
    return sizes["original"], sizes["reply"]


def _list_counters() -> bytes:
    return run(("nft", "-j", "list", "counters", "table", "inet", "witness"))


def receive(sock: socket.socket, size: int) -> None:
    while size:
        size -= len(sock.recv(min(size, 65536)))


def end_all_but_one(flows: Flows, *, endpoint: str) -> None:
    with flows.inside(Conntrack) as conntrack:
        for entry in conntrack.dump():
            if entry.endpoint[0] != endpoint:
                conntrack.delete(entry)


async def until_counted(meter: TrafficMeter, number: int) -> None:
    """Until ``run`` has taken so many; asking the meter for a report would take them itself."""
    async with asyncio.timeout(60):
        while meter._ledger.rows([])[0].total.connections < number:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)


def get(path: str) -> bytes:
    connection = http.client.HTTPConnection(NODE_IPS[4], 10249, timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        return response.read()
    finally:
        connection.close()


def registered(meter: TrafficMeter) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(TrafficCollector(meter))
    return registry


def exposition(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def sample(text: str, name: str, **labels: str) -> float:
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    [line] = [line for line in text.splitlines() if line.startswith(name + "{") and all(w in line for w in wanted)]
    return float(line.rpartition(" ")[2])
