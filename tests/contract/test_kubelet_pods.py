"""Pods on a real node: what people rely on from a kubelet, told by the API as they would see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.kubelet.sandbox import link_name
from tests.harness.client import http_get
from tests.harness.node import Node, eventually, inside

Json = dict[str, Any]
STAY = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"


class Bench:
    """A node, and the pods that a test makes on it; they are deleted at its end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._made: list[str] = []

    def create(self, name: str, *containers: Json, **spec: Any) -> None:
        full = [{"name": "c", "image": "busybox", **c} for c in containers]
        body = {"terminationGracePeriodSeconds": 1, "containers": full, **spec}
        self.node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body})
        self._made.append(name)

    def status(self, name: str) -> Json:
        status: Json = self.node.get("pod", name)["status"]
        return status

    def container(self, name: str) -> Json:
        found: Json = (self.status(name).get("containerStatuses") or [{"state": {}, "lastState": {}}])[0]
        return found

    def condition(self, name: str, kind: str) -> str | None:
        return next((c["status"] for c in self.status(name).get("conditions", []) if c["type"] == kind), None)

    def events(self, name: str) -> dict[str, str]:
        """Reason -> message, the latest of each reason."""
        items = self.node.get("events", "--field-selector", f"involvedObject.name={name}")["items"]
        return {event["reason"]: event["message"] for event in items}

    def ready(self, name: str) -> None:
        eventually(lambda: self.condition(name, "Ready") == "True")

    def exec(self, name: str, script: str) -> str:
        return self.node.kubectl("exec", name, "--", "sh", "-c", script)

    def wait_gone(self, name: str) -> None:
        eventually(lambda: "NotFound" in self.node.kubectl("get", "pod", name, check=False))

    def clear(self) -> None:
        if self._made:
            self.node.kubectl("delete", "pod", "--ignore-not-found", *self._made)


@pytest.fixture
def bench(node: Node) -> Iterator[Bench]:
    made = Bench(node)
    yield made
    made.clear()


def script(text: str, **more: Any) -> Json:
    return {"command": ["sh", "-c", text], **more}


def test_a_pod_becomes_ready_and_tells_its_story(bench: Bench) -> None:
    bench.create("kp-plain", script(STAY))
    bench.ready("kp-plain")
    status = bench.status("kp-plain")
    assert status["phase"] == "Running"
    assert status["podIP"].startswith("10.244.0.")
    assert status["hostIP"] == bench.node.ip
    assert {c["type"] for c in status["conditions"]} >= {"PodScheduled", "Initialized", "ContainersReady", "Ready"}
    eventually(lambda: bench.events("kp-plain").keys() >= {"Scheduled", "Pulled", "Created", "Started"})


def test_a_container_that_keeps_dying_has_to_wait(bench: Bench) -> None:
    bench.create("kp-crash", script("echo last words > /dev/termination-log; echo dying; exit 3"))
    eventually(lambda: bench.container("kp-crash")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
    container = bench.container("kp-crash")
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["exitCode"] == 3
    assert container["lastState"]["terminated"]["message"] == "last words\n"
    assert bench.status("kp-crash")["phase"] == "Running"
    eventually(lambda: "BackOff" in bench.events("kp-crash"))
    assert bench.node.kubectl("logs", "kp-crash", "--previous") == "dying\n"


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (7, "Failed")])
def test_a_pod_that_is_done_keeps_its_log_and_gives_its_namespace_back(bench: Bench, code: int, phase: str) -> None:
    name = f"kp-done-{code}"
    bench.create(name, script(f"echo said; exit {code}"), restartPolicy="Never")
    eventually(lambda: bench.status(name).get("phase") == phase)
    assert bench.node.kubectl("logs", name) == "said\n"
    uid = bench.node.get("pod", name)["metadata"]["uid"]
    eventually(lambda: not list(Path("/run/netns").glob(f"podwire-{uid[:8]}-*")))


