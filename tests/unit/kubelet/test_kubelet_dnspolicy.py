"""Which resolv.conf a pod gets."""

from typing import Any

import msgspec
import pytest

from agent.kubelet.dnspolicy import MAX_SEARCH_CHARACTERS, HostResolv, Resolved, parse_resolv, resolve_dns
from agent.kubelet.spec import Pod

NDOTS_2 = {"name": "ndots", "value": "2"}
HOST = HostResolv(("192.0.2.53",), ("corp.example",), ("edns0",))
CLUSTER = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example")


def resolve(**spec: Any) -> Resolved:
    document = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": [], **spec}}
    return resolve_dns(msgspec.convert(document, Pod), dns_ip="10.96.0.10", domain="cluster.local", host=HOST)


@pytest.mark.parametrize(
    ("spec", "servers", "searches", "options"),
    [
        ({}, ("10.96.0.10",), CLUSTER, ("ndots:5",)),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, ("192.0.2.53",), ("corp.example",), ("edns0",)),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, ("10.96.0.10",), CLUSTER, ("ndots:5",)),
        ({"dnsPolicy": "Default"}, ("192.0.2.53",), ("corp.example",), ("edns0",)),
        ({"dnsPolicy": "None"}, (), (), ()),
        (
            {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"]}},
            ("1.1.1.1",),
            ("a.b",),
            (),
        ),
        (
            {"dnsConfig": {"searches": ["a.b", "cluster.local"], "options": [NDOTS_2, {"name": "rotate"}]}},
            ("10.96.0.10",),
            (*CLUSTER, "a.b"),
            ("ndots:2", "rotate"),
        ),
    ],
)  # fmt: skip
def test_policies(spec: dict[str, Any], servers: Any, searches: Any, options: Any) -> None:
    assert resolve(**spec) == Resolved(servers, searches, options)


def test_limits_of_resolv_conf() -> None:
    servers = [f"192.0.2.{i}" for i in range(1, 6)]
    resolved = resolve(
        dnsPolicy="None", dnsConfig={"nameservers": servers, "searches": ["x" * 60 + f".{i}" for i in range(99)]}
    )
    assert resolved.nameservers == tuple(servers[:3])
    assert len(resolved.searches) == 32
    long = resolve(dnsPolicy="None", dnsConfig={"searches": ["x" * 240 + f".{i}" for i in range(20)]})
    assert 7 < len(long.searches) < 9
    assert len(" ".join(long.searches)) <= MAX_SEARCH_CHARACTERS


def test_parse_resolv() -> None:
    text = (
        "# a comment\nnameserver 192.0.2.1 ; first\nnameserver\nnameserver 192.0.2.2\n\ndomain old.example\n"
        "search a.example. b.example .\noptions edns0 timeout:1\noptions rotate\nsortlist 1.2.3.4\n"
    )
    expected = HostResolv(("192.0.2.1", "192.0.2.2"), ("a.example", "b.example"), ("edns0", "timeout:1", "rotate"))
    assert parse_resolv(text) == expected
    assert parse_resolv("") == HostResolv()
