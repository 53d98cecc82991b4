"""Containers: runc under conmon, so that they outlive podwire and can be adopted again.

``start`` writes an OCI bundle and runs conmon, which forks away from podwire (a session of its own, a child of init),
has runc create the container, copies its output to the log file in Kubernetes' format, and notes its exit code. podwire
keeps nothing in memory: what is true is read from disk and ``/proc`` each time, so a fresh ``Runtime`` after a restart
or a ``kill -9`` sees the same containers. One folder per container, ``<root>/<id>``::

    launch.json      what was asked for; without it the folder is rubbish from a start that was cut short
    config.json      the OCI bundle, with rootfs/ (mount points only), skeleton/, overlay/ beside it
    conmon.pid, pid  written by conmon; pid's date is the container's start
    exit/<id>        the exit code, written by conmon just before it ends; its date is the container's end
    interrupted      there if the container was stopped with its work unfinished (the machine shut down, ...)

A process id alone proves nothing, ids are used again: conmon is recognised by its command line (``-c <id>``), the
container's first process by the start time that runc recorded. Waiting is a pidfd on conmon, so nothing is polled.

The overlay of a ``Folder`` image is mounted in a mount namespace that only conmon lives in (``unshare --mount``): it is
never visible on the host, and is gone with conmon, whatever dies first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent import shell
from agent.kubelet import conmon, procfs
from agent.kubelet.bundle import (
    Bundle,
    HostView,
    Launch,
    Mount,
    lower_config,
    lower_exec,
    observe_host,
    parse_bounding_set,
)
from agent.kubelet.execution import ExecFiles, ExecProcess, exec_pipes, exec_tty
from agent.kubelet.images import Folder, HostRoot
from agent.kubelet.rootfs import in_overlay, make_host_root

__all__ = ["Container", "ContainerError", "ExecProcess", "Launch", "Mount", "Runtime"]

log = logging.getLogger(__name__)

UNKNOWN_EXIT_CODE = 137  # what kubelet assumes of a container that vanished


class ContainerError(Exception):
    """``reason`` is what a container's status shows (StartError, NotFound, ...); the message says what and why."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Container:
    """What became of a Launch. Times are seconds since the epoch.

    ``reason``: "" while running, else Completed, Error, OOMKilled, StartError (podwire died while starting it), or
    ContainerStatusUnknown (it vanished without an exit code, for instance with a reboot). ``interrupted``: it
    exited, but was stopped with its work unfinished (``Runtime.note_interruption``). ``sandbox``: the id of that in
    which it was started.
    """

    id: str
    pod_uid: str
    namespace: str
    pod: str
    container: str
    attempt: int
    state: Literal["running", "exited"]
    pid: int | None
    started_at: float
    finished_at: float | None
    exit_code: int | None
    reason: str
    message: str
    log_path: Path
    interrupted: bool = False
    sandbox: str = ""


Containers = tuple[Container, ...]  # names for types that Runtime.list would hide inside the class
Names = tuple[str, ...]


