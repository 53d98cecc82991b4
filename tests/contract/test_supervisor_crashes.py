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

import pytest

from tests.harness.node import Node, eventually, inside

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