def test_init_containers_run_in_order_and_sidecars_stay(bench: Bench) -> None:
    work = {"image": "busybox", "volumeMounts": [{"name": "w", "mountPath": "/work"}]}
    init = [
        {"name": "one", **work, **script("echo 1 > /work/one")},
        {"name": "side", **work, **script(STAY), "restartPolicy": "Always"},
        {"name": "two", **work, **script("cat /work/one > /work/two")},
    ]
    volumes = [{"name": "w", "emptyDir": {}}]
    bench.create("kp-init", {**work, **script(f"cat /work/two; {STAY}")}, initContainers=init, volumes=volumes)
    bench.ready("kp-init")
    states = [c["state"] for c in bench.status("kp-init")["initContainerStatuses"]]
    assert [next(iter(state)) for state in states] == ["terminated", "running", "terminated"]
    assert bench.node.kubectl("logs", "kp-init", "-c", "c") == "1\n"


def test_what_is_missing_is_said_and_comes_later(bench: Bench) -> None:
    volumes = [{"name": "v", "configMap": {"name": "kp-late"}}]
    mounts = [{"name": "v", "mountPath": "/etc/config"}]
    bench.create("kp-waits", script(STAY, volumeMounts=mounts), volumes=volumes)
    bench.create("kp-env", script(STAY, envFrom=[{"configMapRef": {"name": "kp-late"}}]))
    eventually(lambda: 'configmap "kp-late" not found' in bench.events("kp-waits").get("FailedMount", ""))
    reason = "CreateContainerConfigError"
    eventually(lambda: bench.container("kp-env")["state"].get("waiting", {}).get("reason") == reason)
    late = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kp-late"}, "data": {"KEY": "old"}}
    bench.node.apply(late)
    bench.ready("kp-waits")
    bench.ready("kp-env")
    assert bench.exec("kp-env", "echo $KEY") == "old\n"
    bench.node.apply({**late, "data": {"KEY": "new"}})
    eventually(lambda: bench.exec("kp-waits", "cat /etc/config/KEY") == "new")
    bench.node.kubectl("delete", "configmap", "kp-late")


@pytest.mark.parametrize(
    ("name", "container", "spec", "reason"),
    [
        ("kp-image", {"image": "nginx:1.25"}, {}, "ErrImageNeverPull"),
        ("kp-volume", script("true"), {"volumes": [{"name": "v", "nfs": {"server": "x", "path": "/"}}]}, "FailedMount"),
        ("kp-start", {"command": ["/does/not/exist"]}, {}, "Failed"),
    ],
)
def test_a_pod_that_cannot_run_says_why_and_holds_up_nobody(
    bench: Bench, name: str, container: Json, spec: Json, reason: str
) -> None:
    bench.create(name, container, **spec)
    bench.create("kp-other", script(STAY))
    bench.ready("kp-other")
    eventually(lambda: reason in bench.events(name))
    assert bench.condition(name, "Ready") != "True"


def test_liveness_restarts_a_container(bench: Bench) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    bench.create("kp-sick", script("touch /tmp/alive; sleep 2; rm /tmp/alive; sleep 3600", livenessProbe=probe))
    eventually(lambda: bench.container("kp-sick").get("restartCount", 0) > 0)
    eventually(lambda: bench.events("kp-sick").keys() >= {"Unhealthy", "Killing"})
    assert "liveness probe" in bench.events("kp-sick")["Killing"]


def test_readiness_comes_and_goes(bench: Bench) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    bench.create("kp-ready", script(STAY, readinessProbe=probe))
    eventually(lambda: "running" in bench.container("kp-ready")["state"])
    assert bench.condition("kp-ready", "Ready") == "False"
    bench.exec("kp-ready", "touch /tmp/ready")
    bench.ready("kp-ready")
    bench.exec("kp-ready", "rm /tmp/ready")
    eventually(lambda: bench.condition("kp-ready", "Ready") == "False")
    assert bench.container("kp-ready")["restartCount"] == 0


