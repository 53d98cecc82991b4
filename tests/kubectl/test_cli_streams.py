"""What needs running pods: exec, attach, logs, run, watch; beside the real kubectl where both can do it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.node import Node, eventually

SCRIPT = (
    "echo to-stdout; echo to-stderr >&2; trap 'exit 0' TERM; "
    "n=0; while true; do echo line-$n; n=$((n+1)); sleep 0.2; done"
)
PODWIRE = [sys.executable, "-m", "agent.cli.main"]


@pytest.fixture(scope="module")
def talker(node: Node) -> Iterator[str]:
    """A pod that talks, with a second container that does not."""
    name = "talker"
    node.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {"name": "main", "image": "busybox", "command": ["sh", "-c", SCRIPT]},
                    {
                        "name": "side",
                        "image": "busybox",
                        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"],
                    },
                ],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
        },
    )
    node.podwire("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    yield name
    node.podwire("delete", f"pod/{name}", f"svc/{name}")


def run(node: Node, program: str, *args: str, stdin: bytes = b"") -> tuple[str, str, int]:
    argv = ["kubectl"] if program == "kubectl" else PODWIRE
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig), "HOME": str(node.state_dir)}
    done = subprocess.run([*argv, *args], input=stdin, capture_output=True, env=env, timeout=60, check=False)
    return done.stdout.decode(), done.stderr.decode(), done.returncode


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (["exec", "talker", "--", "sh", "-c", "echo out; echo err >&2"], b""),
        (["exec", "talker", "-c", "side", "--", "sh", "-c", "exit 7"], b""),
        (["exec", "-i", "talker", "-c", "main", "--", "cat"], b"typed\n"),
        (["exec", "-i", "talker", "-q", "--", "sh", "-c", "wc -c"], b"x" * 300_000),
        (["exec", "talker", "-c", "main", "--", "head", "-c", "300000", "/dev/zero"], b""),
        (["exec", "svc/talker", "-c", "main", "--", "hostname"], b""),
        (["exec", "talker", "-c", "nope", "--", "true"], b""),
        (["exec", "nope", "--", "true"], b""),
        (["exec", "talker", "-c", "main", "--", "/no/such/program"], b""),
    ],
)  # fmt: skip
def test_exec_as_kubectl(node: Node, talker: str, args: list[str], stdin: bytes) -> None:
    theirs, ours = run(node, "kubectl", *args, stdin=stdin), run(node, "podwire", *args, stdin=stdin)
    assert ours[0] == theirs[0]
    assert ours[2] == theirs[2]
    if "nope" not in args[2:]:  # the wording differs: podwire names the containers there are
        assert re.sub(r'time="[^"]*"', "", ours[1]) == re.sub(r'time="[^"]*"', "", theirs[1])


def test_a_terminal(node: Node, talker: str) -> None:
    """``exec -it`` on a pseudo-terminal: the shell sees a terminal of our size, and its exit code comes back."""
    leader, follower = pty.openpty()
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig), "COLUMNS": "91", "LINES": "33"}
    argv = [*PODWIRE, "exec", "-it", talker, "-c", "main", "--", "sh"]
    process = subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    try:
        os.write(leader, b"tty && stty size && echo $((40 + 2)); exit 5\r")
        said = read_all(leader)
        assert process.wait(30) == 5, said
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert "/dev/pts/" in said
    assert "33 91" in said
    assert re.search(r"^42\r?$", said, re.MULTILINE)


def read_all(descriptor: int) -> str:
    """What is written to a pseudo-terminal until its other side is closed."""
    said = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 1)[0]:
            continue
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # EIO: nobody holds the other side any more
            break
        said += data
    return said.decode(errors="replace")


@pytest.mark.parametrize(
    "args",
    [
        ["logs", "talker", "-c", "side"],
        ["logs", "talker", "--tail=0"],
        ["logs", "talker", "-c", "nope"],
        ["logs", "nope"],
        ["logs", "talker", "-c", "side", "-p"],
    ],
)
def test_logs_as_kubectl(node: Node, talker: str, args: list[str]) -> None:
    theirs, ours = run(node, "kubectl", *args), run(node, "podwire", *args)
    assert (ours[0], ours[2]) == (theirs[0], theirs[2])
    assert bool(ours[1]) == bool(theirs[1])


def test_parts_of_logs(node: Node, talker: str) -> None:
    eventually(lambda: "line-3" in run(node, "podwire", "logs", talker, "-c", "main")[0])
    out, err, code = run(node, "podwire", "logs", talker)
    assert {"to-stdout", "to-stderr", "line-0"} <= set(out.splitlines())
    assert (err, code) == ('Defaulted container "main" out of: main, side\n', 0)
    assert len(run(node, "podwire", "logs", talker, "--tail=2")[0].splitlines()) == 2
    assert re.match(
        r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) to-std", run(node, "podwire", "logs", talker, "--timestamps")[0]
    )
    selected = run(node, "podwire", "logs", "-l", f"app={talker}", "--prefix", "--all-containers")[0].splitlines()
    assert len(selected) <= 10
    assert all(line.startswith(f"[pod/{talker}/main] ") for line in selected)


def test_following_logs_until_interrupted(node: Node, talker: str) -> None:
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig)}
    argv = [*PODWIRE, "logs", "-f", "--tail=1", talker, "-c", "main"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        numbers = [int(process.stdout.readline().decode().removeprefix("line-")) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == b""
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_a_reader_that_goes_away_ends_it_quietly(node: Node, talker: str) -> None:
    script = f"{sys.executable} -m agent.cli.main logs -f {talker} -c main | head -1"
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, timeout=60, check=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_watching_a_pod_come_and_go(node: Node) -> None:
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig), "PYTHONUNBUFFERED": "1"}
    argv = [*PODWIRE, "get", "pods", "-w", "-l", "app=watched"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        node.podwire("run", "watched", "--image=busybox", "-l", "app=watched", "--command", "--", "sleep", "1000")
        lines = [process.stdout.readline().decode()]
        while "Running" not in lines[-1]:
            lines.append(process.stdout.readline().decode())
        node.podwire("delete", "pod", "watched", "--now")
        while "Terminating" not in lines[-1]:
            lines.append(process.stdout.readline().decode())
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert re.fullmatch(r"NAME +READY +STATUS +RESTARTS +AGE\n", lines[0])
    assert sum(line.startswith("NAME") for line in lines) == 1
    starts = [line.index("0 ") for line in lines[1:] if " 0 " in line]
    assert len(set(starts)) <= 2  # a column never moves back


def test_run_and_join(node: Node) -> None:
    """``run --rm -i``: input goes in, output comes out, the exit code is the container's, and nothing is left."""
    args = ["run", "once", "--rm", "-i", "--restart=Never", "--image=busybox", "-q", "--command", "--"]
    out, err, code = run(node, "podwire", *args, "sh", "-c", "read word; echo got $word; exit 3", stdin=b"hello\n")
    assert (out, code) == ("got hello\n", 3), err
    assert run(node, "podwire", "get", "pod", "once")[2] == 1


