"""What runc is told: from a ``Launch`` to an OCI bundle (config.json), as a pure function of frozen values.

**Root file systems.** A ``Folder`` image gets an overlay, made by ``containers`` before runc starts. A ``HostRoot``
image gets an *empty* folder as its root, into which runc binds the host's top-level folders read-only: all those mounts
live and die with the container's own mount namespace, so that nothing can leak into the host's. ``/tmp``, ``/run``,
``/dev`` are fresh. Only each folder's own file system is bound, not what is mounted below it, and podwire's state
(keys, tokens) is masked. Everything else that the host's root may read, such a container may read too: it is for
programs one trusts.

A volume may be wanted where the host has nothing (``/etc/config``). A mount point cannot be made in a read-only bind,
so that top-level folder becomes a read-only overlay of two layers instead: a *skeleton* that holds only the mount
point, over the host's folder (Documentation/filesystems/overlayfs.rst, "Multiple lower layers").

**Namespaces.** The network namespace is the pod's; process, IPC, host name and mount namespaces are the container's
own. There is no cgroup mount: runc 1.1 cannot make one where cgroup v1 and v2 are mixed, and nothing here needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from agent.kubelet.images import STANDINS, TOOLS, HostRoot, Image

# Never taken from the host: the kernel's own, and what must be fresh.
FRESH = frozenset({"proc", "sys", "dev", "tmp", "run", "lost+found", TOOLS.strip("/")})

# What containerd and Docker leave a container by default (oci/spec.go, defaultUnixCaps).
DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
# By number, from CAP_CHOWN = 0 on (linux/capability.h).
ALL_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Mount:
    """``source`` (of the host) at ``destination`` (in the container). ``kind`` other than bind: tmpfs, with
    ``options``.
    """

    source: str
    destination: str
    read_only: bool = True
    kind: str = "bind"
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """One container to start. ``id`` is unique for ever (pod UID, container and attempt make a good one).

    ``netns_path`` is the pod's namespace, or "" for the node's own (hostNetwork). ``log_path`` is written in the
    Kubernetes log format. ``memory_limit`` is in bytes, ``cpu_limit`` and ``cpu_request`` in thousandths of a CPU.
    ``sandbox``: the id of the sandbox that it is started in.
    """

    id: str
    pod_uid: str
    namespace: str
    pod: str
    container: str
    attempt: int
    image: Image
    argv: tuple[str, ...]
    log_path: Path
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    hostname: str = ""
    netns_path: str = ""
    mounts: tuple[Mount, ...] = ()
    user: int = 0
    group: int = 0
    groups: tuple[int, ...] = ()
    capabilities_add: tuple[str, ...] = ()
    capabilities_drop: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    tty: bool = False
    stdin: bool = False
    grace_seconds: float = 30.0
    memory_limit: int | None = None
    cpu_limit: int | None = None
    cpu_request: int | None = None
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class HostView:
    """What was found at the host's root: top-level ``folders``, ``links`` (name, target), and for each top-level folder
    the mount points that it lacks (``skeletons``: (folder, (paths of folders or files that must be made)))."""

    folders: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    skeletons: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where a bundle lies: ``rootfs`` as runc sees it, ``skeleton`` with one folder per overlaid top-level folder.

    ``capabilities``: what podwire can hand on, in kernel spelling; None: all there are.
    """

    rootfs: str
    skeleton: str
    cgroup: str
    masked: tuple[str, ...] = field(default=())
    capabilities: frozenset[str] | None = None


def observe_host(mounts: Iterable[Mount], root: str = "/") -> HostView:
    """Read the host's top level, and which of the wanted mount points it lacks."""
    folders, links, lacking = [], [], dict[str, list[str]]()
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.name in FRESH:
            continue
        if entry.is_symlink():
            links.append((entry.name, os.readlink(entry.path)))
        elif entry.is_dir():
            folders.append(entry.name)
    for mount in mounts:
        real = os.path.realpath(os.path.join(root, mount.destination.lstrip("/")))
        top = PurePosixPath(real).relative_to(root).parts[0]
        if top in folders and not os.path.exists(real):
            lacking.setdefault(top, []).append("/" + str(PurePosixPath(real).relative_to(root)))
    return HostView(tuple(folders), tuple(links), tuple((top, tuple(paths)) for top, paths in lacking.items()))


def lower_config(launch: Launch, bundle: Bundle, host: HostView) -> dict[str, Any]:
    """The config.json of a container (opencontainers/runtime-spec 1.0.2)."""
    on_host = isinstance(launch.image.rootfs, HostRoot)
    return {
        "ociVersion": "1.0.2",
        "process": _process(launch, bundle),
        "root": {"path": bundle.rootfs, "readonly": on_host or launch.read_only_root},
        "hostname": launch.hostname,
        "mounts": [
            *_kernel_mounts(launch),
            *(_host_mounts(bundle, host) if on_host else ()),
            *(_mount(mount) for mount in sorted(launch.mounts, key=_depth)),
        ],
        "linux": {
            "namespaces": _namespaces(launch),
            "cgroupsPath": bundle.cgroup,
            "resources": _resources(launch),
            "maskedPaths": [*bundle.masked, *(() if launch.privileged else _MASKED)],
            "readonlyPaths": [] if launch.privileged else list(_READ_ONLY),
        },
    }


