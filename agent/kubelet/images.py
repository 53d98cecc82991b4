"""The image catalogue: which root file system and which program an image reference means on this machine.

There is no registry here, so nothing is ever pulled. A reference is looked up in this order:

1. **the user's own images** (``<state-dir>/images``, see ``load_catalogue``): a folder that holds a root file system,
   or an entry of a YAML file;
2. **the stand-ins shipped with podwire**: small programs that answer on the ports of well-known images and say what
   they are;
3. **the host's own programs**: a container whose ``command`` the host has runs that, whatever the image is called, on
   the host's root file system, read-only, with a fresh ``/tmp`` and ``/run``.

Everything else is ``ErrImageNeverPull``, as with ``imagePullPolicy: Never`` upstream (pkg/kubelet/images/types.go),
with a message that says how to add the image. ``resolve_image`` and ``resolve_argv`` are pure; ``load_catalogue`` reads
the disk.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

TOOLS = (
    "/podwire"  # in a container on the host's root: the stand-ins' programs (TOOLS/bin) and sources (TOOLS/standins)
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STANDINS = Path(__file__).parent / "standins"

ERR_NEVER_PULL = "ErrImageNeverPull"
ERR_INVALID_NAME = "InvalidImageName"

# distribution/reference: [host[:port]/]path[:tag][@digest]; path components are lower-case.
_REFERENCE = re.compile(
    r"(?P<name>(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-fA-F]{32,}))?"
)


class HostRoot(msgspec.Struct, frozen=True, tag=True):
    """The host's root file system, read-only. ``programs``: name in ``TOOLS/bin`` -> the argv that it stands for.

    (A Struct, as is Folder, because a union of dataclasses cannot be told apart in JSON.)
    """

    programs: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Folder(msgspec.Struct, frozen=True, tag=True):
    """A folder of the host that holds a whole root file system; each container gets a writable overlay over it."""

    path: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a reference means. ``env`` are (name, value) pairs; ``note`` is for people: what this really is."""

    reference: str
    rootfs: HostRoot | Folder
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = (("PATH", DEFAULT_PATH),)
    user: int = 0
    group: int = 0
    workdir: str = "/"
    note: str = ""

    @property
    def id(self) -> str:
        """For ``status.containerStatuses[].imageID``: there is no digest, so it says where the image comes from."""
        return f"podwire://{self.rootfs.path if isinstance(self.rootfs, Folder) else 'host'}#{self.reference}"


@dataclass(frozen=True, slots=True)
class ImageError:
    """Why there is no such image; ``reason`` is the container's ``state.waiting.reason``."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in canonical form: ``docker.io/library/mongo`` is ``mongo``, the default tag is ``latest``."""

    name: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"


def host_has(program: str) -> bool:
    """Whether a container on the host's root could run ``program``: a name in the default PATH, or an absolute path."""
    return shutil.which(program, path=DEFAULT_PATH) is not None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """``images`` by key: ``name:tag``, or ``name`` for every tag. ``problems``: entries that were left out, and why."""

    images: Mapping[str, Image]
    folder: str = ""
    problems: tuple[str, ...] = ()
    host_has: Callable[[str], bool] = field(default=host_has)


def parse_reference(text: str) -> Reference | None:
    """A reference in canonical form, or None if it is none."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    name = match["name"]
    for prefix in ("docker.io/", "index.docker.io/", "library/"):
        name = name.removeprefix(prefix)
    return Reference(name, match["tag"] or "latest")


def resolve_image(reference: str, catalogue: Catalogue, *, command: Sequence[str] = ()) -> Image | ImageError:
    """The image that ``reference`` means for a container with this ``command`` (its own, empty if it has none)."""
    parsed = parse_reference(reference)
    if parsed is None:
        return ImageError(
            ERR_INVALID_NAME, f'Failed to apply default image tag "{reference}": invalid reference format'
        )
    image = catalogue.images.get(str(parsed)) or catalogue.images.get(parsed.name)
    if image is not None:
        return image
    if command and catalogue.host_has(command[0]):
        return Image(reference, HostRoot(), note=f"the host's own {command[0]}, on the host's root read-only")
    return ImageError(ERR_NEVER_PULL, _never_pull(reference, catalogue, command))


def _never_pull(reference: str, catalogue: Catalogue, command: Sequence[str]) -> str:
    why = (
        f"its command {command[0]!r} is not on the host either"
        if command
        else "it has no command that the host could run"
    )
    where = catalogue.folder or "<state-dir>/images"
    lines = [
        f'Container image "{reference}" is not present, podwire pulls nothing, and {why}. '
        f"Add its root file system as {where}/{reference}/rootfs or an entry in {where}/catalogue.yaml, "
        "or give the container a command that the host has."
    ]
    return " ".join([*lines, *(f"Left out: {problem}." for problem in catalogue.problems)])


def resolve_argv(image: Image, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """What runs: ``command`` replaces the entry point *and* the image's cmd, ``args`` replace the cmd (core/v1
    Container).
    """
    if command:
        return (*command, *args)
    return (*image.entrypoint, *(args or image.cmd))


# --- what podwire ships -----------------------------------------------------------------------------------------------


def find_python() -> str:
    """An interpreter that a container on the host's root can see: Debian's own, else the one that runs podwire."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else os.path.realpath(sys.executable)


