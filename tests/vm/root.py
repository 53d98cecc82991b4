"""From nothing to a disk: Debian in a folder, podwire put there by ``vagrant/provision.sh``, made an ext4 image.

What podwire needs is brought along as it would be to a machine without network: Python libraries (``wheels``), and the
system packages that ``provision.sh --download`` fetches in the chroot. So provisioning itself runs offline, in the
chroot as in an upgrade on the machine later on.

The kernel's package is unpacked, not installed: it would make an initial RAM disk, which takes a minute that this
machine has no use for (``machine``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.progress import Progress, StepFailed, require

REPOSITORY = Path(__file__).parents[2]
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BASE = ("systemd-sysv", "udev", "dbus", "kmod", "ca-certificates", "apt-utils")
KERNEL = "linux-image-cloud-amd64"
DISK = 3  # GiB, mostly holes
CHECKOUT, OFFLINE, NEWER = "srv/podwire", "srv/offline", "srv/newer"  # folders in the machine
# Who else may be on a machine, switched off until the test turns to them. busybox: what a container of Docker's is of.
NEIGHBOURS = ("apparmor", "ufw", "firewalld", "dnsmasq", "systemd-resolved", "busybox-static")
NEIGHBOURS_UNITS = ("apparmor.service", "docker.service", "docker.socket", "containerd.service", "ufw.service",
                    "firewalld.service", "dnsmasq.service", "systemd-resolved.service")  # fmt: skip
NEEDED = ("python3", "iproute2", "iptables", "nftables", "ipset", "procps")  # by the agent and by the last step
AGENT = "usr/local/lib/vm-test"
LEFT_OUT = (".git", ".venv", ".cache", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")


@dataclass(frozen=True, slots=True)
class Suite:
    """A release of Debian: its code name, what people call it, the version of its Python, and Docker's packages."""

    name: str
    title: str
    python: tuple[int, int]
    docker: tuple[str, ...]


_ALL = (
    Suite("bookworm", "Debian 12", (3, 11), ("docker.io",)),
    Suite("trixie", "Debian 13", (3, 13), ("docker.io", "docker-cli")),
)
SUITES = {suite.name: suite for suite in _ALL}


def command(*argv: str | Path, limit: float = 300.0, environment: dict[str, str] | None = None) -> str:
    """What a program printed; StepFailed with all of it where that fails or takes more than ``limit`` seconds."""
    words = [str(word) for word in argv]
    full = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", env=full, timeout=limit, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise StepFailed(f"{' '.join(words)}: not done after {limit:g} s\n{error.stdout!r}") from error
    require(done.returncode == 0, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-8000:]}")
    return done.stdout


def install_debian(root: Path, suite: Suite, *, cache: Path | None, progress: Progress) -> None:
    """The bare distribution. ``cache``: a folder in which it is kept for the next run."""
    tarball = cache / f"{suite.name}.tar" if cache else None
    if tarball and tarball.exists():
        progress.note(f"from {tarball}")
        root.mkdir()
        command("tar", "-xf", tarball, "-C", root)
        return
    command("debootstrap", "--variant=minbase", f"--include={','.join(BASE)}", suite.name, root, MIRROR, limit=900)
    (root / "etc/apt/apt.conf.d/90vm-test").write_text('Acquire::Languages "none";\n')
    progress.note("the kernel")
    _unpack_kernel(root)
    if tarball:
        tarball.parent.mkdir(parents=True, exist_ok=True)
        command("tar", "-cf", f"{tarball}.new", "-C", root, ".")
        os.replace(f"{tarball}.new", tarball)


def _unpack_kernel(root: Path) -> None:
    chroot(root, "apt-get", "-q", "update")
    found = re.search(r"Depends: (linux-image-\S+)", chroot(root, "apt-cache", "depends", KERNEL))
    if found is None:
        raise StepFailed(f"{KERNEL} names no kernel; what does 'apt-cache depends {KERNEL}' say?")
    # /lib is a symbolic link to a folder, which dpkg knows and tar has to be told
    unpack = "dpkg-deb --fsys-tarfile *.deb | tar -x --keep-directory-symlink -C / && rm *.deb"
    chroot(root, "sh", "-c", f"cd /tmp && apt-get -q download {found[1]} && {unpack}")
    (version,) = (path.name for path in (root / "lib/modules").iterdir())
    chroot(root, "depmod", version)


