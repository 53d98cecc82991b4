"""Volumes: what files a pod sees besides its image.

``resolve_volumes`` and ``resolve_mounts`` decide (pure); ``ensure_volume`` writes to the disk. Each volume of a pod is
one folder, ``<pod folder>/volumes/<name>``, bound into the containers; a hostPath is the host's own path. ConfigMap,
Secret, downward API and projected volumes are written the way upstream's atomic writer does it: a new hidden folder,
then the link ``..data`` is turned to it by rename, so that a reader sees all of the old content or all of the new::

    config/..2024_1/key      the content
    config/..data -> ..2024_1
    config/key -> ..data/key

An emptyDir with ``medium: Memory`` is an ordinary folder: a tmpfs would be one more mount that could leak.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agent.kubelet.containers import Mount
from agent.kubelet.environment import (
    ContainerConfigError,
    Facts,
    Sources,
    expand,
    resolve_field,
    resolve_resource,
)
from agent.kubelet.spec import (
    ConfigMapVolume,
    ContainerSpec,
    DownwardVolume,
    KeyToPath,
    Pod,
    Projection,
    SecretVolume,
    Volume,
)

DEFAULT_MODE = 0o644
DATA = "..data"


class VolumeError(Exception):
    """A volume cannot be had; ``volume`` is its name, the message says why. Told as the Event FailedMount."""

    def __init__(self, volume: str, message: str) -> None:
        self.volume = volume
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {message}')


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = DEFAULT_MODE


@dataclass(frozen=True, slots=True)
class Directory:
    """An empty folder that lives as long as the pod."""

    name: str


@dataclass(frozen=True, slots=True)
class Files:
    """Content of API objects, by path below the volume."""

    name: str
    files: Mapping[str, File] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Host:
    """A path of the host; ``kind`` as in the API: "", Directory, DirectoryOrCreate, File, FileOrCreate, Socket, ..."""

    name: str
    path: str
    kind: str = ""


Plan = Directory | Files | Host


def resolve_volumes(pod: Pod, sources: Sources, facts: Facts) -> tuple[Plan, ...]:
    """What each volume of the pod is. Raises VolumeError for the first that cannot be had."""
    return tuple(_resolve(volume, pod, sources, facts) for volume in pod.spec.volumes)


def resolve_mounts(
    container: ContainerSpec, plans: Iterable[Plan], folder: Path, variables: Mapping[str, str]
) -> tuple[Mount, ...]:
    """Where a container sees the volumes. ``folder``: of the pod's volumes. Raises ContainerConfigError."""
    known = {plan.name: plan for plan in plans}
    mounts = []
    for mount in container.volume_mounts:
        plan = known.get(mount.name)
        if plan is None:
            raise ContainerConfigError(f"volumeMount {mount.mount_path}: the pod has no volume {mount.name!r}")
        below = expand(mount.sub_path_expr, variables) if mount.sub_path_expr else mount.sub_path
        if below and (PurePosixPath(below).is_absolute() or ".." in PurePosixPath(below).parts):
            raise ContainerConfigError(f"volumeMount {mount.mount_path}: subPath {below!r} leaves the volume")
        source = Path(plan.path) if isinstance(plan, Host) else folder / plan.name
        read_only = mount.read_only or isinstance(plan, Files)
        mounts.append(Mount(source=str(source / below), destination=mount.mount_path, read_only=read_only))
    return tuple(mounts)


def ensure_volume(plan: Plan, folder: Path) -> None:
    """Make the volume what the plan says; writes only what differs. Raises VolumeError."""
    try:
        if isinstance(plan, Host):
            _ensure_host(plan)
            return
        path = folder / plan.name
        if isinstance(plan, Files):
            path.mkdir(parents=True, exist_ok=True)
            _write_files(plan, path)
        elif not path.exists():
            path.mkdir(parents=True)
            path.chmod(0o777)  # as upstream: containers of any user share it
    except OSError as error:
        raise VolumeError(plan.name, str(error)) from error


def ensure_sub_path(mount: Mount, volume: Path) -> None:
    """A subPath that is not there becomes a folder; one that leads out of its volume by a link is refused."""
    source = Path(mount.source)
    real = Path(os.path.realpath(source))
    if not real.is_relative_to(os.path.realpath(volume)):
        raise ContainerConfigError(f"volumeMount {mount.destination}: subPath leads out of the volume, to {real}")
    if not source.exists():
        source.mkdir(parents=True)


def _resolve(volume: Volume, pod: Pod, sources: Sources, facts: Facts) -> Plan:
    if volume.kind in ("", "emptyDir"):
        return Directory(volume.name)
    if volume.host_path is not None:
        return Host(volume.name, volume.host_path.path, volume.host_path.type)
    try:
        files = _collect(volume, pod, sources, facts)
    except ContainerConfigError as error:
        raise VolumeError(volume.name, str(error)) from error
    if files is None:
        kinds = "configMap, downwardAPI, emptyDir, hostPath, projected, secret"
        raise VolumeError(volume.name, f"volumes of kind {volume.kind} are not supported; podwire has {kinds}")
    return Files(volume.name, files)


