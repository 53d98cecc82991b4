"""A node as its user feels it: how long until it is ready, until a pod is, until a change reaches a client.

Everything is measured from outside, through the API and real connections; bounded, in namespaces of its own.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import msgspec
from lightkube import Client, KubeConfig
from lightkube.resources.core_v1 import Pod
from lightkube.resources.discovery_v1 import EndpointSlice
from lightkube.types import PatchType

from benchmarks import footprint, sequence
from benchmarks.tables import print_table, summary
from tests.harness.client import http_get
from tests.harness.node import Node, inside, running_node
from tests.harness.objects import JSON, echo_replicaset, service

STARTS, PODS, SERVICES, CHANGES, COMMANDS = 5, 20, 100, 40, 10


def main() -> None:
    starts = [_start_time() for _ in range(STARTS)]
    with running_node() as node:
        client = Client(config=KubeConfig.from_file(str(node.kubeconfig)).get())
        pods = [_pod_ready_time(client, f"bench-{number}") for number in range(PODS)]
        changes = _change_times(node, client)
        commands = {program: _command_times(node, program) for program in ("podwire", "kubectl")}
        rows = [
            ("podwire up --detach: command -> every process ready", *summary([wall for wall, _ in starts])),
            ("podwire up --detach: CPU time of the processes by then", *summary([cpu for _, cpu in starts])),
            ("pod: create sent -> Ready condition seen", *summary(pods)),
            (
                f"endpoint of one of {SERVICES} Services replaced: PATCH sent -> first answer of the new",
                *summary(changes),
            ),
            *((f"{program} get pods", *summary(times)) for program, times in commands.items()),
        ]
        print_table("A whole node", ("what", "runs", "median", "p99", "max"), rows)
        sequence.measure(node, client, app="target")
        footprint.measure(node)
        client.close()


def _start_time() -> tuple[float, float]:
    """Seconds on the clock, and of CPU time (which does not depend on what else the machine does)."""
    node = Node(Path(tempfile.mkdtemp(prefix="pwt-")))
    try:
        node.make_network()
        begin = time.monotonic()
        node.up()
        seconds = time.monotonic() - begin
        return seconds, sum(footprint.cpu_seconds(pid) for pid in footprint.pids(node).values())
    finally:
        node.podwire("clean", *node.place)
        node.remove_network()


def _pod_ready_time(client: Client, name: str) -> float:
    template = echo_replicaset(name, 1)["spec"]["template"]
    pod = msgspec.convert({"metadata": {"name": name, **template["metadata"]}, "spec": template["spec"]}, Pod)
    begin = time.monotonic()
    client.create(pod)
    client.wait(Pod, name, for_conditions=["Ready"])
    seconds = time.monotonic() - begin
    client.delete(Pod, name, grace_period=0)
    return seconds


def _change_times(node: Node, client: Client) -> list[float]:
    """Services with one hand-made endpoint each; each run points one at another pod and waits until that one answers.

    (From none to one would measure the client as well: a SYN whose ICMP refusal was rate-limited waits a second.)
    """
    node.apply(echo_replicaset("target", 2))
    node.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=target", "--timeout=30s")
    pods = node.get("pods", "-l", "app=target")["items"]
    (old, _), (new, name) = ((pod["status"]["podIP"], pod["metadata"]["name"]) for pod in pods)
    objects: list[JSON] = []
    for number in range(SERVICES):
        spec = service(f"s{number}", {"port": 80})
        del spec["spec"]["selector"]
        objects += [spec, _slice(number, old)]
    node.apply(*objects)
    addresses = [node.get("service", f"s{number}")["spec"]["clusterIP"] for number in range(CHANGES)]
    inside(node.netns, lambda: [http_get(address, 80, "/hostname") for address in addresses])
    time.sleep(1)
    return [
        _one_change(node, client, _slice(number, new), address, expected=name)
        for number, address in enumerate(addresses)
    ]


def _command_times(node: Node, program: str) -> list[float]:
    times = []
    for _ in range(COMMANDS):
        begin = time.monotonic()
        (node.podwire if program == "podwire" else node.kubectl)("get", "pods")
        times.append(time.monotonic() - begin)
    return times


def _slice(number: int, address: str) -> JSON:
    labels = {"kubernetes.io/service-name": f"s{number}"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"s{number}", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


def _one_change(node: Node, client: Client, wanted: JSON, address: str, *, expected: str) -> float:
    """Seconds from sending the PATCH to the first answer of ``expected``; until then a request every few ms."""
    reached: list[float] = []

    def knock() -> None:
        while http_get(address, 80, "/hostname").strip() != expected:
            time.sleep(0.004)
        reached.append(time.monotonic())

    knocker = threading.Thread(target=lambda: inside(node.netns, knock))
    knocker.start()
    sent = time.monotonic()
    client.patch(
        EndpointSlice, wanted["metadata"]["name"], {"endpoints": wanted["endpoints"]}, patch_type=PatchType.MERGE
    )
    knocker.join()
    return reached[0] - sent


if __name__ == "__main__":
    main()
