"""podwire in the machine, as a client sees it: its unit, its API, its Services from inside and from outside.

What every step finds is the *workload*: two pods behind a Service with ClusterIP and NodePort, made once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.vm.guest import Answer, Guest
from tests.vm.machine import Machine
from tests.vm.progress import StepFailed, require

T = TypeVar("T")
Object = dict[str, Any]

NODE_IP, OUTSIDE, OUTSIDE_IP = "192.0.2.2", "outside", "192.0.2.1"  # see inside/network.sh
GATEWAY = "10.244.0.1"  # the bridge's address: what hidden clients look like to pods
NODE_PORT, REPLICAS = 30080, 2
PATIENCE = 330.0  # seconds for what takes a few on a real processor; more than the unit's own TimeoutStartSec
CORE, APPS = "/api/v1/namespaces/default", "/apis/apps/v1/namespaces/default"
UNIT = "podwire.service"

SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "type": "NodePort",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
    },
}
REPLICASET: Object = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "metadata": {"name": "web"},
    "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "image": "podwire/echo",
                        "resources": {"limits": {"memory": "96Mi"}},
                        "readinessProbe": {
                            "httpGet": {"path": "/healthz", "port": 8080},
                            "periodSeconds": 2,
                            "timeoutSeconds": 5,
                        },
                    }
                ]
            },
        },
    },
}  # fmt: skip


def eventually(check: Callable[[], T], *, what: str, seconds: float = PATIENCE, pause: float = 1.0) -> T:
    """Call ``check`` until it returns something true."""
    deadline = time.monotonic() + seconds
    while not (result := check()):
        if time.monotonic() > deadline:
            raise StepFailed(f"after {seconds:g} s still not: {what}")
        time.sleep(pause)
    return result


class Node:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def guest(self) -> Guest:
        return self._machine.guest

    def await_ready(self, *, restarts: int = 0) -> None:
        """The unit is active: it has said READY=1. ``restarts``: how often it must have died since it was started."""
        eventually(lambda: self.property("ActiveState") == "active", what=f"{UNIT} is active")
        found = int(self.property("NRestarts"))
        require(found == restarts, f"{UNIT} has died on the way: it was started again {found} times, not {restarts}")

    def property(self, name: str) -> str:
        return self.guest.run(f"systemctl show --property={name} --value {UNIT}").strip()

    def systemctl(self, verb: str) -> None:
        self.guest.run(f"systemctl {verb} {UNIT}", timeout=PATIENCE)

    def request(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        status, answer = self.guest.api(method, path, body)
        require(status == expect, f"{method} {path}: {status} {answer}, not {expect}")
        return answer

    def services(self) -> dict[str, Object]:
        """Those of the default namespace, by name."""
        return {each["metadata"]["name"]: each for each in self.request("GET", f"{CORE}/services")["items"]}

    def pods(self) -> list[Object]:
        found: list[Object] = self.request("GET", f"{CORE}/pods?labelSelector=app%3Dweb")["items"]
        return found

    def netns_of(self, pod: Object) -> str:
        """The name of its network namespace, as ``ip netns`` shows it."""
        found = self.guest.run(f"ls /run/netns | grep -e ^podwire-{pod['metadata']['uid'][:8]}-").split()
        require(len(found) == 1, f"pod {pod['metadata']['name']} has the network namespaces {found}")
        return found[0]

    def containers(self) -> set[tuple[str, str, int]]:
        """Pod, container id and count of restarts: the same only if it is the same process."""
        status = [(pod["metadata"]["name"], pod["status"]["containerStatuses"][0]) for pod in self.pods()]
        return {(name, each.get("containerID", ""), each["restartCount"]) for name, each in status}

    def create_workload(self) -> None:
        self.request("POST", f"{CORE}/services", SERVICE, expect=201)
        self.request("POST", f"{APPS}/replicasets", REPLICASET, expect=201)

    def create_service(self, name: str, **fields: Any) -> Object:
        """Of the workload's pods; as it was stored."""
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **fields}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
        stored: Object = self.request("POST", f"{CORE}/services", body, expect=201)
        return stored

    def await_workload(self) -> None:
        """Its pods are ready, and it is served."""

        def ready() -> bool:
            status, found = self.guest.api("GET", f"{APPS}/replicasets/web")
            return status == 200 and found.get("status", {}).get("readyReplicas") == REPLICAS

        eventually(ready, what=f"{REPLICAS} pods are ready")
        self.check_served()

    def check_served(self) -> None:
        """All pods answer, through the ClusterIP and, from outside, through the NodePort."""
        address = self.services()["web"]["spec"]["clusterIP"]
        self._check_balanced(address, 80, netns="")
        self._check_balanced(NODE_IP, NODE_PORT, netns=OUTSIDE)

    def await_served(self, address: str) -> None:
        eventually(lambda: self.guest.fetch(address, 80)[0].status == 200, what=f"{address}:80 is served")

    def _check_balanced(self, address: str, port: int, *, netns: str) -> None:
        pods, others = set[str](), list[Answer]()

        def all_seen() -> bool:
            for answer in self.guest.fetch(address, port, "/hostname", netns=netns, times=6):
                if answer.status == 200:
                    pods.add(answer.pod)
                else:
                    others.append(answer)
            return len(pods) == REPLICAS

        # rules follow readiness within a moment; from then on every connection counts
        eventually(all_seen, what=f"both pods answer at {address}:{port}; so far {pods}, failures {others}", seconds=60)
        failures = [answer for answer in self.guest.fetch(address, port, netns=netns, times=10) if answer.status != 200]
        require(not failures, f"{address}:{port}: of 10 connections these failed: {failures}")

    def check_discovery(self) -> None:
        """A pod resolves the Service by name, through the DNS server's ClusterIP; exec and the environment work too."""
        address = self.services()["web"]["spec"]["clusterIP"]
        pod = self.pods()[0]["metadata"]["name"]
        said = self.guest.run(f"podwire exec {pod} -- getent hosts web", timeout=PATIENCE)
        require(said.split()[0] == address, f"in pod {pod} the name web is not {address}: {said}")
