"""What a node's processes cost while nothing happens: CPU time (/proc/PID/stat) and memory (/proc/PID/smaps_rollup)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agent.config import Paths
from agent.supervisor.state import read_status
from benchmarks.tables import print_table
from tests.harness.node import Node

SECONDS = 20.0


def measure(node: Node) -> None:
    processes = pids(node)
    time.sleep(2)  # what went before has settled
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    time.sleep(SECONDS)
    rows = []
    for name, pid in processes.items():
        share = (cpu_seconds(pid) - before[name]) / SECONDS
        held = memory(pid)
        rows.append((name, f"{share:.2%}", f"{held['Rss'] / 1024:.0f} MiB", f"{held['Pss'] / 1024:.0f} MiB"))
    header = ("process", "CPU of one core", "resident", "proportional share")
    print_table(f"Processes of a node where nothing happens but two probes a second, over {SECONDS:g} s", header, rows)


def pids(node: Node) -> dict[str, int]:
    status = read_status(Paths(node.state_dir))
    assert status is not None
    return {"supervisor": status.pid, **{child.name: child.pid for child in status.children if child.pid}}


def cpu_seconds(pid: int) -> float:
    """User and system time (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, int]:
    """Kibibytes by name, ``Rss`` and ``Pss`` among them."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