def shipped_images(python: str) -> dict[str, Image]:
    """The stand-ins, by name: every tag of them. ``-S -E -s``: no site packages, so that they start in some 15 ms."""

    def stand_in(reference: str, module: str, program: str, note: str, *cmd: str) -> Image:
        argv = (python, "-S", "-E", "-s", "-B", f"{TOOLS}/standins", module)
        return Image(
            reference,
            HostRoot(programs=((program, argv),)),
            entrypoint=(f"{TOOLS}/bin/{program}",),
            cmd=cmd,
            env=(("PATH", f"{TOOLS}/bin:{DEFAULT_PATH}"),),
            note=note,
        )

    images = [
        stand_in("mongo", "mongo", "mongod", "a stand-in for MongoDB: keeps documents in memory, no real database"),
        stand_in("vfarcic/go-demo-2", "go_demo_2", "go-demo-2", "a stand-in for vfarcic/go-demo-2, written in Python"),
        stand_in("podwire/echo", "echo", "echo-server", "podwire's own test server"),
    ]
    shells = [
        Image(name, HostRoot(), cmd=("sh",), note=f"the host's own root file system, not {name}'s")
        for name in ("busybox", "alpine", "debian", "ubuntu")
    ]
    return {image.reference: image for image in (*images, *shells)}


# --- what the user adds -----------------------------------------------------------------------------------------------


def load_catalogue(folder: Path) -> Catalogue:
    """The shipped images and those of ``folder``, which win.

    - ``folder/my/app:1.0/rootfs/`` is the root file system of ``my/app:1.0``; ``image.yaml`` beside it may say more;
    - ``folder/catalogue.yaml`` maps references to entries with ``folder`` (a path, relative to the file's) or ``host:
      true``, and optionally ``entrypoint``, ``cmd``, ``env``, ``user`` and ``group`` (numbers), ``workdir``.

    A reference without a tag stands for all its tags. An entry that cannot be used is left out and named in
    ``problems``.
    """
    images, problems = shipped_images(find_python()), list[str]()
    for origin, reference, entry in _entries(folder, problems):
        try:
            image = _image(reference, entry, origin.parent)
        except (TypeError, ValueError) as error:
            problems.append(f"{reference} in {origin}: {error}")
            continue
        images[_key(reference)] = image
    return Catalogue(images, str(folder), tuple(problems))


def _entries(folder: Path, problems: list[str]) -> list[tuple[Path, str, object]]:
    found: list[tuple[Path, str, object]] = []
    for home in _homes(folder):
        said = _read_yaml(home / "image.yaml", problems) or {}
        entry = {"folder": "rootfs", **said} if isinstance(said, dict) else said
        found.append((home / "image.yaml", str(home.relative_to(folder)), entry))
    listed = _read_yaml(folder / "catalogue.yaml", problems)
    if isinstance(listed, dict):
        found.extend((folder / "catalogue.yaml", str(reference), entry) for reference, entry in listed.items())
    elif listed is not None:
        problems.append(f"{folder / 'catalogue.yaml'}: expected a mapping of image references to entries")
    return found


def _homes(folder: Path) -> list[Path]:
    """The folders that have a folder ``rootfs``; what is inside an image is not looked at."""
    found = []
    for home, inner, _ in os.walk(folder):
        if "rootfs" in inner and Path(home) != folder:
            found.append(Path(home))
            inner.clear()
    return sorted(found)


def _read_yaml(file: Path, problems: list[str]) -> object:
    if not file.exists():
        return None
    try:
        return yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"{file}: {error}")
        return None


def _key(reference: str) -> str:
    parsed = parse_reference(reference)
    assert parsed is not None
    return str(parsed) if ":" in reference.rpartition("/")[2] else parsed.name


def _image(reference: str, entry: object, base: Path) -> Image:
    if parse_reference(reference) is None:
        raise ValueError("not an image reference")
    if not isinstance(entry, dict):
        raise TypeError("expected a mapping with `folder: PATH` or `host: true`")
    unknown = set(entry) - {"folder", "host", "entrypoint", "cmd", "env", "user", "group", "workdir", "note"}
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(map(str, unknown)))}")
    env = {"PATH": DEFAULT_PATH, **_env(entry.get("env", {}))}
    return Image(
        reference,
        _rootfs(entry, base),
        entrypoint=_words(entry, "entrypoint"),
        cmd=_words(entry, "cmd"),
        env=tuple(env.items()),
        user=int(entry.get("user", 0)),
        group=int(entry.get("group", 0)),
        workdir=str(entry.get("workdir", "/")),
        note=str(entry.get("note", "")),
    )


def _rootfs(entry: Mapping[str, Any], base: Path) -> HostRoot | Folder:
    if ("folder" in entry) == bool(entry.get("host", False)):
        raise ValueError("expected either `folder: PATH` or `host: true`")
    if "folder" not in entry:
        return HostRoot()
    path = (base / str(entry["folder"])).resolve()
    if not path.is_dir():
        raise ValueError(f"folder {path} does not exist")
    return Folder(str(path))


def _words(entry: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = entry.get(name, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise TypeError(f"{name}: expected a list of strings")
    return tuple(value)


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("env: expected a mapping of names to values")
    return {str(name): str(content) for name, content in value.items()}
