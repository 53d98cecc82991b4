"""What the kernel says about processes, cgroups and mounts: small readers of /proc and /sys/fs/cgroup.

A process id is reused, so nobody is signalled on the strength of a number in a file: a pidfd pins the process first.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def read_pid(file: Path) -> int | None:
    """The number in a pid file, or None if the file is missing or still empty."""
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def command_line(pid: int) -> tuple[str, ...]:
    """The argv of a process; () if there is none or if it is a zombie."""
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    except (FileNotFoundError, ProcessLookupError):
        return ()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), stat field 22), or None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def parent(pid: int) -> int | None:
    """The parent of a process, or None if it has ended (a zombie still has one)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def send(pid: int, signal_number: int) -> bool:
    """Send a signal; False if there is no such process."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


async def ended(pid: int, *, timeout: float | None = None) -> bool:
    """Wait until a process has ended (True), at most ``timeout`` seconds. Any process, not only a child:
    pidfd_open(2).
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        async with asyncio.timeout(timeout):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return True


def cgroups(path: str) -> Iterator[Path]:
    """The folders of a cgroup: one per hierarchy with cgroup v1 (or mixed), one with v2."""
    roots = (
        [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else [p for p in CGROUPS.iterdir() if not p.is_symlink()]
    )
    for root in roots:
        folder = root / path.strip("/")
        if folder.is_dir():
            yield folder


def members(path: str) -> tuple[int, ...]:
    """The processes in a cgroup."""
    files = [folder / "cgroup.procs" for folder in cgroups(path)]
    return tuple(sorted({int(pid) for file in files if file.exists() for pid in file.read_text().split()}))


def remove_cgroups(path: str, *, patience: float = 2.0) -> None:
    """Remove a cgroup and what is in it from every hierarchy. Processes that were killed take a moment to be gone; one
    that is still populated after ``patience`` (seconds) stays. Blocks."""
    deadline = time.monotonic() + patience
    for top in cgroups(path):
        for folder, _, _ in os.walk(top, topdown=False):
            while not _remove_cgroup(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def remove_empty_cgroup(path: str) -> None:
    """Remove a cgroup that has neither processes nor children."""
    for folder in cgroups(path):
        _remove_cgroup(folder)


def _remove_cgroup(folder: str | Path) -> bool:
    """Whether it is gone."""
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
            raise
        return error.errno == errno.ENOENT
    return True


def oom_kills(path: str) -> int:
    """How often the OOM killer struck in a cgroup: memory.events (v2) or memory.oom_control (v1, since 4.13)."""
    counted = 0
    for folder in cgroups(path):
        for name in ("memory.events", "memory.oom_control"):
            if (folder / name).exists():
                counts = dict(line.split() for line in (folder / name).read_text().splitlines())
                counted += int(counts.get("oom_kill", 0))
    return counted


def mounts_below(folder: Path) -> list[str]:
    """The mount points of this mount namespace at or below ``folder``."""
    prefix = str(folder.resolve())
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == prefix or point.startswith(prefix + "/")]


def remove_tree(folder: Path) -> None:
    """``rm -r``, unless something is mounted in it: what is mounted there may be somebody's data."""
    mounted = mounts_below(folder)
    if mounted:
        raise OSError(
            errno.EBUSY, f"not removing it while something is mounted there ({', '.join(mounted)})", str(folder)
        )
    shutil.rmtree(folder)
