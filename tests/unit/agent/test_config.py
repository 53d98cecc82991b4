from pathlib import Path

import pytest

from agent.config import Config, ConfigError, dump_config, load_config, read_resolved


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
        ("node_name: My_Node\n", "cannot use node_name 'My_Node'"),
        ("node_netns: a/b\n", "cannot use node_netns 'a/b'"),
        ("- a list\n", "expected a mapping"),
        ("a: [\n", "not YAML"),
        ("iptables_variant: bpf\n", "Invalid enum value 'bpf'"),
    ],
)
def test_a_bad_file_is_refused_with_the_field_and_the_file(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert said in str(caught.value)


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
