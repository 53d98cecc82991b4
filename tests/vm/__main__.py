"""``./run test-vm``: podwire on a machine of its own, from the bare distribution to nothing left of podwire.

Debian is installed into a folder, provisioned by ``vagrant/provision.sh`` in a chroot, and made the disk of a
virtual machine that QEMU boots: its own kernel, systemd as process 1, pure cgroup v2. The machine has no network card.
What is asked of it, and what it answers, crosses a serial line (``guest``).

Everything happens apart from the rest of this machine (``apart``): when the run ends, however it ends, the kernel takes
away QEMU, the chroot's mounts and all files. The outer process looks for what might be left all the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from tests.leaks import assert_no_leaks
from tests.vm.apart import WORK, run_apart
from tests.vm.root import SUITES
from tests.vm.scene import Extent

# Seconds: a machine that takes longer hangs.
LIMITS = {Extent.QUICK: 900.0, Extent.WHOLE: 1800.0, Extent.NEIGHBOURS: 2700.0}
TOOLS = ("qemu-system-x86_64", "debootstrap", "mkfs.ext4", "setpriv", "unshare", "chroot")


def main() -> int:
    options = _parse(sys.argv[1:])
    if options.inside:
        from tests.vm.session import run_session

        return run_session(WORK, SUITES[options.suite], options.extent, cache=options.cache)
    _require(os.getuid() == 0, "root is needed: sudo ./run test-vm")
    for tool in TOOLS:
        _require(shutil.which(tool) is not None, f"{tool} is missing; './run test-vm' installs what is needed")
    _require(WORK.is_dir(), f"{WORK} is missing: make the folder")
    with assert_no_leaks(tag="vm-test"):
        return run_apart((sys.executable, "-m", "tests.vm", "--inside", *sys.argv[1:]), limit=LIMITS[options.extent])


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run test-vm", description="Boot a node on a machine of its own, and test it."
    )
    parser.set_defaults(extent=Extent.WHOLE)
    extent = parser.add_mutually_exclusive_group()
    quick, more = "boot, smoke test and power cut only", "also beside ufw, firewalld, Docker, dnsmasq, systemd-resolved"
    extent.add_argument("--quick", dest="extent", action="store_const", const=Extent.QUICK, help=quick)
    extent.add_argument("--neighbours", dest="extent", action="store_const", const=Extent.NEIGHBOURS, help=more)
    parser.add_argument("--suite", choices=list(SUITES), default="bookworm", help="which Debian (default: bookworm)")
    parser.add_argument("--cache", action="store_true", help="keep the bare Debian under .cache/ for the next run")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"vm: {otherwise}")


if __name__ == "__main__":
    sys.exit(main())
