"""A node under test: a real ``podwire up`` in network namespaces of its own, with a client outside.

Address plan (every test run has its own namespaces, so the addresses never meet)::

    outside  192.0.2.1/24 ---veth--- 192.0.2.2/24  node  10.244.0.1/24 (podwire0) --- pods 10.244.0.0/24
             route to the Services, not to pods          Services 10.96.0.0/12, NodePorts on 192.0.2.2
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from netns import namespaces

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
OUTSIDE_IP, NODE_IP = "192.0.2.1", "192.0.2.2"


def command(
    *argv: str, env: dict[str, str] | None = None, stdin: str = "", check: bool = True, timeout: float = 60
) -> str:
    """Run a program and return its standard output; a failure shows everything it said."""
    full = {**os.environ, **(env or {})}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=full, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


class Node:
    """A running node. ``outside`` and ``netns`` are names of network namespaces."""

    def __init__(self, folder: Path) -> None:
        tag = f"{os.getpid()}-{secrets.token_hex(2)}"
        self.netns, self.outside = f"pwt-{tag}-node", f"pwt-{tag}-out"
        self.name = f"node-{tag}"
        self.state_dir = folder
        self.ip = NODE_IP
        self.kubeconfig = folder / "kubeconfig"

    def make_network(self) -> None:
        command("ip", "netns", "add", self.netns)
        command("ip", "netns", "add", self.outside)
        command(
            "ip",
            "-n",
            self.netns,
            "link",
            "add",
            "uplink",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.outside,
        )
        for name, link, address in ((self.netns, "uplink", NODE_IP), (self.outside, "eth0", OUTSIDE_IP)):
            command("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            command("ip", "-n", name, "link", "set", link, "up")
            command("ip", "-n", name, "link", "set", "lo", "up")
        command("ip", "-n", self.outside, "route", "add", "10.96.0.0/12", "via", NODE_IP)

    def remove_network(self) -> None:
        for name in (self.netns, self.outside):
            if (Path("/run/netns") / name).exists():
                command("ip", "netns", "delete", name)

    def up(self, *flags: str) -> str:
        return self.podwire("up", "--detach", "--node-name", self.name, *self.place, *flags)

    def down(self, *flags: str) -> str:
        return self.podwire("down", *self.place, *flags)

    @property
    def place(self) -> tuple[str, ...]:
        return ("--node-netns", self.netns, "--state-dir", str(self.state_dir))

    def podwire(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        environment = {"KUBECONFIG": str(self.kubeconfig)}
        return command(sys.executable, "-m", "agent.cli.main", *argv, env=environment, stdin=stdin, check=check)

    def kubectl(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        environment = {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.state_dir)}
        return command("kubectl", *argv, env=environment, stdin=stdin, check=check)

    def get(self, *argv: str) -> Any:
        """An object, or a list, as JSON."""
        return json.loads(self.kubectl("get", *argv, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def pod_netns(self, pod: str) -> str:
        """The network namespace of a pod of the default namespace, as a name under /run/netns."""
        uid = self.get("pod", pod)["metadata"]["uid"]
        (found,) = [path.name for path in Path("/run/netns").iterdir() if path.name.startswith(f"podwire-{uid[:8]}-")]
        return found

    def logs(self) -> str:
        texts = [
            f"--- {path.name}\n{path.read_text()[-6000:]}" for path in sorted((self.state_dir / "log").glob("*.log"))
        ]
        return "\n".join(texts)


@contextmanager
def running_node() -> Iterator[Node]:
    """A node that is ready; afterwards nothing of it is left, however the test ended."""
    folder = Path(tempfile.mkdtemp(prefix="pwt-"))
    node = Node(folder)
    try:
        node.make_network()
        try:
            node.up()
            yield node
        finally:
            node.podwire("clean", *node.place)
    finally:
        node.remove_network()
        shutil.rmtree(folder, ignore_errors=True)


def inside(netns: str, work: Callable[[], T]) -> T:
    """Do ``work`` in a thread that has entered the namespace."""
    return namespaces.inside(netns, work)


def eventually(check: Callable[[], T], *, seconds: float = 30.0) -> T:
    """Call ``check`` until it neither raises AssertionError nor returns something false; its last failure is raised."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = check()
            if result:
                return result
            problem: AssertionError = AssertionError(f"still {result!r} after {seconds:g} s")
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(0.05)
