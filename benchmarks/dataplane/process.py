"""``podwire proxy`` as a process, fed by an API over HTTP: from a request to the connection that notices it, from
somebody's tampering to the repair, its starts, and its memory."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import footprint
from benchmarks.dataplane.network import Network
from benchmarks.dataplane.programming import Way
from benchmarks.dataplane.world import (
    NODE_NAME,
    POD_NETWORK,
    SERVICE_PORT,
    SLICES,
    Size,
    changed_endpoint,
    cluster_ip,
    endpoint_objects,
    endpoints_of,
    port_name,
    slice_name,
    spread,
)
from rules.iptables import names
from tests.harness.scripted_api import write_kubeconfig

PATIENCE = 300.0  # seconds for whatever should happen
QUIET = 0.3  # seconds between two changes, so that none waits for another


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the process, in KiB: proportional share, resident, and the most that was resident."""

    pss: int
    rss: int
    peak: int


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process until its rules are in place: seconds, and its own CPU time, without the programs
    it runs. ``memory`` is what it holds then."""

    pid: int
    seconds: float
    cpu: float
    memory: Memory


@dataclass(frozen=True, slots=True)
class Running:
    """``start`` on empty tables, ``restart`` on rules that another proxy left; ``memory`` after the changes.

    The others are seconds. ``changes``: a request changed an endpoint -> the new one answers. ``flushed``: somebody
    flushed a Service's chain -> it answers again; ``wiped``: the same, of the whole nat table.
    """

    start: Start
    restart: Start
    memory: Memory
    changes: Sequence[float]
    flushed: Sequence[float]
    wiped: float


def measure_process(
    network: Network, way: Way, size: Size, *, changes: int, flushes: int, tell: Callable[[str], None]
) -> Running:
    with tempfile.TemporaryDirectory(prefix="pwt-") as folder, _api(network, size) as port:
        kubeconfig = write_kubeconfig(Path(folder), f"http://127.0.0.1:{port}")
        command = _command(network, way, kubeconfig)
        tell("starting a proxy")
        with _proxy(command, Path(folder)) as start:
            tell("changing endpoints through the API")
            changed = [_change(network, port, size, number) for number in spread(size, changes)]
            memory = _measure_memory(start.pid)
            tell("tampering")
            flushed = [_flush(network, way, size, number) for number in spread(size, flushes)]
            wiped = _wipe(network, way, size)
        tell("starting a proxy again")
        with _proxy(command, Path(folder)) as restart:
            return Running(start, restart, memory, changed, flushed, wiped)


def _command(network: Network, way: Way, kubeconfig: Path) -> tuple[str, ...]:
    where = ("--kubeconfig", str(kubeconfig), "--node-name", NODE_NAME, "--node-netns", network.name("node"))
    program = (sys.executable, "-m", "agent.cli.main", "proxy")
    return (*program, *where, "--cluster-cidr", POD_NETWORK, *way.flags)


@contextmanager
def _api(network: Network, size: Size) -> Iterator[int]:
    argv = (sys.executable, "-m", "benchmarks.dataplane.api", network.name("node"))
    with subprocess.Popen((*argv, str(size.services), str(size.endpoints)), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            _stop(process)


@contextmanager
def _proxy(command: tuple[str, ...], folder: Path) -> Iterator[Start]:
    """Runs until the end of the block."""
    log = folder / "proxy.log"
    began = time.monotonic()
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the proxy did not start:\n{log.read_text()}")
            seconds = time.monotonic() - began
            yield Start(process.pid, seconds, footprint.cpu_seconds(process.pid), _measure_memory(process.pid))
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def _change(network: Network, port: int, size: Size, number: int) -> float:
    """Seconds from sending the PATCH that replaces one endpoint until a client is answered by the new one."""
    expected = changed_endpoint(number)
    addresses = [expected, *endpoints_of(number, size)[1:]]
    body = json.dumps({"endpoints": endpoint_objects(addresses)})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    network.inside("node", connection.connect)

    def send() -> float:
        time.sleep(QUIET)
        sent = time.monotonic()
        with contextlib.closing(connection):
            connection.request("PATCH", f"{SLICES}/{slice_name(number)}", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        return sent

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        return _answered(network, number, lambda who: who == expected) - sending.result()


def _flush(network: Network, way: Way, size: Size, number: int) -> float:
    chain = names.service_chain(port_name(number), "TCP")
    return _tamper(network, number, f"iptables-{way.variant}", "-w", "10", "-t", "nat", "-F", chain)


def _wipe(network: Network, way: Way, size: Size) -> float:
    return _tamper(network, size.services - 1, f"iptables-{way.variant}", "-w", "10", "-t", "nat", "-F")


def _tamper(network: Network, number: int, *argv: str) -> float:
    """Seconds from the end of a command that broke a Service until it answers again."""
    _answered(network, number, bool)
    time.sleep(QUIET)
    network.run(*argv)
    broken = time.monotonic()
    return _answered(network, number, bool) - broken


def _answered(network: Network, number: int, accept: Callable[[str], bool]) -> float:
    return network.wait_for(accept, cluster_ip(number), SERVICE_PORT, who="client", seconds=PATIENCE)


def _measure_memory(pid: int) -> Memory:
    shares, status = footprint.memory(pid), Path(f"/proc/{pid}/status").read_text().split()
    return Memory(shares["Pss"], shares["Rss"], int(status[status.index("VmHWM:") + 1]))
