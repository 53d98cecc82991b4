"""podwire's Python libraries, for a machine that has neither a network nor a compiler.

Where the Python that runs this test is of the machine's version, its pip makes them. Else what has been published for
that version is fetched, and python-iptables, which is published as source only, is compiled in a copy of the machine's
root that gets a compiler.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import requires
from pathlib import Path

from tests.vm.root import REPOSITORY, Suite, chroot, command

SOURCE_ONLY = "python-iptables"
TOOLS = ("hatchling", "setuptools", "wheel")  # that build podwire, and python-iptables
COMPILER = ("gcc", "libc6-dev", "python3-dev", "python3-venv")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def make_wheels(folder: Path, suite: Suite) -> None:
    """All that can be had without the machine's root, in ``folder``; ``complete_wheels`` has the rest."""
    if sys.version_info[:2] != suite.python:
        _fetch(folder, ".".join(map(str, suite.python)))
        return
    command(*PIP, "wheel", "--use-pep517", "--wheel-dir", folder, REPOSITORY, "hatchling", limit=600)
    for wheel in folder.glob("podwire-*.whl"):
        wheel.unlink()  # it is built from the checkout, there


def _fetch(folder: Path, version: str) -> None:
    needed = [name for name in requires("podwire") or () if "extra ==" not in name and not name.startswith(SOURCE_ONLY)]
    platforms = (f"--platform={platform}" for platform in PLATFORMS)
    options = ("--dest", str(folder), "--only-binary=:all:", f"--python-version={version}", *platforms)
    command(*PIP, "download", *options, *needed, *TOOLS, limit=600)
    command(*PIP, "download", "--dest", folder, "--no-deps", f"--no-binary={SOURCE_ONLY}", SOURCE_ONLY)


def complete_wheels(folder: Path, root: Path) -> None:
    """Compile what is there as source only. ``root``: the machine's, which stays as it is."""
    sources = list(folder.glob("*.tar.gz"))
    if not sources:
        return
    builder = root.with_name("builder")
    command("cp", "--archive", root, builder)
    chroot(builder, "apt-get", "-qq", "-y", "--no-install-recommends", "install", *COMPILER)
    shutil.copytree(folder, builder / "srv/wheels")
    chroot(builder, "python3", "-m", "venv", "/srv/venv")
    options = ("--quiet", "--no-index", "--find-links=/srv/wheels", "--no-deps", "--wheel-dir=/srv/wheels")
    chroot(builder, "/srv/venv/bin/pip", "wheel", *options, *(f"/srv/wheels/{source.name}" for source in sources))
    for wheel in (builder / "srv/wheels").glob(f"{SOURCE_ONLY.replace('-', '_')}-*.whl"):
        shutil.copy(wheel, folder)
    for source in sources:
        source.unlink()
    shutil.rmtree(builder)
