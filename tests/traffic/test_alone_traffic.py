"""The proxy and the DNS server alone, pointed with a kubeconfig at an API server they know nothing else of.

The namespace outside the node plays a second machine of the cluster: it reaches the API server and the pod network
through the first one, and has Services only if its own proxy makes them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.client import http_get
from tests.harness.node import NODE_IP, OUTSIDE_IP, Node, command, eventually, inside
from tests.harness.objects import echo_replicaset, service
from tests.traffic.test_services_traffic import cluster_ip, pods, wait_endpoints


@pytest.fixture(scope="module")
def second(node: Node) -> Iterator[Node]:
    """Two pods behind a Service; the second machine has a route to the pod network."""
    route = ("ip", "-n", node.outside, "route")
    node.apply(echo_replicaset("alone", 2), service("alone"))
    wait_endpoints(node, "alone", 2)
    command(*route, "add", "10.244.0.0/24", "via", NODE_IP)
    yield node
    command(*route, "delete", "10.244.0.0/24")
    node.kubectl("delete", "rs/alone", "svc/alone")


@contextmanager
def running(node: Node, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``podwire WORDS`` on the second machine; the test has it once it has said that it does its job."""
    argv = [sys.executable, "-m", "agent.cli.main", *words, "--node-netns", node.outside]
    argv += ["--kubeconfig", str(node.state_dir / "node.kubeconfig")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("podwire: ")
            yield process
        finally:
            process.terminate()
            process.wait(20)


def rules(node: Node) -> str:
    return command("ip", "netns", "exec", node.outside, "iptables-save")


def test_the_proxy_alone_makes_services_and_takes_them_away(second: Node) -> None:
    before = rules(second)
    address = cluster_ip(second, "alone")
    with running(second, "proxy", "--node-name", "second", "--cluster-cidr", "10.244.0.0/24"):
        assert f"-d {address}/32" in rules(second)
        names = {inside(second.outside, lambda: http_get(address, 80, "/hostname")).strip() for _ in range(40)}
        assert names == set(pods(second, "alone"))
        source = inside(second.outside, lambda: http_get(address, 80, "/clientip")).split(":")[0]
        assert source == OUTSIDE_IP, "translated here, not by the first node on the way"
        second.apply(service("later", app="alone"))
        eventually(lambda: f"-d {cluster_ip(second, 'later')}/32" in rules(second))
        second.kubectl("delete", "svc/later")
    assert f"-d {address}/32" in rules(second), "rules outlive the proxy"
    second.podwire("proxy", "--cleanup", "--node-name", "second", "--node-netns", second.outside)
    kept = [[line for line in text.splitlines() if not line.startswith("#")] for text in (before, rules(second))]
    assert kept[0] == kept[1]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(second: Node) -> None:
    before = rules(second)
    where = ("--node-name", "second", "--node-netns", second.outside)
    said = second.podwire("proxy", "--dry-run", "--kubeconfig", str(second.state_dir / "node.kubeconfig"), *where)
    assert "alone" in said
    assert rules(second) == before


def test_the_dns_server_alone_answers_service_names(second: Node) -> None:
    with running(second, "dns", "--listen", "127.0.0.1", "--port", "5353"):
        ask = ("ip", "netns", "exec", second.outside, "dig", "@127.0.0.1", "-p", "5353", "+short")
        assert command(*ask, "alone.default.svc.cluster.local").strip() == cluster_ip(second, "alone")
        second.apply(service("later", app="alone"))
        eventually(lambda: command(*ask, "later.default.svc.cluster.local").strip() == cluster_ip(second, "later"))
        second.kubectl("delete", "svc/later")


def test_a_kubeconfig_that_is_not_there_is_one_line(node: Node) -> None:
    said = node.podwire("proxy", "--node-name", "x", "--kubeconfig", "/nowhere/config", check=False)
    assert said.strip().splitlines()[-1].startswith("podwire: cannot use kubeconfig /nowhere/config: ")
    assert "Traceback" not in said
