"""``/healthz`` and ``/livez``: what a load balancer and a supervisor are told."""

from __future__ import annotations

from datetime import datetime

import pytest
from httpx2 import ASGITransport, AsyncClient, Response

from agent.proxy.metrics import Metrics
from agent.proxy.web import Health, make_app

PATIENT, HASTY = 1e6, 0.0  # seconds: never too late, always too late


async def ask(health: Health, path: str, metrics: Metrics | None = None) -> Response:
    transport = ASGITransport(app=make_app(health, metrics or Metrics()))
    async with AsyncClient(transport=transport, base_url="http://node") as http:
        return await http.get(path)


def make_health(timeout: float, *, waiting: bool, eligible: bool) -> Health:
    health = Health(timeout)
    health.synced()
    if waiting:
        health.queued()
    health.node_eligible = eligible
    return health


@pytest.mark.parametrize(
    ("timeout", "waiting", "eligible", "ready", "alive"),
    [
        (PATIENT, False, True, 200, 200),
        (PATIENT, True, True, 200, 200),  # not for too long yet
        (HASTY, False, True, 200, 200),  # with nothing to do, no time is too long
        (HASTY, True, True, 503, 503),
        (PATIENT, False, False, 503, 200),  # the node goes, the proxy works
        (HASTY, True, False, 503, 503),
    ],
)
async def test_codes(timeout: float, waiting: bool, eligible: bool, ready: int, alive: int) -> None:
    health, metrics = make_health(timeout, waiting=waiting, eligible=eligible), Metrics()
    assert (await ask(health, "/healthz", metrics)).status_code == ready
    assert (await ask(health, "/livez", metrics)).status_code == alive
    for name, code in (("healthz", ready), ("livez", alive)):
        assert metrics.registry.get_sample_value(f"kubeproxy_proxy_{name}_total", {"code": str(code)}) == 1


async def test_bodies_and_headers() -> None:
    answers = {
        path: await ask(make_health(PATIENT, waiting=False, eligible=False), path) for path in ("/healthz", "/livez")
    }
    for answer in answers.values():
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    body = answers["/healthz"].json()
    assert body["nodeEligible"] is False
    assert body["healthy"] is True  # the proxy is: it is the node that goes
    assert "nodeEligible" not in answers["/livez"].json()
    assert datetime.fromisoformat(body["currentTime"]).utcoffset() is not None


async def test_last_updated_stands_still_only_while_something_is_late() -> None:
    """A healthy proxy with nothing to do is as up to date as it can be (as upstream has it, for old clients)."""
    body = (await ask(make_health(PATIENT, waiting=False, eligible=True), "/healthz")).json()
    assert body["lastUpdated"] == body["currentTime"]
    body = (await ask(make_health(HASTY, waiting=True, eligible=True), "/healthz")).json()
    assert datetime.fromisoformat(body["lastUpdated"]) < datetime.fromisoformat(body["currentTime"])
