"""What a root test must not leave behind: namespaces, links, mounts, cgroups, processes.

Every process started by this test run, however it detaches itself, carries a mark in its environment; so one that is
still there afterwards is found, whatever it is called. The rest is compared before and after. Things may take a moment
to go (a process that was told to end, a namespace that its last process still holds), hence the patience.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

MARK = "PODWIRE_TEST_RUN"
os.environ.setdefault(MARK, f"{os.getpid()}-{time.time_ns()}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    namespaces: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    processes: frozenset[str] = frozenset()

    def __sub__(self, other: Snapshot) -> Snapshot:
        return Snapshot(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        found = {f.name: sorted(getattr(self, f.name)) for f in fields(self) if getattr(self, f.name)}
        return "\n".join(f"{name}:\n  " + "\n  ".join(values) for name, values in found.items())


def take_snapshot(*, tag: str = "") -> Snapshot:
    """What there is now, as far as podwire and its tests could have made it.

    ``tag``: of namespaces and cgroups, only those with this in their name: for tests that name all they make and may so
    run beside other nodes.
    """
    cgroups = (str(path) for path in Path("/sys/fs/cgroup").glob("*/podwire*") if tag in path.name)
    v2 = (str(path) for path in Path("/sys/fs/cgroup").glob("podwire*") if tag in path.name)
    return Snapshot(
        namespaces=frozenset(name for name in _namespaces() if tag in name),
        links=frozenset(name for _, name in socket.if_nameindex()),
        mounts=frozenset(_mounts()),
        cgroups=frozenset((*cgroups, *v2)),
        processes=frozenset(_processes()),
    )


@contextlib.contextmanager
def assert_no_leaks(*, tag: str = "", patience: float = 15.0) -> Iterator[None]:
    """Whatever the block made must be gone at its end, or soon after (``patience``: seconds). ``tag``: see above."""
    before = take_snapshot(tag=tag)
    yield
    deadline = time.monotonic() + patience
    while left := take_snapshot(tag=tag) - before:
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind:\n{left}")
        time.sleep(0.05)


def _namespaces() -> list[str]:
    folder = Path("/run/netns")
    return [name for name in os.listdir(folder) if name.startswith(("pwt-", "podwire"))] if folder.is_dir() else []


def _mounts() -> Iterator[str]:
    """Mount points, but for the handles of namespaces (looked at by name) and the folder in which they lie."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if not (point + "/").startswith("/run/netns/"):
            yield point


def _processes() -> Iterator[str]:
    mark = f"{MARK}={os.environ[MARK]}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            state, parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            zombie = state == b"Z" and int(parent) == os.getpid()
            if zombie or mark in (folder / "environ").read_bytes().split(b"\0"):
                argv = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{folder.name} {'(zombie)' if zombie else argv}"
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is somebody else's