def lower_exec(
    process: dict[str, Any], argv: Iterable[str], *, tty: bool, env: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """The process of ``runc exec``: the container's own, with another command and more environment."""
    extra = [f"{name}={value}" for name, value in env]
    if tty:
        extra.append("TERM=xterm")
    return {**process, "args": list(argv), "terminal": tty, "env": [*process["env"], *extra]}


def resolve_capabilities(launch: Launch) -> tuple[str, ...]:
    """CAP_ names in kernel spelling: all if privileged, else the defaults, plus ``add``, minus ``drop`` (``ALL``
    works in both).
    """
    add, drop = ({_bare(name) for name in names} for names in (launch.capabilities_add, launch.capabilities_drop))
    if launch.privileged:
        return tuple(f"CAP_{name}" for name in sorted(ALL_CAPABILITIES))
    base = set(ALL_CAPABILITIES) if "ALL" in add else set() if "ALL" in drop else set(DEFAULT_CAPABILITIES)
    kept = (base | (add & set(ALL_CAPABILITIES))) - drop
    return tuple(f"CAP_{name}" for name in sorted(kept))


def _bare(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _depth(mount: Mount) -> int:
    """Parents before children: a volume at /data must not hide one at /data/logs."""
    return len(PurePosixPath(mount.destination).parts)


def parse_bounding_set(status: str) -> frozenset[str]:
    """The capabilities that a process can hand on, from its /proc/PID/status (proc(5), CapBnd)."""
    line = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    mask = int(line.split()[1], 16)
    return frozenset(f"CAP_{name}" for number, name in enumerate(ALL_CAPABILITIES) if mask >> number & 1)


def _process(launch: Launch, bundle: Bundle) -> dict[str, Any]:
    """A unit's CapabilityBoundingSet= bounds privileged containers too; to ask runc for more would be refused."""
    wanted = resolve_capabilities(launch)
    held = [name for name in wanted if bundle.capabilities is None or name in bundle.capabilities]
    # As upstream, a user other than root holds them in the bounding set only.
    root = held if launch.user == 0 else []
    return {
        "terminal": launch.tty,
        "user": {"uid": launch.user, "gid": launch.group, "additionalGids": list(launch.groups)},
        "args": list(launch.argv),
        "env": [f"{name}={value}" for name, value in launch.env],
        "cwd": launch.cwd or "/",
        "capabilities": {"bounding": held, "effective": root, "permitted": root},
        "noNewPrivileges": launch.no_new_privileges,
        "oomScoreAdj": 0,
    }


def _namespaces(launch: Launch) -> list[dict[str, str]]:
    own = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    return [*own, {"type": "network", "path": launch.netns_path}] if launch.netns_path else own


def _kernel_mounts(launch: Launch) -> list[dict[str, Any]]:
    def mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": kind, "options": list(options)}

    return [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "rw" if launch.privileged else "ro"),
    ]


def _host_mounts(bundle: Bundle, host: HostView) -> list[dict[str, Any]]:
    def fresh(destination: str, mode: str) -> dict[str, Any]:
        return {
            "destination": destination,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", f"mode={mode}"],
        }

    lacking = {top for top, _ in host.skeletons}
    return [
        *(_overlay(bundle, top) if top in lacking else _mount(Mount(f"/{top}", f"/{top}")) for top in host.folders),
        fresh("/tmp", "1777"),
        fresh("/run", "755"),
        _mount(Mount(str(STANDINS), f"{TOOLS}/standins")),
    ]


def _overlay(bundle: Bundle, top: str) -> dict[str, Any]:
    upper = f"{bundle.skeleton}/{top}".replace("\\", "\\\\").replace(":", "\\:")
    options = ["ro", "nosuid", "nodev", f"lowerdir={upper}:/{top}"]
    return {"destination": f"/{top}", "type": "overlay", "source": "overlay", "options": options}


def _mount(mount: Mount) -> dict[str, Any]:
    mode = "ro" if mount.read_only else "rw"
    how = ("bind", "rprivate") if mount.kind == "bind" else ()
    options = [*how, mode, *mount.options]
    return {"destination": mount.destination, "type": mount.kind, "source": mount.source, "options": options}


def _resources(launch: Launch) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": launch.privileged, "access": "rwm"}]}
    if launch.memory_limit:
        resources["memory"] = {"limit": launch.memory_limit}
    cpu: dict[str, int] = {}
    if launch.cpu_limit:  # CFS: quota microseconds in each period of 100 ms
        cpu |= {"period": 100_000, "quota": max(1000, launch.cpu_limit * 100)}
    if launch.cpu_request:
        cpu["shares"] = max(2, launch.cpu_request * 1024 // 1000)
    return resources | ({"cpu": cpu} if cpu else {})
