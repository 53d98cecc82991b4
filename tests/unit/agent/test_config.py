from pathlib import Path

import pytest

from agent.config import Config, ConfigError, address_span, dump_config, load_config, read_resolved


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("node_name: from-file\ndns_ttl: 30\nnode_port_range: [31000, 31999]\n")
    config = load_config(file, node_name="from-flag", node_ip=None)
    assert (config.node_name, config.dns_ttl, config.node_port_range) == ("from-flag", 30, (31000, 31999))


def test_resolved_configuration_survives_the_way_to_the_children(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path, node_name="n", node_netns="x", dns_upstreams=("192.0.2.1",))
    (tmp_path / "config.json").write_bytes(dump_config(config))
    assert read_resolved(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node_nam: x\n", "unknown field `node_nam`"),
        ("api_port: many\n", "Expected `int`, got `str` - at `$.api_port`"),
        ("pod_cidr: 10.244.0.0/99\n", "cannot use pod_cidr"),
        ("dns_ip: 192.0.2.1\n", "outside service_cidr 10.96.0.0/12"),
        ("node_port_range: [2, 1]\n", "the lower first"),
        ("pod_cidr: fd00::/64\n", "cannot use pod_cidr"),
        ("pod_cidr: 10.244.0.0/31\n", "at most /29"),
        ("dns_ip: ten\n", "cannot use dns_ip"),
        ("dns_ip: ''\n", "cannot use dns_ip"),
        ("node_ip: fe80::1\n", "cannot use node_ip"),
        ("api_port: 0\n", "cannot use api_port 0"),
        ("bridge: a-bridge-with-a-long-name\n", "at most 15 characters"),
        (
            "shutdown_grace_period: -1\n",
            "cannot use shutdown_grace_period -1: expected seconds, 0 (pods are not ended) to",
        ),
        ("shutdown_grace_period: 1501\n", "cannot use shutdown_grace_period 1501: expected seconds"),
        ("shutdown_grace_period: .nan\n", "cannot use shutdown_grace_period nan: expected seconds"),
        ("shutdown_grace_period: 30s\n", "Expected `float`, got `str` - at `$.shutdown_grace_period`"),
        ("node_name: My_Node\n", "cannot use node_name 'My_Node'"),
        ("node_netns: a/b\n", "cannot use node_netns 'a/b'"),
        ("- a list\n", "expected a mapping"),
        ("a: [\n", "not YAML"),
        ("iptables_variant: bpf\n", "Invalid enum value 'bpf'"),
        ("load_balancer_pool: 192.0.2.0/28\n", "Expected `array`, got `str` - at `$.load_balancer_pool`"),
        ("load_balancer_pool: [192.0.2.1/28]\n", "has host bits set; expected a CIDR such as"),
        ("load_balancer_pool: [192.0.2.9-192.0.2.4]\n", "does not go from an address up to another"),
        ("load_balancer_pool: ['192.0.2.9-2001:db8::1']\n", "up to another one of its family"),
        ("load_balancer_pool: [many]\n", "cannot use load_balancer_pool 'many'"),
        ("load_balancer_pool: [127.0.0.0/28]\n", "127.0.0.0 is no address that can be reached from elsewhere"),
        ("load_balancer_pool: [10.100.0.1-10.100.0.9]\n", "it overlaps service_cidr 10.96.0.0/12"),
        ("load_balancer_pool: [10.0.0.0/8]\n", "it overlaps pod_cidr 10.244.0.0/24"),
        ("cluster_cidrs: [10.244.0.0]\n", "cannot use cluster_cidrs '10.244.0.0': it has no prefix length"),
        ("node_port_addresses: [first]\n", "or the word primary"),
        ("masquerade_all: sometimes\n", "Expected `bool`, got `str` - at `$.masquerade_all`"),
    ],
)
def test_a_bad_file_is_refused_with_the_field_and_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert said in str(caught.value)


@pytest.mark.parametrize("seconds", [0, 0.5, 45, 1500])
def test_how_long_a_shutdown_may_take(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "c.yaml").write_text(f"shutdown_grace_period: {seconds}\n")
    assert load_config(tmp_path / "c.yaml").shutdown_grace_period == seconds


def test_what_the_proxy_and_the_pool_are_told(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "load_balancer_pool: [192.0.2.240/28, '2001:db8::1-2001:db8::ff']\ncluster_cidrs: ['fd00:244::/64']\n"
        "masquerade_all: true\nnode_port_addresses: [primary, 127.0.0.0/8]\nlocalhost_node_ports: true\n"
    )
    config = load_config(file)
    assert config.load_balancer_pool == ("192.0.2.240/28", "2001:db8::1-2001:db8::ff")
    assert (config.masquerade_all, config.localhost_node_ports) == (True, True)
    assert config.node_port_addresses == ("primary", "127.0.0.0/8")
    assert config.cluster_cidrs == ("fd00:244::/64",)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.0.2.240/28", "192.0.2.240", "192.0.2.255"),
        ("192.0.2.7/32", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.4 - 192.0.2.9", "192.0.2.4", "192.0.2.9"),
        ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
    ],
)
def test_spans(text: str, first: str, last: str) -> None:
    assert tuple(map(str, address_span(text))) == (first, last)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("")
    assert load_config(file) == Config()


def test_addresses_that_follow_from_the_ranges() -> None:
    config = Config(pod_cidr="10.9.0.0/24", service_cidr="172.30.0.0/16")
    assert (config.gateway, config.kubernetes_ip) == ("10.9.0.1", "172.30.0.1")


def test_run_files_of_the_default_node_lie_in_run(tmp_path: Path) -> None:
    assert str(Config().paths.run_dir) == "/run/podwire"
    assert Config(state_dir=tmp_path).paths.run_dir == tmp_path / "run"


def test_the_state_directory_is_the_flags_the_files_or_follows_from_the_namespace(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("state_dir: /srv/podwire\n")
    assert load_config(file, node_netns="lab").state_dir == Path("/srv/podwire")
    assert load_config(file, state_dir=Path("/flag")).state_dir == Path("/flag")
    assert load_config(None, node_netns="lab").state_dir == Path("/var/lib/podwire-lab")
    assert load_config(None).state_dir == Path("/var/lib/podwire")