def test_a_deleted_pod_has_its_time(bench: Bench) -> None:
    """preStop, then SIGTERM; the volume shows in which order."""
    folder = bench.node.state_dir / "order"
    folder.mkdir(exist_ok=True)
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /order/said"]}}}
    bench.create(
        "kp-order",
        script(
            "trap 'echo term >> /order/said; exit 0' TERM; while :; do sleep 3600 & wait; done",
            lifecycle=hook,
            volumeMounts=[{"name": "o", "mountPath": "/order"}],
        ),
        volumes=[{"name": "o", "hostPath": {"path": str(folder), "type": "Directory"}}],
        terminationGracePeriodSeconds=30,
    )
    bench.ready("kp-order")
    bench.node.kubectl("delete", "pod", "kp-order")
    assert (folder / "said").read_text() == "hook\nterm\n"


def test_who_does_not_listen_is_killed_when_the_time_is_over(bench: Bench) -> None:
    bench.create("kp-deaf", script("trap '' TERM; while :; do sleep 1; done"))
    bench.ready("kp-deaf")
    bench.node.kubectl("delete", "pod", "kp-deaf", "--grace-period=1")
    bench.wait_gone("kp-deaf")


def test_forced_deletion_leaves_nothing(bench: Bench) -> None:
    bench.create("kp-force", script("sleep 3600"))
    bench.ready("kp-force")
    uid = bench.node.get("pod", "kp-force")["metadata"]["uid"]
    bench.node.kubectl("delete", "pod", "kp-force", "--force", "--grace-period=0")
    eventually(lambda: not (bench.node.state_dir / "pods" / uid).exists())
    assert not list((bench.node.state_dir / "containers").glob(f"{uid}-*"))


def test_host_network(bench: Bench) -> None:
    bench.create("kp-host", script(STAY), hostNetwork=True)
    bench.ready("kp-host")
    assert bench.status("kp-host")["podIP"] == bench.node.ip
    assert bench.exec("kp-host", "hostname").strip() == bench.node.name
    assert "podwire0" in bench.exec("kp-host", "cat /proc/net/dev")


def test_a_restarted_kubelet_changes_nothing_that_runs(bench: Bench) -> None:
    """``kill -9``: the containers' processes and the pods' objects stay as they are, and what was deleted goes."""
    bench.create("kp-stays", script(STAY, readinessProbe={"exec": {"command": ["true"]}}))
    bench.create("kp-goes", script(STAY))
    bench.ready("kp-stays")
    bench.ready("kp-goes")
    before = bench.node.get("pod", "kp-stays")
    os.kill(node_process(bench.node), signal.SIGKILL)
    bench.node.kubectl("delete", "pod", "kp-goes")
    bench.node.podwire("status", "--wait", *bench.node.place)
    after = bench.node.get("pod", "kp-stays")
    assert after["status"] == before["status"]
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    bench.exec("kp-stays", "true")


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_a_pod_that_lost_its_namespace_gets_another(bench: Bench, policy: str) -> None:
    """As after a reboot: the kubelet finds the containers' records, and no namespace. The program ends well on SIGTERM,
    but has not done its work.
    """
    bench.create("kp-lost", script(STAY), restartPolicy=policy)
    bench.ready("kp-lost")
    subprocess.run(["ip", "netns", "delete", bench.node.pod_netns("kp-lost")], check=True)
    os.kill(node_process(bench.node), signal.SIGKILL)
    eventually(lambda: bench.container("kp-lost").get("restartCount") == 1)
    bench.ready("kp-lost")
    eventually(lambda: "SandboxChanged" in bench.events("kp-lost"))


