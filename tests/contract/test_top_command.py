"""``podwire top svc`` against a proxy's own answers, asked from outside the node's namespace."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.applications import Starlette
from starlette.routing import Route

from agent.cli.main import main
from agent.config import Paths
from agent.proxy.traffic_meter import TrafficMeter, routes
from agent.supervisor.state import Lock, NodeStatus, write_status
from agent.web import serve_app
from rules.policy import resolve_frontends
from tests.harness.flows import ENDPOINTS, NODE_IPS, VIPS, Flows, prepare_flows
from tests.harness.services import make_service, make_snapshot


@pytest.fixture
def flows(node_namespace: str) -> Flows:
    return prepare_flows(node_namespace)


@pytest.fixture
def state_dir(flows: Flows, tmp_path: Path) -> Iterator[Path]:
    """Of a node that lives in the namespace, as far as its supervisor says."""
    paths = Paths(tmp_path)
    lock = Lock(paths)
    pid = int((paths.run_dir / "lock").read_text())
    write_status(paths, NodeStatus(pid, "lab", NODE_IPS[4], flows.name, "", time.time()))
    yield tmp_path
    lock.release()


@asynccontextmanager
async def serving(flows: Flows, found: list[Route]) -> AsyncIterator[None]:
    listener = flows.inside(lambda: socket.create_server((NODE_IPS[4], 10249)))
    task = asyncio.create_task(serve_app(Starlette(routes=list(found)), [listener]))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def meter(flows: Flows) -> Iterator[TrafficMeter]:
    made = flows.inside(TrafficMeter)
    made.follow(resolve_frontends(make_snapshot(make_service("web", *ENDPOINTS[4], protocol="UDP"))))
    yield made
    made.close()


async def podwire(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["top", "svc", *arguments])


async def test_who_uses_what(flows: Flows, meter: TrafficMeter, state_dir: Path) -> None:
    flows.send_to(ENDPOINTS[4][0], to=VIPS[4])
    with flows.udp(ENDPOINTS[4][0], VIPS[4]) as exchange:
        exchange(1000, 10)
        async with serving(flows, routes(meter)):
            table = await podwire("--state-dir", str(state_dir))
            machine = await podwire("web", "-A", "-o", "json", "--state-dir", str(state_dir))
            unknown = await podwire("nobody", "--state-dir", str(state_dir))
            nothing = await podwire("-n", "elsewhere", "--state-dir", str(state_dir))
    words = [line.split() for line in table.stdout.splitlines()]
    assert words[1] == ["web", "80/UDP", "1", "1", "1.0KiB", "38B"]
    assert words[2:] == [
        [f"{ENDPOINTS[4][0]}:8080", "1", "1", "1.0KiB", "38B"],
        [f"{ENDPOINTS[4][1]}:8080", "0", "0", "0B", "0B"],
    ]
    assert json.loads(machine.stdout)["ports"][0]["total"]["bytes_in"] == 1028
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "no Service nobody in namespace default" in unknown.stderr
    assert (nothing.exit_code, nothing.stdout) == (0, "No Services found.\n")


async def test_a_proxy_that_is_down(state_dir: Path) -> None:
    done = await podwire("--state-dir", str(state_dir))
    assert done.exit_code == 1
    place = f"the proxy of node lab ({NODE_IPS[4]}:10249)"
    assert done.stderr == f"podwire: {place} does not answer: Connection refused; see 'podwire status'\n"


async def test_a_proxy_that_does_not_count(flows: Flows, state_dir: Path) -> None:
    async with serving(flows, []):
        done = await podwire("--state-dir", str(state_dir))
    assert done.exit_code == 1
    assert "does not count traffic (HTTP 404)" in done.stderr