def _collect(volume: Volume, pod: Pod, sources: Sources, facts: Facts) -> dict[str, File] | None:
    """The files of one volume; None if it is of a kind without."""
    if volume.config_map is not None:
        return _config_map(volume.config_map, sources, volume.config_map.default_mode)
    if volume.secret is not None:
        return _secret(volume.secret, sources, volume.secret.default_mode)
    if volume.downward_api is not None:
        return _downward(volume.downward_api, pod, facts, volume.downward_api.default_mode)
    if volume.projected is None:
        return None
    files: dict[str, File] = {}
    for source in volume.projected.sources:
        files |= _project(source, pod, sources, facts, volume.projected.default_mode)
    return files


def _project(source: Projection, pod: Pod, sources: Sources, facts: Facts, mode: int | None) -> dict[str, File]:
    if source.service_account_token is not None:
        raise ContainerConfigError("projected serviceAccountToken is not supported")
    files: dict[str, File] = {}
    if source.config_map is not None:
        files |= _config_map(source.config_map, sources, mode)
    if source.secret is not None:
        files |= _secret(source.secret, sources, mode)
    if source.downward_api is not None:
        files |= _downward(source.downward_api, pod, facts, mode)
    return files


def _config_map(volume: ConfigMapVolume, sources: Sources, mode: int | None) -> dict[str, File]:
    data = sources.config_maps.get(volume.name)
    if data is None and not volume.optional:
        raise ContainerConfigError(f'configmap "{volume.name}" not found')
    return _choose(data or {}, volume.items, mode, optional=volume.optional)


def _secret(volume: SecretVolume, sources: Sources, mode: int | None) -> dict[str, File]:
    name = volume.secret_name or volume.name
    data = sources.secrets.get(name)
    if data is None and not volume.optional:
        raise ContainerConfigError(f'secret "{name}" not found')
    return _choose(data or {}, volume.items, mode, optional=volume.optional)


def _downward(volume: DownwardVolume, pod: Pod, facts: Facts, mode: int | None) -> dict[str, File]:
    files = {}
    for item in volume.items:
        text = ""
        if item.field_ref is not None:
            text = resolve_field(item.field_ref, pod, facts)
        elif item.resource_field_ref is not None:
            container = pod.container(item.resource_field_ref.container_name)
            if container is None:
                raise ContainerConfigError(f"container {item.resource_field_ref.container_name} not found")
            text = resolve_resource(item.resource_field_ref, container, facts)
        files[_inside(item.path)] = File(text.encode(errors="surrogateescape"), _mode(item.mode, mode))
    return files


def _choose(
    data: Mapping[str, bytes], items: Iterable[KeyToPath], mode: int | None, *, optional: bool
) -> dict[str, File]:
    """All keys, or those that ``items`` names, under the paths it gives."""
    chosen = tuple(items)
    if not chosen:
        return {_inside(key): File(content, _mode(None, mode)) for key, content in data.items()}
    missing = [item.key for item in chosen if item.key not in data]
    if missing and not optional:
        raise ContainerConfigError(f"references non-existent key: {missing[0]}")
    found = [item for item in chosen if item.key in data]
    return {_inside(item.path): File(data[item.key], _mode(item.mode, mode)) for item in found}


def _inside(path: str) -> str:
    """A path below the volume, in plain form."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or pure.parts[0].startswith(".."):
        raise ContainerConfigError(f"path {path!r} leaves the volume")
    return str(pure)


def _mode(own: int | None, default: int | None) -> int:
    return own if own is not None else default if default is not None else DEFAULT_MODE


def _ensure_host(plan: Host) -> None:
    path = Path(plan.path)
    if plan.kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif plan.kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    check = _CHECKS.get(plan.kind.removesuffix("OrCreate"))
    if not path.exists() or (check is not None and not check(path.stat().st_mode)):
        raise VolumeError(
            plan.name, f"hostPath type check failed: {plan.path} is not a {plan.kind or 'path that exists'}"
        )


_CHECKS: dict[str, Callable[[int], bool]] = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def _write_files(plan: Files, path: Path) -> None:
    """Write a new generation and turn ``..data`` to it, unless the current one says the same already."""
    if _read_files(path / DATA) == dict(plan.files):
        return
    generation = path / f"..{secrets.token_hex(6)}"
    for name, file in plan.files.items():
        target = generation / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    generation.mkdir(exist_ok=True)
    old = os.path.realpath(path / DATA)
    link = path / f"{DATA}_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(generation.name)
    link.replace(path / DATA)
    _link_names({PurePosixPath(name).parts[0] for name in plan.files}, path)
    if os.path.isdir(old) and old != str(path / DATA):
        shutil.rmtree(old)


def _link_names(names: set[str], path: Path) -> None:
    present = {entry.name for entry in os.scandir(path) if not entry.name.startswith("..")}
    for name in names - present:
        (path / name).symlink_to(f"{DATA}/{name}")
    for name in present - names:
        (path / name).unlink()


def _read_files(path: Path) -> dict[str, File] | None:
    if not path.exists():
        return None
    return {
        str(file.relative_to(path)): File(file.read_bytes(), stat.S_IMODE(file.stat().st_mode))
        for file in path.rglob("*")
        if file.is_file()
    }