class Runtime:
    """All containers of one node. ``root`` survives a reboot, ``run_dir`` need not; neither may hold anything else.

    ``state_dir_to_mask`` is hidden from containers that run on the host's root: it holds keys and tokens.
    """

    def __init__(
        self, root: Path, run_dir: Path, *, state_dir_to_mask: Path | None = None, cgroup_parent: str = "podwire"
    ) -> None:
        self._root, self._runc_root, self._attach = root, run_dir / "runc", run_dir / "attach"
        self._masked = (str(state_dir_to_mask.resolve()),) if state_dir_to_mask else ()
        self._cgroup_parent = cgroup_parent
        self._starting = set[str]()
        self._execs = 0

    # --- starting -----------------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> Container:
        """Start a container and return it running. Raises ContainerError, and then leaves nothing of it behind."""
        folder = self._folder(launch.id)
        if (folder / "launch.json").exists() or launch.id in self._starting:
            raise _start_error(launch, f"there is a container {launch.id} already; remove it first")
        self._starting.add(launch.id)
        try:
            await asyncio.to_thread(self._prepare, launch, folder)
            await self._create(launch, folder)
            await asyncio.to_thread(self._runc, "start", launch.id)
        except (ContainerError, shell.CommandError, OSError) as error:
            with contextlib.suppress(ContainerError):  # the first error is the one to tell
                await self._discard(launch.id)
            raise _translate(launch, error) from error
        finally:
            self._starting.discard(launch.id)
        return _require(await asyncio.to_thread(self._observe, launch.id), launch.id)

    def _prepare(self, launch: Launch, folder: Path) -> None:
        if folder.exists():
            procfs.remove_tree(folder)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)  # the bundles hold the values of secrets
        for path in (folder / "rootfs", folder / "exit", self._attach, self._runc_root, launch.log_path.parent):
            path.mkdir(parents=True, exist_ok=True)
        host = HostView()
        if isinstance(launch.image.rootfs, HostRoot):
            host = observe_host(launch.mounts)
            make_host_root(folder, launch, launch.image.rootfs, host)
        else:
            if not Path(launch.image.rootfs.path).is_dir():
                raise _start_error(launch, f"the image's folder {launch.image.rootfs.path} does not exist")
            for name in ("upper", "work", "merged"):
                (folder / "overlay" / name).mkdir(parents=True)
        config = lower_config(launch, self._bundle(launch, folder), host)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "launch.json").write_bytes(msgspec.json.encode(launch, enc_hook=str))

    def _bundle(self, launch: Launch, folder: Path) -> Bundle:
        rootfs = folder / ("overlay/merged" if isinstance(launch.image.rootfs, Folder) else "rootfs")
        return Bundle(
            rootfs=str(rootfs),
            skeleton=str(folder / "skeleton"),
            cgroup=f"/{self._cgroup_parent}/{launch.id}",
            masked=self._masked if isinstance(launch.image.rootfs, HostRoot) else (),
            capabilities=parse_bounding_set(Path("/proc/self/status").read_text()),
        )

    async def _create(self, launch: Launch, folder: Path) -> None:
        """Run conmon; return when runc has created the container. conmon reports through the pipe _OCI_SYNCPIPE.

        Its current directory is the bundle: that is where it leaves a file ``oom`` when memory runs out (conmon's
        src/oom.c knows no other place).
        """
        reader, writer = os.pipe()
        messages = os.open(folder / "conmon.log", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        env = {**os.environ, "_OCI_SYNCPIPE": str(writer)}
        try:
            process = await shell.spawn(
                self._command(launch, folder), stderr=messages, env=env, cwd=folder, pass_fds=[writer]
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(messages)
        reply = await conmon.read_reply(reader)
        await process.wait()  # conmon proper is its grandchild, and is init's
        if reply.get("data", reply.get("pid", -1)) <= 0:
            said = reply.get("message") or (folder / "conmon.log").read_text(errors="replace")
            raise _start_error(launch, said or "conmon ended without a word")

    def _command(self, launch: Launch, folder: Path) -> Sequence[str]:
        argv = conmon.command(launch, folder, runc_root=self._runc_root, attach=self._attach)
        if isinstance(launch.image.rootfs, Folder):
            return in_overlay(launch.image.rootfs.path, folder / "overlay", argv)
        return argv

    # --- seeing -------------------------------------------------------------------------------------------------------

    async def list(self) -> Containers:
        """Every container that was started and not removed, also by an earlier podwire; oldest first."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> Containers:
        found = [self._observe(container_id) for container_id in self._ids()]
        return tuple(sorted((c for c in found if c is not None), key=lambda c: (c.started_at, c.id)))

    def _ids(self) -> Names:
        return _names(self._root)

    def _observe(self, container_id: str) -> Container | None:
        folder = self._folder(container_id)
        if container_id in self._starting:
            return None
        try:
            launch = msgspec.json.decode((folder / "launch.json").read_bytes(), type=Launch, dec_hook=_decode)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        # conmon writes the exit code and then ends, so the order matters: exit code, conmon, and the exit code again.
        ended = self._read_exit(folder)
        if ended is None:
            pid = self._alive(container_id, folder)
            if pid is not None:
                return _container(launch, "running", _date(folder / "pid", folder), pid=pid)
            ended = self._read_exit(folder)
        return self._exited(launch, folder, ended)

    def _exited(self, launch: Launch, folder: Path, ended: tuple[int, float] | None) -> Container:
        started = _date(folder / "pid", folder)
        if self._unstarted(launch.id):
            message = "podwire stopped while it was starting the container"
            return _container(
                launch, "exited", started, finished=started, code=128, reason="StartError", message=message
            )
        if ended is None:
            message = "the container vanished without an exit code (reboot, or its conmon was killed)"
            code, now = UNKNOWN_EXIT_CODE, time.time()
            return _container(
                launch, "exited", started, finished=now, code=code, reason="ContainerStatusUnknown", message=message
            )
        code, finished = ended
        killed = procfs.oom_kills(f"{self._cgroup_parent}/{launch.id}") > 0
        reason = "Completed" if code == 0 else "OOMKilled" if killed and code == 137 else "Error"
        made = _container(launch, "exited", started, finished=finished, code=code, reason=reason)
        return replace(made, interrupted=(folder / "interrupted").exists())

    def _unstarted(self, container_id: str) -> bool:
        """Created, but whoever was to start it is gone: runc keeps this fifo until ``runc start`` opens it."""
        return (self._runc_root / container_id / "exec.fifo").exists()

    def _read_exit(self, folder: Path) -> tuple[int, float] | None:
        file = folder / "exit" / folder.name
        try:
            return int(file.read_text()), file.stat().st_mtime
        except (FileNotFoundError, ValueError):  # not there, or not yet written
            return None

    def _alive(self, container_id: str, folder: Path) -> int | None:
        """The container's first process if it runs."""
        if self._unstarted(container_id):
            return None
        pid = procfs.read_pid(folder / "pid")
        if pid is not None and conmon.runs_for(procfs.read_pid(folder / "conmon.pid"), container_id):
            return pid
        return self._orphan(container_id)

    def _orphan(self, container_id: str) -> int | None:
        """The first process of a container whose conmon was killed, proved by the start time that runc recorded."""
        try:
            state = json.loads((self._runc_root / container_id / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        pid = int(state["init_process_pid"])
        return pid if procfs.start_time(pid) == int(state["init_process_start"]) else None

    async def wait(self, container_id: str) -> Container:
        """The container when it has exited. Any number may wait. Raises ContainerError (NotFound)."""
        while True:
            container = _require(await asyncio.to_thread(self._observe, container_id), container_id)
            if container.state == "exited":
                return container
            monitor = procfs.read_pid(self._folder(container_id) / "conmon.pid")
            watched = monitor if conmon.runs_for(monitor, container_id) else container.pid
            assert watched is not None
            await procfs.ended(watched)

    # --- ending -------------------------------------------------------------------------------------------------------

    async def kill(self, container_id: str, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal to the container's first process; nothing happens if it does not run."""
        await asyncio.to_thread(self._kill, container_id, signal_number)

    def _kill(self, container_id: str, signal_number: int) -> None:
        container = self._observe(container_id)
        if container is None or container.pid is None:
            return
        try:
            pidfd = os.pidfd_open(container.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor pins the process; the container is looked at again so that it is the right one.
            again = self._observe(container_id)
            if again is not None and again.pid == container.pid:
                signal.pidfd_send_signal(pidfd, signal_number)
        except ProcessLookupError:
            return
        finally:
            os.close(pidfd)

    async def note_interruption(self, container_id: str) -> None:
        """Remember, across a reboot, that a container which still runs is now stopped with its work unfinished. Nothing
        happens if it does not run.
        """
        await asyncio.to_thread(self._note_interruption, container_id)

    def _note_interruption(self, container_id: str) -> None:
        container = self._observe(container_id)
        if container is not None and container.state == "running":
            (self._folder(container_id) / "interrupted").touch()

    async def remove(self, container_id: str) -> None:
        """Kill the container if it runs, and remove all of it but its log file. Nothing happens if there is none."""
        container = await asyncio.to_thread(self._observe, container_id)
        if container is not None and container.state == "running":
            await self.kill(container_id, signal.SIGKILL)
            await self.wait(container_id)
        await self._discard(container_id)

    async def _discard(self, container_id: str) -> None:
        folder = self._folder(container_id)
        if not self._is_readable(container_id):
            await asyncio.to_thread(self._delete_unread, container_id)
        elif (self._runc_root / container_id).exists():
            try:
                await asyncio.to_thread(self._runc, "delete", "--force", container_id)
            except shell.CommandError as error:
                raise ContainerError("RemoveError", f"cannot remove container {container_id}: {error}") from error
        monitor = procfs.read_pid(folder / "conmon.pid")
        if monitor is not None and conmon.runs_for(monitor, container_id):
            await procfs.ended(monitor, timeout=5.0)
            if conmon.runs_for(monitor, container_id):
                procfs.send(monitor, signal.SIGKILL)
                await procfs.ended(monitor)
        await asyncio.to_thread(self._erase, container_id, folder)

    def _is_readable(self, container_id: str) -> bool:
        try:
            json.loads((self._runc_root / container_id / "state.json").read_bytes())
        except FileNotFoundError:
            return True
        except ValueError:
            return False
        return True

    def _delete_unread(self, container_id: str) -> None:
        """``runc delete`` for a container whose record runc itself could not read: its processes are in its cgroup."""
        for pid in procfs.members(f"{self._cgroup_parent}/{container_id}"):
            procfs.send(pid, signal.SIGKILL)
        procfs.remove_tree(self._runc_root / container_id)

    def _erase(self, container_id: str, folder: Path) -> None:
        (self._attach / container_id).unlink(missing_ok=True)  # conmon's link to the bundle
        if folder.exists():
            procfs.remove_tree(folder)
        procfs.remove_cgroups(f"{self._cgroup_parent}/{container_id}")

    async def remove_remains(self) -> None:
        """Kill and remove what has no readable launch.json: a start that was cut short, a damaged folder. Nobody would
        adopt it, but it may run, and hold a port. For a start of podwire: nothing may be starting.
        """
        for container_id in await asyncio.to_thread(self._everything):
            if await asyncio.to_thread(self._observe, container_id) is not None:
                continue
            log.warning("container %s has no record (any more); it is removed", container_id)
            try:
                await self._discard(container_id)
            except (ContainerError, OSError) as error:
                log.warning("container %s has no record and cannot be removed: %s", container_id, error)

    async def clean(self) -> None:
        """Kill and remove every container under ``root``: no process, cgroup or mount remains. Log files stay."""
        problems = []
        for container_id in await asyncio.to_thread(self._everything):
            try:
                await self.remove(container_id)
            except (ContainerError, OSError) as error:
                problems.append(str(error))
        if problems:  # told when all others have had their turn
            raise ContainerError("RemoveError", "; ".join(problems))
        await asyncio.to_thread(procfs.remove_empty_cgroup, self._cgroup_parent)  # another node may be using it

    def _everything(self) -> Names:
        return tuple(sorted({*self._ids(), *_names(self._runc_root)}))

    # --- exec ---------------------------------------------------------------------------------------------------------

    async def exec(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        tty: bool = False,
        stdin: bool = False,
        env: Iterable[tuple[str, str]] = (),
    ) -> ExecProcess:
        """Run a command in a running container. The caller reads its output to the end and awaits ``wait``, or
        ``kill``.
        """
        container = _require(await asyncio.to_thread(self._observe, container_id), container_id)
        if container.state != "running":
            raise ContainerError("NotRunning", f"cannot exec in container {container_id}: it has exited")
        folder = self._folder(container_id)
        process = json.loads((folder / "config.json").read_bytes())["process"]
        self._execs += 1
        files = ExecFiles(folder / f"exec-{os.getpid()}-{self._execs}")
        files.spec.write_text(json.dumps(lower_exec(process, argv, tty=tty, env=env)))
        command = files.command(["runc", "--root", str(self._runc_root)], container_id)
        try:
            return await (exec_tty(command, files) if tty else exec_pipes(command, files, stdin=stdin))
        except shell.CommandError as error:
            files.remove()
            raise ContainerError("ExecError", f"cannot exec in container {container_id}: {error}") from error

    # --- small things -------------------------------------------------------------------------------------------------

    def _folder(self, container_id: str) -> Path:
        if not container_id or "/" in container_id or container_id in (".", ".."):
            raise ContainerError("NotFound", f"no container can be called {container_id!r}")
        return self._root / container_id

    def _runc(self, *argv: str) -> bytes:
        return shell.run(["runc", "--root", str(self._runc_root), *argv])


# --- files and values -------------------------------------------------------------------------------------------------


def _require(container: Container | None, container_id: str) -> Container:
    if container is None:
        raise ContainerError("NotFound", f"there is no container {container_id}")
    return container


def _translate(launch: Launch, error: Exception) -> ContainerError:
    if isinstance(error, ContainerError):
        return error
    return _start_error(launch, error.output if isinstance(error, shell.CommandError) else str(error))


def _start_error(launch: Launch, said: str) -> ContainerError:
    """What matters of what conmon and runc say is runc's last message (``level=error msg="..."``), if it came that
    far.
    """
    messages = re.findall(r'msg=("(?:[^"\\]|\\.)*")', said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = json.loads(messages[-1]) if messages else "; ".join(lines)[:1000]
    what = f"{launch.container} of pod {launch.namespace}/{launch.pod}"
    return ContainerError("StartError", f"cannot start container {what}: {why}")


def _container(
    launch: Launch,
    state: Literal["running", "exited"],
    started: float,
    *,
    pid: int | None = None,
    finished: float | None = None,
    code: int | None = None,
    reason: str = "",
    message: str = "",
) -> Container:
    return Container(
        id=launch.id,
        pod_uid=launch.pod_uid,
        namespace=launch.namespace,
        pod=launch.pod,
        container=launch.container,
        attempt=launch.attempt,
        state=state,
        pid=pid,
        started_at=started,
        finished_at=finished,
        exit_code=code,
        reason=reason,
        message=message,
        log_path=launch.log_path,
        sandbox=launch.sandbox,
    )


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())) if folder.is_dir() else ()


def _date(file: Path, otherwise: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return otherwise.stat().st_mtime
