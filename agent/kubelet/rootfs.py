"""The root file system of a container, as far as it must be made before runc starts (the rest is in ``bundle``)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from agent.kubelet.bundle import HostView, Launch, Mount
from agent.kubelet.images import TOOLS, HostRoot


def make_host_root(folder: Path, launch: Launch, rootfs: HostRoot, host: HostView) -> None:
    """The empty root that runc binds the host's folders into: links, the programs of a stand-in, and skeletons."""
    root = folder / "rootfs"
    for name, target in host.links:
        (root / name).symlink_to(target)
    (root / TOOLS.strip("/") / "bin").mkdir(parents=True)
    for name, argv in rootfs.programs:
        program = root / TOOLS.strip("/") / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
        program.chmod(0o755)
    for _, paths in host.skeletons:
        for path in paths:
            _make_mount_point(folder / "skeleton" / path.lstrip("/"), launch.mounts, path)


def _make_mount_point(place: Path, mounts: Sequence[Mount], path: str) -> None:
    file = any(m.kind == "bind" and Path(m.source).is_file() for m in mounts if os.path.realpath(m.destination) == path)
    (place.parent if file else place).mkdir(parents=True, exist_ok=True)
    if file:
        place.touch()


def in_overlay(lower: str, overlay: Path, argv: list[str]) -> list[str]:
    """``argv`` in a mount namespace of its own with the overlay in it. (sh gets paths as arguments: no quoting.)"""
    parts = {"lowerdir": lower, "upperdir": str(overlay / "upper"), "workdir": str(overlay / "work")}
    escaped = {name: path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for name, path in parts.items()}
    options = ",".join(f"{name}={path}" for name, path in escaped.items())
    script = 'mount -t overlay overlay -o "$1" "$2" && shift 2 && exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", script, "sh"]
    return [*prefix, options, str(overlay / "merged"), *argv]
