"""What the supervisor tells other commands: one small JSON file, and a lock that says whether it runs.

The lock is ``flock`` on ``<run-dir>/lock``: the kernel releases it however the supervisor dies, so a stale file is
never mistaken for a running node. The file holds the supervisor's pid, for people and for ``podwire down``.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from agent.config import Paths

ChildState = Literal["starting", "ready", "waiting", "stopped"]


class SupervisorError(Exception):
    """The node cannot be started or stopped; the message says what is in the way and what to do."""


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """``since``: seconds since the epoch at which ``state`` began. ``why``: how the last run ended, if it ended."""

    name: str
    state: ChildState
    pid: int | None
    restarts: int
    since: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """``unit``: the systemd service that the supervisor is the main process of; empty if it was started by hand."""

    pid: int
    node_name: str
    node_ip: str
    node_netns: str | None
    kubeconfig: str
    started: float
    children: tuple[ChildStatus, ...] = ()
    unit: str = ""

    @property
    def ready(self) -> bool:
        return bool(self.children) and all(child.state == "ready" for child in self.children)

    def __str__(self) -> str:
        """In one line, for ``systemctl status``: what runs, or what does not and why."""
        missing = [child for child in self.children if child.state != "ready"]
        if not missing:
            return f"node {self.node_name} ({self.node_ip}) is ready"
        states = (f"{child.name} {child.state}{f' ({child.why})' if child.why else ''}" for child in missing)
        return f"node {self.node_name} ({self.node_ip}): {'; '.join(states)}"


def write_status(paths: Paths, status: NodeStatus) -> None:
    target = paths.run_dir / "status.json"
    temporary = target.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(status))
    temporary.replace(target)


def read_status(paths: Paths) -> NodeStatus | None:
    """The node's status, or None where no supervisor runs, or where it has said nothing yet (whatever an earlier one
    left behind).
    """
    pid = running_pid(paths)
    if pid is None:
        return None
    try:
        status = msgspec.json.decode((paths.run_dir / "status.json").read_bytes(), type=NodeStatus)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return status if status.pid == pid else None


class Lock:
    """Held by the supervisor for as long as it lives."""

    def __init__(self, paths: Paths) -> None:
        paths.run_dir.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(_lock_file(paths), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._fd, 32).decode().strip()
            os.close(self._fd)
            raise SupervisorError(
                f"cannot start: podwire already runs with the state directory {paths.state_dir} (pid {pid}); "
                "stop it with 'podwire down', or choose another --state-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._fd)


def running_pid(paths: Paths) -> int | None:
    """The pid of the supervisor that holds the lock, or None."""
    try:
        descriptor = os.open(_lock_file(paths), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32).decode().strip()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)


def _lock_file(paths: Paths) -> Path:
    return paths.run_dir / "lock"
