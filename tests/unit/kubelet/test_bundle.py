"""From a Launch to an OCI config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kubelet.bundle import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    Bundle,
    HostView,
    Launch,
    Mount,
    lower_config,
    lower_exec,
    observe_host,
    parse_bounding_set,
    resolve_capabilities,
)
from agent.kubelet.images import Folder, HostRoot, Image

HOST_IMAGE = Image("host", HostRoot(programs=(("mongod", ("python3", "mongo")),)))
LAUNCH = Launch(
    id="uid-db-0", pod_uid="uid", namespace="default", pod="db-1", container="db", attempt=0, image=HOST_IMAGE,
    argv=("mongod", "--rest"), log_path=Path("/logs/0.log"), env=(("A", "1"),), hostname="db-1",
    netns_path="/run/netns/podwire-uid-db-1",
)  # fmt: skip
BUNDLE = Bundle(rootfs="/c/rootfs", skeleton="/c/skeleton", cgroup="/podwire-n/uid-db-0", masked=("/var/lib/podwire",))
HOST = HostView(folders=("etc", "usr"), links=(("bin", "usr/bin"),))


def mounts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in config["mounts"]}


def test_the_process_runs_in_the_pods_network_and_its_own_other_namespaces() -> None:
    config = lower_config(LAUNCH, BUNDLE, HOST)
    namespaces = {n["type"]: n.get("path") for n in config["linux"]["namespaces"]}
    assert namespaces == {"network": LAUNCH.netns_path, "pid": None, "ipc": None, "uts": None, "mount": None}
    assert config["process"]["args"] == ["mongod", "--rest"]
    assert config["process"]["env"] == ["A=1"]
    assert config["hostname"] == "db-1"
    assert config["linux"]["cgroupsPath"] == "/podwire-n/uid-db-0"


def test_a_host_network_container_stays_in_the_nodes_namespace() -> None:
    config = lower_config(replace(LAUNCH, netns_path=""), BUNDLE, HOST)
    assert "network" not in {n["type"] for n in config["linux"]["namespaces"]}


def test_the_hosts_root_is_read_only_with_fresh_places_and_no_state() -> None:
    config = lower_config(LAUNCH, BUNDLE, HOST)
    found = mounts(config)
    assert config["root"] == {"path": "/c/rootfs", "readonly": True}
    assert found["/usr"]["type"] == "bind"
    assert "ro" in found["/usr"]["options"]
    assert found["/tmp"]["type"] == found["/run"]["type"] == "tmpfs"
    assert found["/podwire/standins"]["source"].endswith("agent/kubelet/standins")
    assert "/var/lib/podwire" in config["linux"]["maskedPaths"]
    assert not [m for m in config["mounts"] if m["type"] in ("cgroup", "cgroup2")]


def test_a_folder_image_is_writable_and_has_nothing_of_the_host() -> None:
    launch = replace(LAUNCH, image=Image("x", Folder("/images/x/rootfs")))
    config = lower_config(launch, BUNDLE, HostView())
    assert config["root"]["readonly"] is False
    assert {m["type"] for m in config["mounts"]} == {"proc", "tmpfs", "devpts", "mqueue", "sysfs"}
    assert lower_config(replace(launch, read_only_root=True), BUNDLE, HostView())["root"]["readonly"] is True


def test_volumes_come_last_and_parents_before_children() -> None:
    volumes = (
        Mount("/v/logs", "/data/logs", read_only=False),
        Mount("/v", "/data"),
        Mount("tmpfs", "/cache", kind="tmpfs"),
    )
    destinations = list(mounts(lower_config(replace(LAUNCH, mounts=volumes), BUNDLE, HOST)))
    assert destinations[-3:] == ["/data", "/cache", "/data/logs"]


def test_read_only_is_the_default_of_a_volume() -> None:
    volumes = (Mount("/a", "/a"), Mount("/b", "/b", read_only=False))
    found = mounts(lower_config(replace(LAUNCH, mounts=volumes), BUNDLE, HOST))
    assert "ro" in found["/a"]["options"]
    assert "rw" in found["/b"]["options"]


def test_a_mount_point_that_the_host_lacks_makes_its_folder_an_overlay() -> None:
    host = replace(HOST, skeletons=(("etc", ("/etc/config",)),))
    found = mounts(lower_config(LAUNCH, replace(BUNDLE, skeleton="/a:b/skeleton"), host))
    assert found["/etc"]["type"] == "overlay"
    assert "lowerdir=/a\\:b/skeleton/etc:/etc" in found["/etc"]["options"]
    assert found["/usr"]["type"] == "bind"


def test_what_the_host_lacks_is_found_through_its_links(tmp_path: Path) -> None:
    for folder in ("etc", "usr/bin", "var", "run", "tmp", "dev"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/hosts").touch()
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "var/run").symlink_to(tmp_path / "run")
    wanted = [
        Mount("/x", path)
        for path in ("/etc/hosts", "/etc/config/a", "/bin/tool", "/var/run/secrets", "/data", "/tmp/x")
    ]
    view = observe_host(wanted, root=str(tmp_path))
    assert view.folders == ("etc", "usr", "var")
    assert view.links == (("bin", "usr/bin"),)
    assert view.skeletons == (("etc", ("/etc/config/a",)), ("usr", ("/usr/bin/tool",)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, set(DEFAULT_CAPABILITIES)),
        ({"capabilities_add": ("NET_ADMIN", "CAP_SYS_TIME")}, {*DEFAULT_CAPABILITIES, "NET_ADMIN", "SYS_TIME"}),
        ({"capabilities_drop": ("ALL",), "capabilities_add": ("net_bind_service",)}, {"NET_BIND_SERVICE"}),
        ({"capabilities_add": ("ALL",), "capabilities_drop": ("SYS_ADMIN",)}, set(ALL_CAPABILITIES) - {"SYS_ADMIN"}),
        ({"capabilities_add": ("NO_SUCH",)}, set(DEFAULT_CAPABILITIES)),
        ({"privileged": True, "capabilities_drop": ("ALL",)}, set(ALL_CAPABILITIES)),
    ],
)
def test_capabilities(change: dict[str, Any], expected: set[str]) -> None:
    assert set(resolve_capabilities(replace(LAUNCH, **change))) == {f"CAP_{name}" for name in expected}


def test_nobody_gets_what_podwire_itself_cannot_hand_on() -> None:
    """A unit's CapabilityBoundingSet= bounds privileged containers too."""
    bounded = replace(BUNDLE, capabilities=frozenset({"CAP_CHOWN", "CAP_NET_ADMIN"}))
    mighty = lower_config(replace(LAUNCH, privileged=True), bounded, HOST)["process"]["capabilities"]
    assert mighty["bounding"] == mighty["effective"] == ["CAP_CHOWN", "CAP_NET_ADMIN"]
    assert lower_config(LAUNCH, bounded, HOST)["process"]["capabilities"]["bounding"] == ["CAP_CHOWN"]


