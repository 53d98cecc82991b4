"""Where a pod may run, and what is said when it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.controllers.objects import Node, Pod, Taint, decoder
from agent.controllers.placement import Placement, misfit, resolve_placement
from tests.harness.controller_objects import node, pod

read = decoder(Pod)
FIRST = "node(s) didn't match Pod's node affinity/selector"


def asking(**spec: Any) -> Pod:
    return read(json.dumps({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}).encode())


def test_the_emptiest_node_then_the_first_by_name() -> None:
    found = [node("b"), node("a"), node("c")]
    assert resolve_placement(asking(), found, {}) == Placement(node="a")
    assert resolve_placement(asking(), found, {"a": [pod("x")], "b": [pod("y")]}) == Placement(node="c")


def test_no_nodes() -> None:
    assert resolve_placement(asking(), [], {}).message == "no nodes available to schedule pods"


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}}


def expression(operator: str, key: str = "disk", *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


SSD = {"disk": "ssd", "cores": "8"}
TAINT = Taint(key="gpu", value="yes", effect="NoSchedule")


@pytest.mark.parametrize(
    ("spec", "on", "why"),
    [
        ({}, node(), None),
        ({"nodeSelector": {"disk": "ssd"}}, node(labels=SSD), None),
        ({"nodeSelector": {"disk": "ssd"}}, node(), FIRST),
        ({}, node(unschedulable=True), "node(s) were unschedulable"),
        (
            {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]},
            node(unschedulable=True),
            None,
        ),
        ({}, node(ready=False), "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        ({"tolerations": [{"operator": "Exists"}]}, node(ready=False), None),
        ({}, node(taints=[TAINT]), "node(s) had untolerated taint {gpu: yes}"),
        ({"tolerations": [{"key": "gpu", "value": "yes"}]}, node(taints=[TAINT]), None),
        (
            {"tolerations": [{"key": "gpu", "value": "no"}]},
            node(taints=[TAINT]),
            "node(s) had untolerated taint {gpu: yes}",
        ),
        (
            {"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]},
            node(taints=[TAINT]),
            "node(s) had untolerated taint {gpu: yes}",
        ),
        ({}, node(taints=[Taint(key="soft", effect="PreferNoSchedule")]), None),
        ({"affinity": required(expression("In", "disk", "hdd", "ssd"))}, node(labels=SSD), None),
        ({"affinity": required(expression("In", "disk", "hdd"))}, node(labels=SSD), FIRST),
        ({"affinity": required(expression("NotIn", "disk", "hdd"))}, node(), None),
        ({"affinity": required(expression("Exists"))}, node(), FIRST),
        ({"affinity": required(expression("DoesNotExist"))}, node(), None),
        ({"affinity": required(expression("Gt", "cores", "4"))}, node(labels=SSD), None),
        ({"affinity": required(expression("Gt", "cores", "8"))}, node(labels=SSD), FIRST),
        ({"affinity": required(expression("Lt", "cores", "9"))}, node(labels=SSD), None),
        ({"affinity": required(expression("Lt", "disk", "9"))}, node(labels=SSD), FIRST),
        ({"affinity": required(expression("Gt", "cores", "many"))}, node(labels=SSD), FIRST),
        ({"affinity": required(expression("Unheard"))}, node(labels=SSD), FIRST),
        ({"affinity": required(expression("Exists"), expression("DoesNotExist"))}, node(), None),
        ({"affinity": required({})}, node(), FIRST),
        (
            {"affinity": required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})},
            node("n1"),
            None,
        ),
        ({}, node(allocatable={"pods": "1"}), "Too many pods"),
        ({}, node(allocatable={"pods": 2}), None),
    ],
)
def test_fit(spec: dict[str, Any], on: Node, why: str | None) -> None:
    assert misfit(asking(**spec), on, [pod("running"), pod("done", phase="Succeeded")]) == why


def test_a_host_port_is_there_once() -> None:
    wanted = {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}
    holder = asking(**wanted)
    assert misfit(asking(**wanted), node(), [holder]) == "node(s) didn't have free ports for the requested pod ports"
    udp = {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}]}]}
    assert misfit(asking(**udp), node(), [holder]) is None


def test_the_message_counts_reasons_as_upstream_does() -> None:
    found = [node("a"), node("b"), node("c", unschedulable=True)]
    placement = resolve_placement(asking(nodeSelector={"disk": "ssd"}), found, {})
    assert placement.node == ""
    assert placement.message == f"0/3 nodes are available: 1 node(s) were unschedulable, 2 {FIRST}."


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (
            {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
            "required pod affinity",
        ),
        (
            {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
            "required pod anti-affinity",
        ),
        (
            {"topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]},
            "topology spread",
        ),
        ({"resourceClaims": [{"name": "gpu"}]}, "a resource claim"),
    ],
)
def test_what_is_not_decided_is_not_guessed(spec: dict[str, Any], what: str) -> None:
    placement = resolve_placement(asking(**spec), [node()], {})
    assert placement.node == ""
    assert what in placement.message
    assert "not supported" in placement.message


def test_preferences_are_no_requirements() -> None:
    soft = {"topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]}
    assert resolve_placement(asking(**soft), [node()], {}).node == "n1"
