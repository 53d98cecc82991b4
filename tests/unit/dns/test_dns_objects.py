"""From the API's JSON to DNS's values."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from agent.dns.objects import SliceObject, decode_namespace, decode_pod, decode_service, decode_slice
from dnsserver.names import parse_name
from dnsserver.records import Endpoint, EndpointSlice, Port, Service


def service(**spec: Any) -> bytes:
    return json.dumps({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}).encode()


def piece(annotations: dict[str, str] | None = None, **fields: Any) -> bytes:
    meta = {
        "namespace": "shop",
        "name": "web-x",
        "labels": {"kubernetes.io/service-name": "web"},
        "annotations": annotations,
    }
    return json.dumps({"metadata": meta, "addressType": "IPv4", **fields}).encode()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (
            service(clusterIP="10.96.0.7", clusterIPs=["10.96.0.7", "fd00::7"], ports=[{"name": "http", "port": 80}]),
            Service("shop", "web", (ip_address("10.96.0.7"), ip_address("fd00::7")), (Port("http", "TCP", 80),)),
        ),
        (
            service(clusterIP="10.96.0.7", ports=[{"protocol": "UDP", "port": 53}]),
            Service("shop", "web", (ip_address("10.96.0.7"),), (Port("", "UDP", 53),)),
        ),
        (service(clusterIP="None", clusterIPs=["None"]), Service("shop", "web", headless=True)),
        (
            service(clusterIP="None", publishNotReadyAddresses=True, ports=None),
            Service("shop", "web", headless=True, publish_not_ready=True),
        ),
        (service(clusterIP=""), Service("shop", "web")),
        (service(), Service("shop", "web")),
        (b'{"metadata": {"namespace": "shop", "name": "web"}}', Service("shop", "web")),
        (
            service(type="ExternalName", externalName="Example.com.", clusterIP=""),
            Service("shop", "web", external_name=parse_name("example.com")),
        ),
        (service(type="ExternalName", externalName="192.0.2.1"), Service("shop", "web")),
        (service(type="ExternalName"), Service("shop", "web")),
    ],
)
def test_services(data: bytes, value: Service) -> None:
    assert decode_service(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        service(clusterIP="10.96.0"),
        service(type="ExternalName", externalName="a..b"),
        b'{"metadata": {"namespace": "shop", "name": ""}}',
    ],
)
def test_services_that_cannot_be_said(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_service(data)


def test_a_slice() -> None:
    data = piece(
        endpoints=[
            {"addresses": ["10.244.0.3"], "conditions": {"ready": True}, "hostname": "db-0"},
            {"addresses": ["10.244.0.4"], "conditions": {}},
            {"addresses": ["10.244.0.5"], "conditions": {"ready": None}},
            {"addresses": ["10.244.0.6"], "conditions": {"ready": False, "serving": True, "terminating": True}},
            {"addresses": ["010.244.0.07"], "conditions": None},
        ],
        ports=[
            {"name": "mongo", "protocol": "TCP", "port": 27017},
            {"name": "", "port": 1},
            {"name": "all", "port": None},
        ],
    )
    assert decode_slice(data) == SliceObject(
        EndpointSlice(
            "shop",
            "web",
            (Port("mongo", "TCP", 27017), Port("", "TCP", 1)),
            (
                Endpoint((ip_address("10.244.0.3"),), "db-0"),
                Endpoint((ip_address("10.244.0.4"),)),
                Endpoint((ip_address("10.244.0.5"),)),
                Endpoint((ip_address("10.244.0.6"),), ready=False),
                Endpoint((ip_address("10.244.0.7"),)),
            ),
        )
    )


@pytest.mark.parametrize(
    "data",
    [
        piece(endpoints=None, ports=None),
        piece(),
        piece(addressType="FQDN", endpoints=[{"addresses": ["example.com"]}]),
    ],
)
def test_slices_without_endpoints(data: bytes) -> None:
    assert decode_slice(data).piece == EndpointSlice("shop", "web")


def test_a_slice_of_no_service() -> None:
    data = json.dumps({"metadata": {"namespace": "shop", "name": "x"}, "endpoints": [{"addresses": ["1.2.3.4"]}]})
    assert decode_slice(data.encode()).piece == EndpointSlice("shop", "")


@pytest.mark.parametrize(
    ("text", "moment"),
    [("1970-01-01T00:00:01Z", 1.0), ("1970-01-01T00:00:01.5Z", 1.5), ("yesterday", None), ("", None)],
)
def test_the_moment_of_the_change(text: str, moment: float | None) -> None:
    data = piece({"endpoints.kubernetes.io/last-change-trigger-time": text}, endpoints=None)
    assert decode_slice(data).triggered == moment


def test_pods() -> None:
    status = {"phase": "Running", "podIPs": [{"ip": "10.244.0.3"}, {"ip": "fd00::3"}]}
    meta = {"metadata": {"namespace": "shop", "name": "p"}}
    running = json.dumps({**meta, "status": status}).encode()
    assert decode_pod(running) == (ip_address("10.244.0.3"), ip_address("fd00::3"))
    ended = json.dumps({**meta, "status": {**status, "phase": "Succeeded"}}).encode()
    assert decode_pod(ended) == ()
    assert decode_pod(json.dumps(meta).encode()) == ()


def test_namespaces() -> None:
    assert decode_namespace(b"{}") is True
