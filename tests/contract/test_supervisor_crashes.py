"""``kill -9`` of the supervisor, taken ports, damaged files: the node comes up again, or says what is in its way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netns import namespaces
from netns.errors import NetnsError
from tests.contract.conftest import new_name
from tests.harness.node import Node, command, eventually, inside

HOLD = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


def supervisor(node: Node) -> int:
    return int(json.loads((node.state_dir / "run/status.json").read_text())["pid"])


def test_the_node_comes_up_at_once_after_its_supervisor_was_killed(node: Node) -> None:
    """The killed one's processes take a moment to end; they hold the API server's port till then."""
    kubeconfig = node.kubeconfig.read_text()
    for _ in range(2):
        os.kill(supervisor(node), signal.SIGKILL)
        node.up()
    assert node.kubeconfig.read_text() == kubeconfig


def test_damaged_files_do_not_keep_a_node_from_starting(node: Node) -> None:
    kubeconfig = node.kubeconfig.read_text()
    node.down()
    for name in ("run/status.json", "run/config.json", "ipam.json", "pki/apiserver.crt", "pki/kubelet.key"):
        (node.state_dir / name).write_bytes(b"\xff{")
    node.up()
    assert node.kubeconfig.read_text() == kubeconfig
    node.down()
    for name in ("run/status.json", "run/config.json", "loopback-port", "pki/ca.crt", "pki/token"):
        (node.state_dir / name).write_bytes(b"")
    node.up()
    assert node.kubectl("get", "node", "-o", "name").split() == [f"node/{node.name}"]
    node.kubectl("run", "after-damage", "--image=podwire/echo")
    node.kubectl("wait", "--for=condition=Ready", "pod/after-damage", "--timeout=30s")
    node.kubectl("delete", "pod", "after-damage")


@pytest.mark.parametrize(("port", "role"), [(10250, "node"), (53, "dns")])
def test_what_keeps_a_node_from_being_ready_is_said_and_waited_for(node: Node, port: int, role: str) -> None:
    node.down()
    with port_taken(node, port), waiting_up(node) as up:
        assert up.stderr is not None
        said = up.stderr.readline()
        assert said.startswith(f"podwire: {role} died: exit code 1: cannot listen on ")
        assert f"{port}" in said
        assert "Address already in use" in said
        assert "Address already in use" in processes(node)[role]
    eventually(lambda: all(" ready " in line for line in processes(node).values()))


def processes(node: Node) -> dict[str, str]:
    """Role -> its line of ``podwire status``."""
    lines = node.podwire("status", *node.place, check=False).partition("PROCESS")[2].splitlines()[2:]
    return {line.split()[0]: line for line in lines}


@contextmanager
def port_taken(node: Node, port: int) -> Iterator[None]:
    argv = ("ip", "netns", "exec", node.netns, sys.executable, "-c", HOLD, str(port))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


@contextmanager
def waiting_up(node: Node) -> Iterator[subprocess.Popen[str]]:
    argv = (sys.executable, "-m", "agent.cli.main", "up", "--detach", "--node-name", node.name, *node.place)
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as up:
        yield up
        up.kill()  # the node itself has a session of its own


def test_the_api_servers_port_being_taken_is_said(node: Node) -> None:
    node.down()
    with inside(node.netns, lambda: socket.create_server((node.ip, 6443))):
        said = node.podwire("up", "--detach", "--node-name", node.name, *node.place, check=False)
    assert f"cannot listen on the node's address {node.ip}:6443: Address already in use; is another" in said
    node.up()


@pytest.fixture
def place(no_leaks: None, tmp_path: Path) -> Iterator[Place]:
    made = Place(new_name("made"), tmp_path / "a folder")
    try:
        yield made
    finally:
        made.podwire("clean")


class Place:
    """A state directory, and a namespace that podwire makes."""

    def __init__(self, netns: str, state_dir: Path) -> None:
        self.netns, self.state_dir = netns, state_dir

    def podwire(self, verb: str, *flags: str, state: Path | None = None) -> str:
        argv = (sys.executable, "-m", "agent.cli.main", verb, "--state-dir", str(state or self.state_dir), *flags)
        return command(*argv, check=False)

    def up(self) -> str:
        return self.podwire("up", "--detach", "--node-name", "place", "--node-netns", self.netns)

    def kubectl(self, *argv: str) -> str:
        return command("kubectl", "--kubeconfig", str(self.state_dir / "kubeconfig"), *argv)

    def crash(self) -> None:
        """A pod runs, and everything of podwire dies."""
        self.kubectl("run", "left", "--image=podwire/echo", "--restart=Never")
        self.kubectl("wait", "pod/left", "--for=condition=Ready", "--timeout=60s")
        pid = int(json.loads((self.state_dir / "run/status.json").read_text())["pid"])
        os.kill(pid, signal.SIGKILL)


def test_clean_after_a_crash_leaves_nothing_and_the_node_can_begin_again(place: Place) -> None:
    """The fixture looks for what is left."""
    assert "is ready" in place.up()
    place.crash()
    (place.state_dir / "run/config.json").write_bytes(b"{")
    said = place.podwire("clean", "--keep-state")
    assert "pods removed" in said
    assert "cannot clean" not in said
    assert not namespaces.exists(place.netns)
    assert "is ready" in place.up()
    place.kubectl("wait", "pod/left", "--for=condition=Ready", "--timeout=60s")
    assert "state removed" in place.podwire("clean")
    assert not place.state_dir.exists()
    assert "nothing to clean" in place.podwire("clean")


def test_clean_where_somebody_deleted_the_nodes_namespace_leaves_nothing(place: Place) -> None:
    """Nor does it matter that a crash left the note of the namespace empty."""
    assert "is ready" in place.up()
    place.crash()
    (place.state_dir / "made-netns").write_text("")
    (place.state_dir / "sysctls.json").write_text("{")
    namespaces.remove(place.netns)
    assert "state removed" in place.podwire("clean")


def test_where_the_node_was_is_asked_and_not_guessed(place: Place) -> None:
    """The rules of another node are at stake."""
    assert "is ready" in place.up()
    place.crash()
    (place.state_dir / "run/config.json").write_bytes(b"{")
    marker = place.state_dir / "made-netns"
    noted = marker.read_text()
    marker.unlink()
    for verb in (("clean",), ("down", "--drain")):
        assert "say it with --node-netns" in place.podwire(*verb)
    assert "pods are stopped" in place.podwire("down", "--drain", "--node-netns", place.netns)
    marker.write_text(noted)


@pytest.mark.parametrize("netns", ["a/b", "../x"])
def test_what_is_no_name_of_a_namespace_is_refused(tmp_path: Path, netns: str) -> None:
    for verb in ("up", "down", "status", "clean"):
        said = command(sys.executable, "-m", "agent.cli.main", verb, "--node-netns", netns, check=False)
        assert said.startswith(f"podwire: cannot use --node-netns {netns}")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_no_other_place_is_mounted_on_or_unmounted(name: str) -> None:
    for verb in (namespaces.ensure, namespaces.remove):
        with pytest.raises(NetnsError, match="cannot use"):
            verb(name)


def test_a_node_runs_for_root_only(tmp_path: Path) -> None:
    # nobody in a user namespace, who can still read this checkout, wherever it lies
    argv = ("unshare", "--user", sys.executable, "-P", "-m", "agent.cli.main")
    for verb in ("up", "down", "clean"):
        said = command(*argv, verb, "--state-dir", str(tmp_path), check=False)
        assert said.startswith(f"podwire: podwire {verb} needs root: ")