def kernel_of(root: Path) -> Path:
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    return kernel


def chroot(root: Path, *argv: str, limit: float = 300.0) -> str:
    clean = (
        "env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "LC_ALL=C.UTF-8",
        "DEBIAN_FRONTEND=noninteractive",
    )
    return command("chroot", root, *clean, *argv, limit=limit)


def install_neighbours(root: Path, suite: Suite) -> None:
    """What was on the machine before podwire came: firewalls, name servers, Docker; none of them started at boot."""
    packages = (
        "apt-get",
        "-qq",
        "-y",
        "--no-install-recommends",
        "-o",
        "Dpkg::Use-Pty=0",
        "install",
        *suite.docker,
        *NEIGHBOURS,
    )
    with _mounted(root):
        chroot(root, *packages, limit=600)
    chroot(root, "systemctl", "disable", "--quiet", *NEIGHBOURS_UNITS)
    names = root / "etc/resolv.conf"
    names.unlink(missing_ok=True)  # systemd-resolved has made it a link to where it would keep it
    shutil.copy("/etc/resolv.conf", names)


def bring_along(root: Path, *, wheels: Path) -> None:
    """This checkout, a newer one, what both need, and the test's own agent."""
    for folder in (CHECKOUT, NEWER):
        shutil.copytree(REPOSITORY, root / folder, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    _bump_version(root / NEWER)
    (root / OFFLINE).mkdir(parents=True)
    shutil.move(wheels, root / OFFLINE / "wheels")
    shutil.copytree(REPOSITORY / "tests/vm/inside", root / AGENT)
    unit = root / "etc/systemd/system/vm-test.service"
    shutil.move(root / AGENT / unit.name, unit)
    chroot(root, "systemctl", "enable", "--quiet", unit.name)
    (root / "etc/hostname").write_text("vm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 vm\n")


def _bump_version(tree: Path) -> None:
    """What an upgrade brings: another version, which every part of podwire reports."""
    project = tree / "pyproject.toml"
    text, count = re.subn(r'(?m)^version = "(.*)"$', r'version = "\1.post1"', project.read_text(), count=1)
    require(count == 1, f"{project}: no version to change")
    project.write_text(text)


def provision(root: Path, progress: Progress) -> None:
    script = f"/{CHECKOUT}/vagrant/provision.sh"
    with _mounted(root):
        progress.note("fetching its system packages")
        chroot(root, script, "--download", f"/{OFFLINE}", limit=600)
        progress.note("provision.sh --offline")
        said = chroot(root, script, "--offline", f"/{OFFLINE}", limit=600)
    require("podwire.service is enabled" in said, f"provision.sh did not enable the service:\n{said}")
    _need_some_packages(root)


def _need_some_packages(root: Path) -> None:
    """What the test itself uses must survive ``uninstall.sh``, which takes away what nothing else needs: so a package
    of the test's depends on it.
    """
    package = root / "tmp/vm-test"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: vm-test\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n"
        f"Depends: {', '.join(NEEDED)}\nDescription: what the test of the machine uses itself\n"
    )
    chroot(root, "dpkg-deb", "--build", "/tmp/vm-test")
    chroot(root, "dpkg", "-i", "/tmp/vm-test.deb")
    chroot(root, "rm", "-r", "/tmp/vm-test", "/tmp/vm-test.deb")


@contextmanager
def _mounted(root: Path) -> Iterator[None]:
    command("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield
    finally:
        command("umount", root / "proc")


def make_disk(root: Path, folder: Path) -> None:
    """``disk`` and ``kernel`` in ``folder``; the root itself goes."""
    shutil.copy(kernel_of(root), folder / "kernel")
    for needless in ("var/lib/apt/lists", "var/cache/apt", "usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(root / needless, ignore_errors=True)
    (root / "etc/resolv.conf").write_text("")  # the machine has no network
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK << 30)
    command("mkfs.ext4", "-q", "-F", "-L", "root", "-d", root, disk)
    shutil.rmtree(root)
