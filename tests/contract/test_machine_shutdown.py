"""The machine shuts down: pods are ended gracefully, stay in the API, and run again after the next start.

The node is real; systemd is stood in for: its notify socket, a cgroup with a unit's name, and a ``systemctl`` that
answers ``is-system-running``. The real one is asked in tests/vm.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns import namespaces
from tests.contract.conftest import TAG, new_name
from tests.harness.node import command, eventually

OUT = [{"name": "out", "mountPath": "/out"}]
WAIT = "while :; do sleep 0.1; done"
BEGIN = "echo began >>/out/$HOSTNAME"
GENTLE = f"trap 'echo ended >>/out/$HOSTNAME; exit 0' TERM; {BEGIN}; {WAIT}"
DEAF = f"trap '' TERM; {BEGIN}; {WAIT}"
SIDE = f"trap 'echo down >>/out/$HOSTNAME; exit 0' TERM; echo up >>/out/$HOSTNAME; {WAIT}"
BUSY = f"trap 'while [ ! -e /out/enough ]; do sleep 0.1; done; exit 0' TERM; {BEGIN}; {WAIT}"
HOOK = {"preStop": {"exec": {"command": ["sh", "-c", "sleep 0.5; echo hook >>/out/$HOSTNAME"]}}}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "busy"},
    "spec": {"selector": {"app": "busy"}, "ports": [{"port": 80}]},
}


def container(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """It runs a shell script, and writes where the test can read."""
    return {"name": name, "image": "x", "command": ["sh", "-c", script], "volumeMounts": OUT, **fields}


def pod(
    name: str,
    script: str,
    *,
    grace: int = 600,
    restart: str = "Always",
    init: tuple[dict[str, Any], ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    """``grace``: seconds; ``fields``: of its one container."""
    spec = {
        "terminationGracePeriodSeconds": grace,
        "restartPolicy": restart,
        "initContainers": init,
        "containers": [container("c", script, **fields)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


PODS = (
    pod("gentle", GENTLE),
    pod("deaf", DEAF, grace=1),
    pod("hooked", GENTLE, lifecycle=HOOK),
    pod("once", GENTLE, restart="Never"),
    pod("job", GENTLE, restart="OnFailure"),
    pod("done", BEGIN, restart="OnFailure"),
    pod("served", GENTLE, init=(container("side", SIDE, restartPolicy="Always"),)),
    pod("busy", BUSY),
)


class Unit:
    """A node that is a service of systemd's, as far as it can tell."""

    def __init__(self, folder: Path) -> None:
        self.netns, self.folder = new_name("unit"), folder
        self.state_dir, self.out = folder / "state", folder / "out"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(60)
        self.cgroup = _hierarchy() / f"pwt-{TAG}-{os.urandom(3).hex()}.service"
        self.process: subprocess.Popen[bytes] | None = None
        for made in (self.cgroup, self.out, folder / "bin"):
            made.mkdir()
        (folder / "bin/systemctl").write_text(f'#!/bin/sh\n[ "$*" = is-system-running ] && cat {folder}/is\nexit 1\n')
        (folder / "bin/systemctl").chmod(0o755)

    @property
    def place(self) -> tuple[str, ...]:
        return ("--node-netns", self.netns, "--state-dir", str(self.state_dir))

    def start(self, *, grace: float, by_systemd: bool = True) -> None:
        """``grace``: shutdown_grace_period. The shell becomes the node, so its pid is what systemd would tell it."""
        (self.folder / "is").write_text("running\n")
        (self.folder / "config.yaml").write_text(f"shutdown_grace_period: {grace}\n")
        script = f'echo $$ >"$0/cgroup.procs" && {"SYSTEMD_EXEC_PID=$$" if by_systemd else ""} exec "$@"'
        up = (sys.executable, "-m", "agent.cli.main", "up", "--node-name", "unit", *self.place)
        argv = ("sh", "-c", script, str(self.cgroup), *up, "--config", str(self.folder / "config.yaml"))
        told = {
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": "3000000",
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, env={**os.environ, **told}, stdout=log, stderr=log)
        self.hear_until("READY=1")

    def hear_until(self, wanted: str) -> list[str]:
        """All that is said until an assignment begins so."""
        said: list[str] = []
        while not any(line.startswith(wanted) for line in said):
            said += self.manager.recv(4096).decode().splitlines()
        return said

    def begin_stop(self, *, machine: str) -> None:
        """SIGTERM, while the machine is in this state."""
        assert self.process is not None
        (self.folder / "is").write_text(f"{machine}\n")
        self.process.send_signal(signal.SIGTERM)

    def await_end(self) -> None:
        assert self.process is not None
        assert self.process.wait(60) == 0, (self.folder / "log").read_text()[-3000:]

    def stop(self, *, machine: str) -> None:
        self.begin_stop(machine=machine)
        self.await_end()

    def kubectl(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        return command("kubectl", "--kubeconfig", str(self.state_dir / "kubeconfig"), *argv, stdin=stdin, check=check)

    def apply(self, *objects: dict[str, Any]) -> None:
        volumes = {"volumes": [{"name": "out", "hostPath": {"path": str(self.out)}}]}
        items = [{**made, "spec": {**made["spec"], **(volumes if made["kind"] == "Pod" else {})}} for made in objects]
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))

    def pods(self) -> dict[str, Any]:
        items = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {item["metadata"]["name"]: item for item in items}

    def phases(self) -> dict[str, str]:
        return {name: found["status"]["phase"] for name, found in self.pods().items()}

    def uids(self) -> dict[str, str]:
        return {name: found["metadata"]["uid"] for name, found in self.pods().items()}

    def written(self, pod: str) -> list[str]:
        file = self.out / pod
        return file.read_text().split() if file.exists() else []

    def processes(self) -> dict[str, int]:
        """``pod/container`` -> pid of its first process, or of a conmon that waits for it, as far as they live."""
        found: dict[str, int] = {}
        for folder in self.state_dir.glob("containers/*"):
            launch = json.loads((folder / "launch.json").read_text())
            pids = [int(file.read_text()) for name in ("conmon.pid", "pid") if (file := folder / name).exists()]
            found |= {f"{launch['pod']}/{launch['container']}": pid for pid in pids if lives(pid)}
        return found

    def status(self) -> Any:
        return json.loads((self.state_dir / "run/status.json").read_text())

    def members(self) -> list[str]:
        """Of the unit's cgroup."""
        return (self.cgroup / "cgroup.procs").read_text().split()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.manager.close()
        command(sys.executable, "-m", "agent.cli.main", "clean", *self.place, check=False)
        namespaces.remove(self.netns)
        eventually(self._forget)

    def _forget(self) -> bool:
        """The cgroup can be removed when its last process has ended."""
        try:
            self.cgroup.rmdir()
        except OSError as error:
            raise AssertionError(f"{error}: {self.members()}") from error
        return True


