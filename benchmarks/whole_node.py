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

from benchmarks.tables import print_table, summary
from tests.harness.client import http_get
from tests.harness.node import Node, inside, running_node
from tests.harness.objects import JSON, echo_replicaset, service

STARTS, PODS, SERVICES, CHANGES = 3, 10, 100, 20


def main() -> None:
    starts = [_start_time() for _ in range(STARTS)]
    with running_node() as node:
        client = Client(config=KubeConfig.from_file(str(node.kubeconfig)).get())
        pods = [_pod_ready_time(client, f"bench-{number}") for number in range(PODS)]
        changes = _change_times(node, client)
        client.close()
    rows = [
        ("podwire up: command -> every process ready", *summary(starts)),
        ("pod: create sent -> Ready condition seen", *summary(pods)),
        (f"endpoint added to one of {SERVICES} Services: PATCH sent -> first connection", *summary(changes)),
    ]
    print_table("A whole node", ("what", "runs", "median", "p99", "max"), rows)


def _start_time() -> float:
    node = Node(Path(tempfile.mkdtemp(prefix="pwt-")))
    try:
        node.make_network()
        begin = time.monotonic()
        node.up()
        return time.monotonic() - begin
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
    """Services with hand-made endpoints; each run points one at a listening address and waits until it is reached."""
    objects: list[JSON] = [echo_replicaset("target", 1)]
    for number in range(SERVICES):
        spec = service(f"s{number}", {"port": 80})
        del spec["spec"]["selector"]
        objects += [spec, _slice(number, [])]
    node.apply(*objects)
    node.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=target", "--timeout=30s")
    target = node.get("pods", "-l", "app=target")["items"][0]["status"]["podIP"]
    addresses = {s["metadata"]["name"]: s["spec"]["clusterIP"] for s in node.get("svc")["items"]}
    time.sleep(1)
    return [_one_change(node, client, _slice(number, [target]), addresses[f"s{number}"]) for number in range(CHANGES)]


def _slice(number: int, addresses: list[str]) -> JSON:
    labels = {"kubernetes.io/service-name": f"s{number}"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"s{number}", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


def _one_change(node: Node, client: Client, wanted: JSON, address: str) -> float:
    """Seconds from sending the PATCH to the first connection that succeeds; until then a knock every millisecond."""
    reached: list[float] = []

    def knock() -> None:
        while not _reaches(address):
            time.sleep(0.001)
        reached.append(time.monotonic())

    knocker = threading.Thread(target=lambda: inside(node.netns, knock))
    knocker.start()
    sent = time.monotonic()
    client.patch(
        EndpointSlice, wanted["metadata"]["name"], {"endpoints": wanted["endpoints"]}, patch_type=PatchType.MERGE
    )
    knocker.join()
    return reached[0] - sent


def _reaches(address: str) -> bool:
    try:
        return bool(http_get(address, 80, "/hostname", timeout=0.5))
    except OSError:
        return False


if __name__ == "__main__":
    main()
