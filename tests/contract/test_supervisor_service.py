"""podwire as a service manager sees it: the protocol of sd_notify(3), spoken to a socket of our own.

What systemd itself makes of it (restarts, the watchdog, the capabilities of vagrant/podwire.service) is for tests/vm.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.shell import run
from netns import namespaces
from tests.contract.conftest import new_name
from tests.harness.node import command, eventually


class Service:
    """``podwire up`` in the foreground, as a unit with ``Type=notify`` and ``WatchdogSec=`` runs it."""

    def __init__(self, folder: Path) -> None:
        self.netns, self.state_dir = new_name("svc"), folder
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.said: list[tuple[float, str]] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *wrapper: str) -> None:
        told = {"NOTIFY_SOCKET": str(self.state_dir / "notify"), "WATCHDOG_USEC": "1500000"}
        argv = (*wrapper, sys.executable, "-m", "agent.cli.main", "up", "--node-name", "svc", *self.place)
        with (self.state_dir / "out").open("ab") as out:
            self.process = subprocess.Popen(argv, env={**os.environ, **told}, stdout=out, stderr=out)

    @property
    def place(self) -> tuple[str, ...]:
        return ("--node-netns", self.netns, "--state-dir", str(self.state_dir))

    def hear(self, seconds: float = 60.0) -> str:
        """The next assignment, ``""`` if none comes."""
        self.manager.settimeout(seconds)
        try:
            lines = self.manager.recv(4096).decode().splitlines()
        except TimeoutError:
            return ""
        self.said += [(time.monotonic(), line) for line in lines]
        return lines[-1]

    def hear_until(self, wanted: str) -> None:
        while self.hear() and wanted not in [line for _, line in self.said]:
            continue
        assert wanted in [line for _, line in self.said], (self.state_dir / "out").read_text()[-3000:]

    def children(self) -> dict[str, dict[str, object]]:
        status = json.loads((self.state_dir / "run/status.json").read_text())
        return {child["name"]: child for child in status["children"]}

    def kubectl(self, *argv: str, check: bool = True) -> str:
        return command("kubectl", "--kubeconfig", str(self.state_dir / "kubeconfig"), *argv, check=check)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.manager.close()
        command(sys.executable, "-m", "agent.cli.main", "clean", *self.place, check=False)
        namespaces.remove(self.netns)


@pytest.fixture
def service(no_leaks: None, tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    try:
        yield made
    finally:
        made.close()


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def test_the_life_of_a_service(service: Service) -> None:
    namespaces.ensure(service.netns)
    dropping = "table inet mine { chain forward { type filter hook forward priority 0; policy drop;\n }\n }"
    namespaces.inside(service.netns, lambda: run(["nft", "-f", "-"], stdin=dropping.encode()))
    service.start()
    service.hear_until("READY=1")
    assert {child["state"] for child in service.children().values()} == {"ready"}
    before = [line for _, line in service.said if line.startswith("STATUS=")]
    assert "starting" in before[0]
    assert before[-1].endswith("is ready")
    log = (service.state_dir / "out").read_text()
    assert "port 53/udp: free on 10.244.0.1" in log
    assert "W supervisor agent.supervisor.daemon: firewall: table inet mine drops" in log

    # pods start: runc, had it seen the socket, would wait for the container's own READY=1
    assert not [name for name in environment(int(str(service.children()["node"]["pid"]))) if "NOTIFY" in name]
    service.kubectl("run", "web", "--image=podwire/echo")
    service.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")

    service.said.clear()
    for _ in range(3):
        service.hear_until("WATCHDOG=1")
        service.said.clear()

    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)  # one that hangs is silent, so that the watchdog notices
    while service.hear(seconds=0.2):
        continue
    assert service.hear(seconds=3) == ""
    service.process.send_signal(signal.SIGCONT)
    service.hear_until("WATCHDOG=1")

    service.process.send_signal(signal.SIGTERM)
    service.hear_until("STOPPING=1")
    assert service.process.wait(30) == 0
    assert service.kubectl("get", "pods", check=False) != ""


def unit_capabilities() -> str:
    """What CapabilityBoundingSet= of the unit comes to, for setpriv(1)."""
    unit = (Path(__file__).parents[2] / "vagrant/podwire.service").read_text()
    lines = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for line in lines for name in line.split())])


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv(1) of util-linux")
def test_the_capabilities_of_the_unit_are_enough(service: Service, tmp_path: Path) -> None:
    """For a node, for a pod, and for a privileged one: it gets what the unit has."""
    service.start("setpriv", "--bounding-set", unit_capabilities(), "--inh-caps", "-all", "--")
    service.hear_until("READY=1")
    bounding = "grep CapBnd /proc/self/status"
    for name, privileged in (("plain", "false"), ("mighty", "true")):
        security = f'{{"securityContext":{{"privileged":{privileged}}}}}'
        container = f'{{"name":"{name}","image":"x","command":["sh","-c","{bounding}; sleep 1000"],{security[1:-1]}}}'
        overrides = f'--overrides={{"spec":{{"terminationGracePeriodSeconds":0,"containers":[{container}]}}}}'
        service.kubectl("run", name, "--image=x", "--restart=Never", overrides)
        service.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    plain, mighty = (bounding_set(service, name) for name in ("plain", "mighty"))
    assert plain < mighty
    assert not mighty & 1 << 16, "CAP_SYS_MODULE is nobody's"
    assert mighty & 1 << 12, "CAP_NET_ADMIN is a privileged container's"


def bounding_set(service: Service, pod: str) -> int:
    return int(eventually(lambda: service.kubectl("logs", pod)).split()[1], 16)
