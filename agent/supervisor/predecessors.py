"""Processes that a killed supervisor left behind.

They end by themselves, because the kernel tells them (see ``child``), but not at once. Until then they hold the API
server's port, and a kubelet among them may be making a pod. So whoever takes over a state directory waits for them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from agent.supervisor.child import GRACE

log = logging.getLogger(__name__)


def await_predecessors(config_file: Path, *, grace: float = GRACE) -> None:
    """Return when no child of an earlier supervisor of this node runs; one that stays longer than ``grace`` seconds is
    killed. Blocks.
    """
    deadline = time.monotonic() + grace
    for pid in find_children(config_file):
        with _pinned(pid) as handle:
            if handle is None or not _is_child(pid, config_file):
                continue
            if not _ended(handle, deadline - time.monotonic()):
                log.warning("process %d of an earlier podwire does not end: killed", pid)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, grace)


def find_children(config_file: Path) -> tuple[int, ...]:
    """The pids of this node's processes, whoever started them."""
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    return tuple(pid for pid in pids if _is_child(pid, config_file))


def _is_child(pid: int, config_file: Path) -> bool:
    """By its command line (``child.command``)."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return False
    if len(argv) != 6 or argv[3] != b"agent.supervisor.process":
        return False
    return Path(os.fsdecode(argv[5])).resolve() == config_file.resolve()


@contextlib.contextmanager
def _pinned(pid: int) -> Iterator[int | None]:
    """A pidfd: as long as it is open, nobody else is meant. None if the process is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _ended(handle: int, seconds: float) -> bool:
    """A pidfd is readable when its process has ended (pidfd_open(2))."""
    return bool(select.select([handle], [], [], max(0.0, seconds))[0])
