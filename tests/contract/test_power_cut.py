"""After a reboot and after a power cut: objects, addresses and ports are as they were, and pods are started again.

What a reboot does to a node is done to one that has a namespace of its own: all processes are killed, namespaces, links
and rules are gone, run files too, and what notes the kernel's boot_id notes that of another boot. A power cut moreover
leaves some of what was written last missing, empty or old. (A machine that is really switched off is in tests/vm.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.kubelet.sandbox import Sandboxes, SandboxSpec, link_name
from netns import attach, host, namespaces
from tests.contract.conftest import BRIDGE, GATEWAY, TAG, Network
from tests.harness.client import http_get
from tests.harness.node import NODE_IP, Node, eventually, inside, running_node
from tests.leaks import assert_no_leaks

WEB = """
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: podwire/echo, ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"""


def initialized(name: str, out: Path, **spec: Any) -> dict[str, Any]:
    """A pod whose init container leaves a line in the file ``name`` each time that it runs."""
    init = {
        "name": "init",
        "image": "x",
        "command": ["sh", "-c", f"echo ran >>/out/{name}"],
        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
    }
    full = {
        "terminationGracePeriodSeconds": 1,
        "initContainers": [init],
        "containers": [{"name": "main", "image": "x", "command": ["sleep", "1000"]}],
        "volumes": [{"name": "out", "hostPath": {"path": str(out)}}],
        **spec,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": full}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def node(out: Path) -> Iterator[Node]:
    with assert_no_leaks(), running_node() as made:
        made.kubectl("apply", "-f", "-", stdin=WEB)
        made.apply(initialized("own", out), initialized("shared", out, hostNetwork=True))
        made.kubectl("run", "once", "--image=x", "--restart=Never", "--command", "--", "sleep", "1000")
        for pod in ("-l=app=web", "once", "own", "shared"):
            wait_ready(made, pod)
        yield made


def wait_ready(node: Node, pod: str) -> None:
    eventually(lambda: node.kubectl("wait", "--for=condition=Ready", "pod", pod, "--timeout=60s"))


def cut_power(node: Node) -> None:
    """Everything that lives in memory is gone."""
    status = json.loads((node.state_dir / "run/status.json").read_text())
    pids = [status["pid"], *(child["pid"] for child in status["children"])]
    for name in ("conmon.pid", "pid"):  # a conmon that lives would note how its container ended
        pids += [int(file.read_text()) for file in node.state_dir.glob(f"containers/*/{name}")]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in namespaces.names():
        if any(name.startswith(f"podwire-{folder.name[:8]}-") for folder in (node.state_dir / "pods").iterdir()):
            namespaces.remove(name)
    for file in (node.state_dir / "pods").glob("*/sandbox.json"):
        file.write_text(file.read_text().replace(host.BOOT_ID.read_text().strip(), "another"))
    node.remove_network()
    shutil.rmtree(node.state_dir / "run")


def damage(node: Node, uid: str) -> None:
    """Of what is not flushed to the disk, some of each kind is lost; of the pod ``uid`` nearly all."""
    (node.state_dir / "ipam.json").write_bytes(b"")
    (node.state_dir / "sysctls.json").write_bytes(b"")
    (node.state_dir / "pods" / uid / "sandbox.json").write_bytes(b"")
    for file in (node.state_dir / "pods").glob("*/etc/hosts"):
        file.write_bytes(b"")
    for file in node.state_dir.glob("containers/*/launch.json"):
        if json.loads(file.read_bytes())["pod_uid"] == uid:
            file.write_bytes(b'{"id": "ha')


def boot(node: Node) -> None:
    node.make_network()
    node.up()


def facts(node: Node) -> dict[str, Any]:
    """What must be the same afterwards."""
    service = node.get("service", "web")["spec"]
    return {
        "service": (service["clusterIP"], service["ports"][0]["nodePort"]),
        "pods": sorted(pod["metadata"]["uid"] for pod in node.get("pods")["items"]),
        "kubeconfig": node.kubeconfig.read_text(),
    }


def web_pods(node: Node) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = node.get("pods", "-l", "app=web")["items"]
    return items


def is_served(node: Node) -> bool:
    """By both pods, from outside, through the NodePort."""
    port = node.get("service", "web")["spec"]["ports"][0]["nodePort"]
    names = {pod["metadata"]["name"] for pod in web_pods(node)}
    try:
        answers = [inside(node.outside, lambda: http_get(NODE_IP, port, "/hostname", timeout=1)) for _ in range(20)]
    except OSError:
        return False
    return set(answers) == names


def runs(out: Path) -> dict[str, int]:
    """How often the init container of each pod has run."""
    return {file.name: len(file.read_text().split()) for file in out.iterdir()}


def restarts_of(node: Node, pod: str) -> tuple[int, int]:
    """Of its init container and of the other one."""
    status = node.get("pod", pod)["status"]
    return status["initContainerStatuses"][0]["restartCount"], status["containerStatuses"][0]["restartCount"]


def test_a_restart_of_podwire_is_no_reboot_for_init_containers(node: Node, out: Path) -> None:
    node.down()
    node.up()
    for pod in ("own", "shared"):
        wait_ready(node, pod)
        assert restarts_of(node, pod) == (0, 0)
    assert runs(out) == {"own": 1, "shared": 1}


def test_a_node_comes_back(node: Node, out: Path) -> None:
    before, harmed = facts(node), web_pods(node)[0]["metadata"]["uid"]
    restarts = sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in web_pods(node))
    cut_power(node)
    damage(node, harmed)
    boot(node)
    eventually(lambda: is_served(node))
    assert facts(node) == before
    again = web_pods(node)
    assert sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in again) > restarts
    addresses = [pod["status"]["podIP"] for pod in again]
    assert len(set(addresses)) == 2
    for pod in again:
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        assert f"{address}\t{name}" in node.kubectl("exec", name, "--", "cat", "/etc/hosts")
    (once,) = (pod for pod in node.get("pods")["items"] if pod["metadata"]["name"] == "once")
    assert once["status"]["phase"] == "Failed", "restartPolicy Never: it is not started again"
    eventually(lambda: [restarts_of(node, pod) for pod in ("own", "shared")] == [(1, 1), (1, 1)])
    assert runs(out) == {"own": 2, "shared": 2}, "init containers run again"


# --- leases -----------------------------------------------------------------------------------------------------------


def spec(number: int) -> SandboxSpec:
    return SandboxSpec(uid=f"{number:08x}-{TAG}", namespace="default", name=f"web-{number}", hostname=f"web-{number}")


@pytest.fixture
def place(network: Network, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    asyncio.run(sandboxes(network, tmp_path, lambda made: made.clean()))


async def sandboxes(network: Network, place: Path, use: Any) -> Any:
    """Do something with the sandboxes of a kubelet that has just been started."""
    made = Sandboxes(
        place / "pods",
        place / "ipam.json",
        bridge=BRIDGE,
        pod_cidr="10.244.0.0/24",
        gateway=GATEWAY,
        netns=network.node,
    )
    with contextlib.closing(made):
        return await use(made)


async def test_an_old_record_that_comes_back_has_no_claim(network: Network, place: Path) -> None:
    """A removal was not on the disk yet, but its address has a new owner: the one whose namespace there is keeps it."""
    one = await sandboxes(network, place, lambda made: made.ensure(spec(1)))
    shutil.copytree(place / "pods" / one.uid, place / "pods" / spec(2).uid)
    record = json.loads((place / "pods" / one.uid / "sandbox.json").read_text())
    stale = json.dumps(record).replace(one.uid, spec(2).uid).replace("web-1", "web-2")
    (place / "pods" / spec(2).uid / "sandbox.json").write_text(stale)

    async def start_both(made: Sandboxes) -> tuple[str, str]:
        return (await made.ensure(spec(2))).ip, (await made.ensure(spec(1))).ip

    second, first = await sandboxes(network, place, start_both)
    assert first == one.ip
    assert second != first
    assert second in (place / "pods" / spec(2).uid / "etc/hosts").read_text()
    assert json.loads((place / "ipam.json").read_text())["allocated"] == {one.uid: first, spec(2).uid: second}


async def test_an_old_pool_is_corrected_by_the_records(network: Network, place: Path) -> None:
    """Two owners have changed places since it was written."""
    first = await sandboxes(network, place, lambda made: made.ensure(spec(1)))
    second = await sandboxes(network, place, lambda made: made.ensure(spec(2)))
    pool = json.loads((place / "ipam.json").read_text())
    pool["allocated"] = {first.uid: second.ip, second.uid: first.ip, "gone": "10.244.0.9"}
    (place / "ipam.json").write_text(json.dumps(pool))
    third = await sandboxes(network, place, lambda made: made.ensure(spec(3)))
    assert third.ip not in (first.ip, second.ip, "10.244.0.9")
    allocated = json.loads((place / "ipam.json").read_text())["allocated"]
    assert allocated == {first.uid: first.ip, second.uid: second.ip, third.uid: third.ip}


async def test_what_containers_see_is_written_again_with_the_namespace(network: Network, place: Path) -> None:
    """But not while there is one: it is the pod's own copy by then."""
    made = await sandboxes(network, place, lambda made: made.ensure(spec(1)))
    for lost, expected in ((False, ""), (True, made.ip)):
        (made.etc_dir / "hosts").write_bytes(b"")
        if lost:
            namespaces.remove(Path(made.netns_path).name)
        else:
            namespaces.inside(network.node, lambda: attach.detach(link_name(spec(1).uid)))
        await sandboxes(network, place, lambda made: made.ensure(spec(1)))
        assert expected in (made.etc_dir / "hosts").read_text()
        assert bool(expected) == bool((made.etc_dir / "hosts").read_text())