def test_init_containers_run_again_in_another_namespace_and_only_then(bench: Bench, tmp_path: Path) -> None:
    """The second time it waits, so that what is told meanwhile can be seen."""
    again = "[ $(wc -l </out/ran) = 1 ] || while [ ! -e /out/enough ]; do sleep 0.1; done"
    mount = [{"name": "out", "mountPath": "/out"}]
    init = [{"name": "i", "image": "busybox", "volumeMounts": mount, **script(f"echo ran >>/out/ran; {again}")}]
    volumes = [{"name": "out", "hostPath": {"path": str(tmp_path)}}]
    bench.create("kp-life", script(STAY), initContainers=init, volumes=volumes)
    bench.ready("kp-life")
    before = bench.status("kp-life")
    os.kill(node_process(bench.node), signal.SIGKILL)
    bench.node.podwire("status", "--wait", *bench.node.place)
    assert bench.status("kp-life") == before

    subprocess.run(["ip", "netns", "delete", bench.node.pod_netns("kp-life")], check=True)
    eventually(lambda: "Init:0/1" in bench.node.kubectl("get", "pod", "kp-life"))
    eventually(lambda: bench.status("kp-life")["initContainerStatuses"][0]["state"].get("running"))
    assert bench.condition("kp-life", "Initialized") == "False"
    assert bench.status("kp-life")["phase"] == "Pending"
    assert bench.container("kp-life")["restartCount"] == 0
    (tmp_path / "enough").touch()
    eventually(lambda: bench.container("kp-life")["restartCount"] == 1)
    bench.ready("kp-life")
    assert bench.condition("kp-life", "Initialized") == "True"
    assert (tmp_path / "ran").read_text() == "ran\nran\n"
    told = bench.status("kp-life")["initContainerStatuses"][0]
    assert (told["restartCount"], told["lastState"]["terminated"]["exitCode"]) == (1, 0)


def test_what_somebody_deletes_on_the_node_comes_back(bench: Bench) -> None:
    """A link or the bridge without a restart; a namespace with new containers."""
    bench.create("kp-cut", {"image": "podwire/echo"}, terminationGracePeriodSeconds=1)
    bench.ready("kp-cut")
    node, before, pod = bench.node, bench.container("kp-cut"), bench.node.get("pod", "kp-cut")
    address, netns = pod["status"]["podIP"], node.pod_netns("kp-cut")
    for link in (link_name(pod["metadata"]["uid"]), "podwire0"):
        subprocess.run(["ip", "-n", node.netns, "link", "delete", link], check=True)
        eventually(lambda: reaches(node, address, "kp-cut"))
    assert bench.container("kp-cut") == before
    subprocess.run(["ip", "netns", "delete", netns], check=True)
    eventually(lambda: bench.container("kp-cut").get("restartCount") == 1)
    bench.ready("kp-cut")
    assert reaches(node, address, "kp-cut")


def test_a_link_deleted_while_podwire_is_down_costs_no_container(bench: Bench) -> None:
    """A pod with ``Never`` would not come back. The kubelet is halted first, so that it cannot see the link go."""
    bench.create("kp-link", {"image": "podwire/echo"}, restartPolicy="Never")
    bench.ready("kp-link")
    node, before, pod = bench.node, bench.container("kp-link"), bench.node.get("pod", "kp-link")
    kubelet = node_process(node)
    os.kill(kubelet, signal.SIGSTOP)
    subprocess.run(["ip", "-n", node.netns, "link", "delete", link_name(pod["metadata"]["uid"])], check=True)
    os.kill(kubelet, signal.SIGKILL)
    eventually(lambda: reaches(node, pod["status"]["podIP"], "kp-link"))
    node.podwire("status", "--wait", *node.place)
    assert bench.container("kp-link") == before
    assert bench.status("kp-link")["phase"] == "Running"


def reaches(node: Node, address: str, pod: str) -> bool:
    try:
        return inside(node.netns, lambda: http_get(address, 8080, "/hostname", timeout=1)) == pod
    except OSError:
        return False


def node_process(node: Node) -> int:
    children = json.loads((node.state_dir / "run/status.json").read_text())["children"]
    return next(int(child["pid"]) for child in children if child["name"] == "node")