def test_the_bounding_set_of_a_process() -> None:
    status = "Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t0000010000011001\nNoNewPrivs:\t0\n"
    assert parse_bounding_set(status) == {"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_CHECKPOINT_RESTORE"}
    assert parse_bounding_set("CapBnd:\t000001ffffffffff\n") == {f"CAP_{name}" for name in ALL_CAPABILITIES}


def test_a_user_other_than_root_has_its_capabilities_in_the_bounding_set_only() -> None:
    config = lower_config(replace(LAUNCH, user=1000, group=50, groups=(7,)), BUNDLE, HOST)
    held = config["process"]["capabilities"]
    assert held["bounding"]
    assert held["effective"] == held["permitted"] == []
    assert config["process"]["user"] == {"uid": 1000, "gid": 50, "additionalGids": [7]}


def test_privileged_unmasks_the_kernel_but_not_podwires_state() -> None:
    config = lower_config(replace(LAUNCH, privileged=True), BUNDLE, HOST)
    assert config["linux"]["maskedPaths"] == ["/var/lib/podwire"]
    assert config["linux"]["readonlyPaths"] == []
    assert "rw" in mounts(config)["/sys"]["options"]
    assert config["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_limits() -> None:
    config = lower_config(replace(LAUNCH, memory_limit=1 << 20, cpu_limit=250, cpu_request=500), BUNDLE, HOST)
    resources = config["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20}
    assert resources["cpu"] == {"period": 100_000, "quota": 25_000, "shares": 512}


def test_exec_is_the_containers_own_process_with_another_command() -> None:
    process = lower_config(replace(LAUNCH, user=5), BUNDLE, HOST)["process"]
    plain = lower_exec(process, ["env"], tty=False, env=[("B", "2")])
    assert plain == {**process, "args": ["env"], "env": ["A=1", "B=2"], "terminal": False}
    terminal = lower_exec(process, ["sh"], tty=True, env=[])
    assert terminal["terminal"] is True
    assert "TERM=xterm" in terminal["env"]


text = st.text(max_size=5)
launches = st.builds(
    Launch,
    id=text, pod_uid=text, namespace=text, pod=text, container=text, attempt=st.integers(0, 9),
    image=st.sampled_from([HOST_IMAGE, Image("x", Folder("/x"))]),
    argv=st.lists(text).map(tuple), log_path=st.just(Path("/l")), env=st.lists(st.tuples(text, text)).map(tuple),
    mounts=st.lists(st.builds(Mount, text, text, st.booleans())).map(tuple), grace_seconds=st.floats(0, 99),
)  # fmt: skip


@given(launches)
def test_a_launch_survives_its_file(launch: Launch) -> None:
    def decode(kind: type, value: str) -> Path:
        assert kind is Path
        return Path(value)

    assert msgspec.json.decode(msgspec.json.encode(launch, enc_hook=str), type=Launch, dec_hook=decode) == launch
