"""What a load balancer is told about a Service: ready endpoints on this node, and nothing else, count."""

from __future__ import annotations

from typing import Any

import pytest

from rules.policy import HealthCheck, ServiceFrontends, resolve_service
from rules.snapshot import Endpoint, EndpointSlice, Node, Service, ServiceName, ServicePort, Settings, SlicePort

HERE = Node("here")
DRAINING: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}


def at(address: str, node: str = "here", **conditions: Any) -> Endpoint:
    return Endpoint(address, node=node, **conditions)


def piece(
    *endpoints: Endpoint, ports: tuple[SlicePort, ...] = (SlicePort(8080),), family: str = "IPv4"
) -> EndpointSlice:
    return EndpointSlice(f"web-{family}", family, ports, endpoints)


def resolve(*slices: EndpointSlice, **fields: Any) -> ServiceFrontends:
    full: dict[str, Any] = {
        "type": "LoadBalancer",
        "cluster_ips": ("10.96.0.10",),
        "ports": (ServicePort(80),),
        "external_traffic_policy": "Local",
        "health_check_node_port": 32000,
        **fields,
    }
    return resolve_service(Service(ServiceName("default", "web"), **full), slices, node=HERE, settings=Settings())


@pytest.mark.parametrize(
    ("endpoints", "count"),
    [
        ([], 0),
        ([at("10.244.0.1")], 1),  # an absent condition means ready
        ([at("10.244.0.1"), at("10.244.0.2"), at("10.244.1.3", node="there")], 2),
        ([at("10.244.1.3", node="there")], 0),
        ([at("10.244.1.3", node="")], 0),
        ([at("10.244.0.1", ready=False)], 0),
        ([at("10.244.0.1", **DRAINING)], 0),  # connections still go there, new ones had better not
        ([at("10.244.0.1", **DRAINING), at("10.244.0.2")], 1),
        ([at("nonsense"), at("10.244.0.2")], 1),
    ],
)
def test_ready_endpoints_on_this_node_count(endpoints: list[Endpoint], count: int) -> None:
    assert resolve(piece(*endpoints)).health_check == HealthCheck(32000, count)


def test_a_draining_endpoint_still_gets_connections() -> None:
    """The count is not the number of endpoints that are used: this is why it has a field of its own."""
    found = resolve(piece(at("10.244.0.1", **DRAINING)))
    assert found.ports[0].local
    assert found.health_check == HealthCheck(32000, 0)


def test_a_pod_behind_two_ports_is_one_endpoint() -> None:
    ports = (ServicePort(80, "http"), ServicePort(443, "https"))
    slices = piece(at("10.244.0.1"), ports=(SlicePort(8080, "http"), SlicePort(8443, "https")))
    assert resolve(slices, ports=ports).health_check == HealthCheck(32000, 1)


def test_a_slice_for_none_of_the_ports_does_not_count() -> None:
    assert resolve(piece(at("10.244.0.1"), ports=(SlicePort(8080, "other"),))).health_check == HealthCheck(32000, 0)


def test_a_pod_in_both_families_is_one_endpoint() -> None:
    slices = (piece(at("10.244.0.1"), at("10.244.0.2")), piece(at("fd00::1"), family="IPv6"))
    both = ("10.96.0.10", "fd01::a")
    assert resolve(*slices, cluster_ips=both).health_check == HealthCheck(32000, 2)
    assert resolve(*slices, cluster_ips=("fd01::a",)).health_check == HealthCheck(32000, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "NodePort"},
        {"external_traffic_policy": "Cluster"},
        {"health_check_node_port": 0},
        {"cluster_ips": ("None",)},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
    ],
)
def test_who_is_not_asked_about(fields: dict[str, Any]) -> None:
    assert resolve(piece(at("10.244.0.1")), **fields).health_check is None


def test_a_port_that_is_none_is_told_and_the_rest_goes_on() -> None:
    found = resolve(piece(at("10.244.0.1")), health_check_node_port=70000)
    assert found.health_check is None
    assert found.problems == ("healthCheckNodePort 70000 is not between 1 and 65535",)
    assert found.ports[0].local