def lives(pid: int) -> bool:
    """A zombie, which has no command line any more, does not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def _hierarchy() -> Path:
    """Where systemd would have its units' cgroups."""
    root = Path("/sys/fs/cgroup")
    return root if (root / "cgroup.controllers").exists() else root / "systemd"


@pytest.fixture
def unit(no_leaks: None, tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    try:
        yield made
    finally:
        made.close()


def all_began(unit: Unit, *pods: str, times: int = 1) -> None:
    eventually(lambda: [unit.written(name).count("began") for name in pods] == [times] * len(pods))


def is_out_of_service(unit: Unit) -> bool:
    slices = json.loads(unit.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=busy", "-o", "json"))
    endpoints = [endpoint for found in slices["items"] for endpoint in found["endpoints"]]
    return bool(endpoints) and not any(endpoint["conditions"]["ready"] for endpoint in endpoints)


def test_pods_end_with_the_machine_and_run_again_after_it(unit: Unit) -> None:
    unit.start(grace=300)
    unit.apply(SERVICE, *PODS)
    eventually(lambda: unit.phases() == {made["metadata"]["name"]: "Running" for made in PODS} | {"done": "Succeeded"})
    all_began(unit, *unit.phases())
    uids = unit.uids()

    unit.begin_stop(machine="stopping")
    unit.hear_until("STATUS=the machine shuts down; waiting up to 300 s for pods to end")
    assert [line for line in unit.hear_until("WATCHDOG=1") if line.startswith("EXTEND_TIMEOUT_USEC=")]

    # one pod still works: the others have ended, and the rest of the node is there for it
    eventually(lambda: set(unit.processes()) == {"busy/c"})
    assert unit.written("hooked") == ["began", "hook", "ended"]
    assert unit.written("served") == ["up", "began", "ended", "down"], "the sidecar last"
    eventually(lambda: is_out_of_service(unit))
    assert unit.kubectl("exec", "busy", "--", "getent", "hosts", "busy.default.svc.cluster.local") != ""
    unit.apply(pod("late", GENTLE))
    eventually(lambda: unit.pods()["late"]["spec"].get("nodeName"))
    eventually(lambda: unit.pods()["late"]["status"].get("containerStatuses"))
    assert set(unit.processes()) == {"busy/c"}
    expected = {**dict.fromkeys(uids, "Running"), "done": "Succeeded", "once": "Failed", "late": "Pending"}
    assert unit.phases() == expected
    assert unit.pods()["once"]["status"]["reason"] == "Terminated"

    (unit.out / "enough").touch()
    unit.await_end()
    assert unit.processes() == {}
    eventually(lambda: not unit.members())  # no conmon is left for systemd to wait for

    unit.start(grace=300)
    eventually(lambda: unit.phases() == expected | {"late": "Running"})
    assert unit.uids().items() >= uids.items()
    all_began(unit, "gentle", "deaf", "hooked", "job", "busy", times=2)
    assert unit.written("gentle") == ["began", "ended", "began"]
    assert unit.written("done") == ["began"]
    assert unit.written("once") == ["began", "ended"]

    before = unit.processes()
    unit.stop(machine="running")
    assert unit.processes() == before, "a plain stop leaves them"


def test_time_is_up(unit: Unit) -> None:
    """What does not end within shutdown_grace_period is killed, however long its own grace period is."""
    unit.start(grace=2)
    unit.apply(pod("deaf", DEAF))
    all_began(unit, "deaf")
    unit.stop(machine="stopping")
    assert unit.processes() == {}


def test_a_kubelet_that_dies_meanwhile_is_not_started_again(unit: Unit) -> None:
    unit.start(grace=300)
    unit.apply(pod("deaf", DEAF), pod("gentle", GENTLE))
    all_began(unit, "deaf", "gentle")
    (kubelet,) = (child for child in unit.status()["children"] if child["name"] == "node")
    unit.begin_stop(machine="stopping")
    eventually(lambda: set(unit.processes()) == {"deaf/c"})
    os.kill(kubelet["pid"], signal.SIGKILL)
    unit.await_end()
    assert set(unit.processes()) == {"deaf/c"}
    (kubelet,) = (child for child in unit.status()["children"] if child["name"] == "node")
    assert (kubelet["restarts"], kubelet["why"]) == (0, "killed by SIGKILL")


@pytest.mark.parametrize(("grace", "by_systemd"), [(0, True), (300, False)])
def test_pods_are_left_where_that_is_wanted(unit: Unit, grace: float, by_systemd: bool) -> None:
    """With no time at all, and where a person has started the node by hand."""
    unit.start(grace=grace, by_systemd=by_systemd)
    unit.apply(pod("gentle", GENTLE))
    all_began(unit, "gentle")
    before = unit.processes()
    unit.stop(machine="stopping")
    assert unit.processes() == before
    assert unit.written("gentle") == ["began"]
