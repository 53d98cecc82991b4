"""Whatever dies, Services go on: pods outlive podwire and are adopted, rules stay in the kernel."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.harness.client import http_get
from tests.harness.node import Node, eventually, inside
from tests.harness.objects import echo_replicaset, service
from tests.traffic.test_services_traffic import answers, cluster_ip, pods, wait_endpoints


@pytest.fixture
def steady(node: Node) -> Iterator[Node]:
    """Two echo pods behind a ClusterIP."""
    node.apply(echo_replicaset("steady", 2), service("steady"))
    wait_endpoints(node, "steady", 2)
    eventually(lambda: answers(node, cluster_ip(node, "steady"), 80))
    yield node
    node.kubectl("delete", "rs/steady", "svc/steady")


def processes(node: Node) -> dict[str, int]:
    """Role -> pid of podwire's processes on this node."""
    status = json.loads((node.state_dir / "run/status.json").read_text())
    return {"supervisor": status["pid"], **{child["name"]: child["pid"] for child in status["children"]}}


def containers(node: Node) -> dict[str, tuple[str, int]]:
    """Pod -> (container ID, restarts)."""
    items = node.get("pods", "-l", "app=steady")["items"]
    statuses = {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0] for pod in items}
    return {name: (status["containerID"], status["restartCount"]) for name, status in statuses.items()}


@pytest.mark.parametrize("role", ["control", "node", "proxy", "dns"])
def test_a_killed_process_comes_back_and_nobody_notices(steady: Node, role: str) -> None:
    address, before, pid = cluster_ip(steady, "steady"), containers(steady), processes(steady)[role]
    os.kill(pid, signal.SIGKILL)
    for _ in range(50):
        assert inside(steady.netns, lambda: http_get(address, 80, "/hostname")).strip() in before
    eventually(lambda: processes(steady)[role] not in (pid, None))
    steady.podwire("status", "--wait", *steady.place)
    assert containers(steady) == before
    steady.apply(service("after", app="steady"))
    eventually(lambda: answers(steady, cluster_ip(steady, "after"), 80))
    steady.kubectl("delete", "svc/after")


@pytest.mark.parametrize("how", ["down", "kill -9"])
def test_the_next_podwire_adopts_pods_and_rules(steady: Node, how: str) -> None:
    address, before = cluster_ip(steady, "steady"), containers(steady)
    if how == "down":
        steady.down()
    else:
        pids = processes(steady)
        os.kill(pids["supervisor"], signal.SIGKILL)
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.values()))
    assert inside(steady.netns, lambda: http_get(address, 80, "/hostname")).strip() in before
    steady.up()
    assert containers(steady) == before
    victim = next(iter(before))
    steady.kubectl("delete", "pod", victim)
    eventually(lambda: len(pods(steady, "steady")) == 2 and victim not in pods(steady, "steady"))
    wait_endpoints(steady, "steady", 2)


def test_a_container_that_dies_is_started_again(steady: Node) -> None:
    victim = pods(steady, "steady")[0]
    inside(steady.pod_netns(victim), _ask_to_exit)
    eventually(lambda: containers(steady)[victim][1] >= 1)
    wait_endpoints(steady, "steady", 2)


def _ask_to_exit() -> None:
    try:
        http_get("127.0.0.1", 8080, "/exit?code=3")
    except (OSError, AssertionError):
        pass  # it is gone before it answers, which is the point


def test_a_second_podwire_is_refused(node: Node) -> None:
    said = node.podwire("up", "--detach", *node.place, check=False)
    assert "already runs with the state directory" in said
