"""The Node object and what is read for it."""

from pathlib import Path

import pytest

from agent.config import Config
from agent.kubelet.loop import read_host_resolv
from agent.kubelet.node import Machine, is_ready, observe_machine, resolve_node, resolve_node_status

MACHINE = Machine(
    cpu=2, memory=4 << 30, disk=10 << 30, kernel="6.1", architecture="amd64", os_image="Debian", machine_id="m",
    boot_id="b", runtime="runc://1.1.5",
)  # fmt: skip
CONFIG = Config(node_name="n1", node_ip="192.0.2.1", kubelet_port=10251, pod_cidr="10.244.3.0/24")


def test_the_node() -> None:
    node = resolve_node(CONFIG, MACHINE)
    assert node["metadata"]["name"] == "n1"
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "n1"
    assert node["metadata"]["labels"]["kubernetes.io/arch"] == "amd64"
    assert node["spec"] == {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]}


def test_its_status() -> None:
    status = resolve_node_status(CONFIG, MACHINE, before=[], now="2024-01-01T00:00:00Z")
    assert status["capacity"] == {"cpu": "2", "memory": "4194304Ki", "ephemeral-storage": "10485760Ki", "pods": "110"}
    assert {"type": "InternalIP", "address": "192.0.2.1"} in status["addresses"]
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10251}}
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert status["nodeInfo"]["containerRuntimeVersion"] == "runc://1.1.5"
    assert status["nodeInfo"]["kubeletVersion"].startswith("v1.33.0+podwire")
    assert is_ready({"status": status})


@pytest.mark.parametrize(
    ("status", "since"),
    [("True", "2020-01-01T00:00:00Z"), ("Unknown", "2024-01-01T00:00:00Z")],
)
def test_a_condition_that_stays_keeps_its_time(status: str, since: str) -> None:
    before = [{"type": "Ready", "status": status, "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    told = resolve_node_status(CONFIG, MACHINE, before=before, now="2024-01-01T00:00:00Z")
    ready = next(c for c in told["conditions"] if c["type"] == "Ready")
    assert ready["lastTransitionTime"] == since
    assert ready["lastHeartbeatTime"] == "2024-01-01T00:00:00Z"
    assert is_ready({"status": {"conditions": before}}) is (status == "True")


def test_a_node_without_a_status_is_not_ready() -> None:
    assert not is_ready({})
    assert not is_ready({"status": {"conditions": None}})


def test_this_machine(tmp_path: Path) -> None:
    machine = observe_machine(Config(state_dir=tmp_path / "not/yet", node_name="n"))
    assert machine.cpu > 0
    assert machine.memory > 1 << 20
    assert machine.disk > 0
    assert machine.runtime.startswith("runc://1")
    assert machine.kernel


def test_the_node_s_resolv_conf(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    assert read_host_resolv(stub, real).nameservers == ()
    stub.write_text("nameserver 127.0.0.53\n")
    assert read_host_resolv(stub, real).nameservers == ("127.0.0.53",)
    real.write_text("nameserver 192.0.2.53\nsearch lan\n")
    assert read_host_resolv(stub, real).nameservers == ("192.0.2.53",)
    stub.write_text("nameserver 127.0.0.1\nnameserver 192.0.2.1\n")
    assert read_host_resolv(stub, real).nameservers == ("127.0.0.1", "192.0.2.1")
