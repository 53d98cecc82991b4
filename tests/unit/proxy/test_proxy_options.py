"""What the proxy is told, by a node's configuration and by the flags of ``podwire proxy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.node import PROXY_FIELDS, proxy
from agent.config import Config, ConfigError
from agent.proxy import Options
from rules.snapshot import Family, Settings

CONFIG = Config(state_dir=Path("/state"), node_name="n1", node_ip="192.0.2.2")


def test_a_nodes_proxy_hides_its_pods_from_the_world() -> None:
    options = Options.from_config(CONFIG)
    assert options.settings == Settings(
        cluster_cidrs=("10.244.0.0/24",), egress_cidrs=("10.244.0.0/24",), pod_bridge="podwire0"
    )
    assert options.families == (Family.IPV4,)


def test_a_nodes_settings_arrive() -> None:
    options = Options.from_config(
        Config(
            node_ip="192.0.2.2",
            cluster_cidrs=("10.244.0.0/24", "fd00:244::/64"),
            masquerade_all=True,
            node_port_addresses=("primary",),
            localhost_node_ports=True,
        )
    )
    assert options.settings == Settings(
        cluster_cidrs=("10.244.0.0/24", "fd00:244::/64"),
        egress_cidrs=("10.244.0.0/24",),
        pod_bridge="podwire0",
        masquerade_all=True,
        node_port_addresses=("primary",),
        localhost_node_ports=True,
    )
    assert options.families == (Family.IPV4, Family.IPV6)


def from_flags(**flags: Any) -> Settings:
    return Options.from_flags(node_name="n1", **flags).settings


def test_a_proxy_alone_masquerades_nothing_of_its_own_accord() -> None:
    assert from_flags(cluster_cidr=("10.244.0.0/16",)) == Settings(cluster_cidrs=("10.244.0.0/16",))
    assert from_flags() == Settings()


@pytest.mark.parametrize(
    "given",
    [("10.244.0.0/16,fd00:244::/56",), ("10.244.0.0/16", "fd00:244::/56"), ("10.244.0.0/16, ", "fd00:244::/56")],
)
def test_lists_come_with_commas_or_repeated(given: tuple[str, ...]) -> None:
    both = ("10.244.0.0/16", "fd00:244::/56")
    assert from_flags(cluster_cidr=given, masquerade_egress=True) == Settings(cluster_cidrs=both, egress_cidrs=both)
    assert from_flags(nodeport_addresses=given) == Settings(node_port_addresses=both)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"cluster_cidr": ["10.244.0.0/99"]}, r"cannot use cluster CIDR '10.244.0.0/99'.*expected a CIDR such as"),
        ({"cluster_cidr": ["10.244.0.0"]}, "cannot use cluster CIDR '10.244.0.0': it has no prefix length"),
        ({"nodeport_addresses": ["primary,eth0"]}, "cannot use NodePort address 'eth0'.*or the word primary"),
        ({"masquerade_egress": True}, "without knowing the pods' addresses; give --cluster-cidr too"),
        ({"node_name": ""}, "give it with --node-name"),
    ],
)
def test_what_cannot_be_used_is_told(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Options.from_flags(**{"node_name": "n1", **flags})


def parsed(*flags: str) -> Options:
    """The Options that a command line makes, without running it."""
    given = proxy.make_context("proxy", ["--node-name", "n1", *flags]).params
    beside = ("kubeconfig", "node_netns", "verbose", "cleanup", "dry_run")
    return Options.from_flags(**{PROXY_FIELDS.get(name, name): given[name] for name in given if name not in beside})


def test_the_command_line() -> None:
    assert parsed() == Options("n1", web="127.0.0.1:10249", healthz="0.0.0.0:10256")
    everything = parsed(
        *("--cluster-cidr", "10.244.0.0/16", "--masquerade-all", "--masquerade-egress"),
        *("--nodeport-addresses", "primary", "--iptables-localhost-nodeports", "--metrics-bind-address", ""),
        *("--iptables-variant", "nft"),
    )
    assert everything.settings == Settings(
        cluster_cidrs=("10.244.0.0/16",),
        masquerade_all=True,
        egress_cidrs=("10.244.0.0/16",),
        node_port_addresses=("primary",),
        localhost_node_ports=True,
    )
    assert (everything.web, everything.variant) == ("", "nft")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--masquerade-egress"], "podwire: cannot masquerade egress without knowing"),
        (["--nodeport-addresses", "lo"], "podwire: cannot use NodePort address 'lo'"),
        (["--cluster-cidr", "10.0.0.0/8,x"], "podwire: cannot use cluster CIDR 'x'"),
        (["--cleanup", "--dry-run"], "podwire: cannot both clean up and try"),
        (["--metrics-bind-address", "10249"], "'10249' is not HOST:PORT"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line_before_anything_is_done(flags: list[str], told: str) -> None:
    result = CliRunner().invoke(proxy, ["--node-name", "n1", *flags])
    assert result.exit_code != 0
    assert told in result.output
