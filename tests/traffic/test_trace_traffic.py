"""``podwire trace`` on a running node: the command as a person uses it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.node import Node, command, eventually
from tests.harness.objects import echo_replicaset, service


@pytest.fixture(scope="module")
def web(node: Node) -> Iterator[str]:
    """Two echo pods behind a NodePort Service; the name of one of them."""
    port = {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30180}
    node.apply(
        echo_replicaset("traced", 2), service("traced", port, type="NodePort"), service("deserted", {"port": 80})
    )
    eventually(lambda: len(endpoints(node)) == 2)
    eventually(lambda: "One of 2" in trace(node, "node", "svc/traced"))
    yield node.get("pods", "-l", "app=traced")["items"][0]["metadata"]["name"]
    node.kubectl("delete", "rs/traced", "svc/traced", "svc/deserted")


def endpoints(node: Node) -> list[Any]:
    slices = node.get("endpointslices", "-l", "kubernetes.io/service-name=traced")["items"]
    return [e for s in slices for e in s["endpoints"] or [] if e["conditions"]["ready"]]


def trace(node: Node, *argv: str) -> str:
    return node.podwire("trace", *argv, *node.place, check=False)


def test_a_pod_and_a_service(node: Node, web: str) -> None:
    text = trace(node, f"pod/{web}", "svc/traced:http", "--live", "--count", "5")
    address = node.get("svc", "traced")["spec"]["clusterIP"]
    assert text.startswith(f"pod default/{web} (10.244.0.")
    assert f"1. {address}:80/TCP is the ClusterIP of default/traced, port http (spec.clusterIP, spec.ports[0])" in text
    assert "the client itself" in text
    found = re.findall(
        r"packet \d: connected; the kernel went as predicted in branch [12], to 10\.244\.0\.\d+:8080", text
    )
    assert len(found) == 5


def test_outside_and_a_node_port_as_json(node: Node, web: str) -> None:
    found = json.loads(trace(node, "outside", "node:30180", "--live", "-o", "json"))
    (branch,) = found["branches"]
    assert [sentence["text"].split(":")[0] for sentence in branch["sentences"]][1] == "masqueraded"
    assert {ending["who"].split(",")[0] for ending in branch["endpoints"]} == {
        f"pod default/{pod['metadata']['name']}" for pod in node.get("pods", "-l", "app=traced")["items"]
    }
    assert found["objectsCallFor"] is None
    assert [sighting["asPredicted"] for sighting in found["live"]] == [True]


def test_nobody_at_home(node: Node, web: str) -> None:
    text = trace(node, web, "deserted", "--live")
    assert "Refused: default/deserted has no ready endpoint" in text
    assert "packet 1: refused; the kernel went as predicted in branch 1" in text


def test_what_does_not_exist(node: Node, web: str) -> None:
    assert "there is no Service or pod default/trazed; did you mean traced" in trace(node, web, "trazed:80")
    assert "cannot send from 203.0.113.9" in trace(node, "203.0.113.9", "traced", "--live")


def test_the_node_itself(node: Node, web: str) -> None:
    assert "went as predicted" in trace(node, "node", "traced.default.svc.cluster.local:80", "--live")
    assert "went as predicted" in trace(node, "node", "svc/kubernetes", "--live")


def test_rules_that_lag_behind(node: Node, web: str) -> None:
    """While the proxy sleeps, objects change: the rules that are there are followed, and the difference is told."""
    pid = next(
        int(line.split()[2]) for line in node.podwire("status", *node.place).splitlines() if line.startswith("proxy")
    )
    os.kill(pid, signal.SIGSTOP)
    try:
        node.kubectl("scale", "rs/traced", "--replicas=1")
        eventually(lambda: len(endpoints(node)) == 1)
        text = trace(node, "outside", "svc/traced:80")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "One of 2 endpoints, 50 % each" in text
    assert re.search(
        r"The installed rules are not what the objects call for. By those, it goes to 10\.244\.0\.\d+:8080", text
    )
    eventually(lambda: "not what the objects call for" not in trace(node, "outside", "svc/traced:80"))
    node.kubectl("scale", "rs/traced", "--replicas=2")
    eventually(lambda: "One of 2" in trace(node, "node", "svc/traced"))


def test_beside_a_proxy_alone(node: Node, web: str) -> None:
    """The same rules, seen as those of a proxy of any cluster."""
    flags = ("--kubeconfig", str(node.kubeconfig), "--node-name", node.name, "--node-netns", node.netns)
    text = node.podwire("trace", "outside", "traced:80", *flags, "--cluster-cidr", "10.244.0.0/24", "--live")
    assert "is the ClusterIP of default/traced" in text
    assert "went as predicted" in text
    assert "not what the objects call for" not in text
    text = node.podwire("trace", "outside", "traced:80", "--kubeconfig", str(node.kubeconfig), check=False)
    assert "give --node-name too" in text


def test_nothing_is_left(node: Node, web: str) -> None:
    trace(node, "outside", "svc/traced:80", "--live")
    assert "podwire-trace" not in command("ip", "netns", "exec", node.netns, "nft", "list", "ruleset")
    assert "podwire-trace" not in command("ip", "-n", node.netns, "link", "show")
    assert f"podwire-trace-{node.netns}" not in command("ip", "netns", "list")
