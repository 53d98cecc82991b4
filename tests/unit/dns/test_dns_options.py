"""What the component is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, ConfigError
from agent.dns import Options, make_routes, make_zone
from dnsserver.names import parse_name
from dnsserver.upstream import Routes, Server

CONFIG = Config(state_dir=Path("/state"), node_ip="192.168.50.2", dns_upstreams=("10.0.0.1",), dns_ttl=7)


def test_a_nodes_server_listens_on_its_address_and_the_bridges() -> None:
    options = Options.from_config(CONFIG)
    assert (options.listen, options.port) == (("192.168.50.2", "10.244.0.1"), 53)
    assert (options.service_cidrs, options.pod_cidrs, options.ttl) == (("10.96.0.0/12",), ("10.244.0.0/24",), 7)
    assert options.timeline == Path("/state/run/timeline.jsonl")


def test_an_address_is_listened_on_once() -> None:
    assert Options.from_config(replace(CONFIG, node_ip="10.244.0.1")).listen == ("10.244.0.1",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen", ()),
        ("listen", ("localhost",)),
        ("service_cidrs", ("10.0.0.1/8",)),
        ("pod_cidrs", ("pods",)),
        ("upstreams", ("dns.example",)),
        ("stub_domains", (("a..b", ("10.0.0.1",)),)),
        ("stub_domains", (("corp.example", ("x",)),)),
        ("cluster_domain", ""),
        ("cluster_domain", "."),
        ("cluster_domain", "x." * 30 + "local"),
        ("cluster_domain", "a..b"),
        ("ttl", -1),
        ("ttl", 3601),
    ],
)
def test_what_cannot_be_used_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"listen|CIDRs|upstreams|domain|TTL"):
        Options(**{"listen": ("127.0.0.1",), field: value})


def test_the_zone_is_made_from_them() -> None:
    zone = make_zone(
        Options(("127.0.0.1", "::1"), cluster_domain="example.test", pod_cidrs=("fd00::/64",), pods="insecure")
    )
    assert zone.settings.domain == parse_name("example.test")
    assert [str(network) for network in zone.settings.networks] == ["10.96.0.0/12", "fd00::/64"]
    assert (zone.settings.pods, zone.synced) == ("insecure", False)
    assert zone.index.serial > 1_700_000_000


def test_upstreams_come_from_the_options_or_from_resolv_conf(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.1\nnameserver 192.0.2.9\nnameserver 10.96.0.10\n")
    given = Options(("192.0.2.9",), upstreams=("192.0.2.7:5353",), stub_domains=(("corp.test", ("192.0.2.8",)),))
    assert make_routes(given) == Routes(
        (Server("192.0.2.7", 5353),), ((parse_name("corp.test"), (Server("192.0.2.8"),)),)
    )
    found = Options(("192.0.2.9",), resolv_conf=resolv, own_addresses=("10.96.0.10",))
    assert make_routes(found) == Routes((Server("192.0.2.1"),))
    beside = replace(found, port=5353)  # another server has port 53 of our address
    assert make_routes(beside) == Routes((Server("192.0.2.1"), Server("192.0.2.9")))