def test_describing_a_running_pod_as_kubectl(node: Node, talker: str) -> None:
    for args in (
        ["describe", "pod", talker],
        ["describe", "node", "node-1"],
        ["describe", "endpoints", talker],
        ["describe", "endpointslices"],
    ):
        theirs, ours = run(node, "kubectl", *args), run(node, "podwire", *args)
        assert [same(line) for line in ours[0].splitlines()] == [same(line) for line in theirs[0].splitlines()]


def same(line: str) -> str:
    """The line without ages and heartbeats, which move on between two commands."""
    line = re.sub(r"\w{3}, \d\d \w{3} \d{4} [\d:]+ [+-]\d{4}", "TIME", line)
    return re.sub(r" +", " ", re.sub(r"\b(?:\d+[smhd]){1,2}\b", "AGE", line))


def test_port_forward(node: Node, talker: str) -> None:
    """``kubectl port-forward`` reaches what listens on the pod's localhost only, and says where nobody does."""
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 7000)); print('listening', flush=True); "
        "c, _ = s.accept(); c.sendall(c.recv(9).upper())"
    )
    with started(node, *PODWIRE, "exec", talker, "-c", "main", "--", "python3", "-c", server) as serving:
        assert next(serving) == "listening\n"
        with started(node, "kubectl", "port-forward", "--address=127.0.0.1", f"pod/{talker}", ":7000", ":7001") as said:
            ports = [int(next(said).split()[2].rpartition(":")[2]) for _ in range(2)]
            assert ask(ports[0], b"hello") == b"HELLO"
            assert ask(ports[1], b"hello") == b""
            # kubectl ends when it is told of an error
            assert "cannot connect to localhost:7001 inside the pod: Connection refused" in "".join(said)


@contextmanager
def started(node: Node, *argv: str) -> Iterator[Iterator[str]]:
    """The lines that a program says, which is killed in the end."""
    env = {**os.environ, "KUBECONFIG": str(node.kubeconfig), "HOME": str(node.state_dir)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def ask(port: int, question: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(question)
        try:
            return connection.recv(100)
        except ConnectionResetError:
            return b""
