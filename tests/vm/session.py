"""One run: the disk is built, the machine booted, and each step asks something of it; the first that fails ends it."""

from __future__ import annotations

import contextlib
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.vm import root
from tests.vm.machine import Machine, find_accelerator
from tests.vm.node import Node
from tests.vm.progress import Progress, StepFailed, require
from tests.vm.root import Suite
from tests.vm.scene import Extent, Scene
from tests.vm.steps import STEPS
from tests.vm.wheels import complete_wheels, make_wheels

CACHE = Path(__file__).parents[2] / ".cache" / "vm"


def run_session(work: Path, suite: Suite, extent: Extent, *, cache: bool) -> int:
    """The exit code. ``work``: an empty folder that nobody else uses, which is taken away afterwards by others."""
    progress = Progress()
    steps = [step for step in STEPS if step.extent <= extent]
    machine: Machine | None = None
    try:
        if extent > Extent.QUICK:
            with progress.step("vagrant validate: one node, three nodes"):
                _validate_vagrantfile(work / "vagrant")
        machine = _build(work, suite, progress, cache=CACHE if cache else None, alone=extent < Extent.NEIGHBOURS)
        with progress.step("boot"):
            machine.power_on()
        scene = Scene(machine, Node(machine), progress, extent)
        for step in steps:
            with progress.step(step.title):
                step.act(scene)
    except StepFailed as error:
        print(f"\nvm: {error}\n", flush=True)
        _explain(machine)
    except Exception:  # noqa: BLE001  a mistake of the test's own is a failure too, and the machine may know more
        traceback.print_exc()
        _explain(machine)
    finally:
        if machine is not None:
            machine.cut_power()
        done = {result.title for result in progress.results}
        for step in steps:
            if step.title not in done:
                progress.skip(step.title)
        print(f"\n{progress.table()}", flush=True)
    return 1 if progress.failed else 0


def _validate_vagrantfile(home: Path) -> None:
    """With libvirt's settings, as Debian has that provider. ``home``: where Vagrant keeps what it writes."""
    places = {"VAGRANT_CWD": str(root.REPOSITORY), "VAGRANT_HOME": str(home), "VAGRANT_DOTFILE_PATH": str(home / "dot")}
    settings = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_CHECKPOINT_DISABLE": "1"}
    for nodes in ("1", "3"):
        said = root.command("vagrant", "validate", environment={**places, **settings, "NODES": nodes})
        require("validated successfully" in said, f"vagrant validate with NODES={nodes} says:\n{said}")


def _build(work: Path, suite: Suite, progress: Progress, *, cache: Path | None, alone: bool) -> Machine:
    """``alone``: without those whom podwire may have to get along with."""
    folder = work / "root"
    with ThreadPoolExecutor() as pool:
        with progress.step(f"a bare {suite.title}, and wheels for podwire"):
            wheels = pool.submit(make_wheels, work / "wheels", suite)
            root.install_debian(folder, suite, cache=cache, progress=progress)
            wheels.result()
            complete_wheels(work / "wheels", folder)
            if not alone:
                progress.note(f"neighbours: {' '.join((*suite.docker, *root.NEIGHBOURS))}")
                root.install_neighbours(folder, suite)
        with progress.step("provision.sh in a chroot"):
            probe = pool.submit(find_accelerator, root.kernel_of(folder))
            root.bring_along(folder, wheels=work / "wheels")
            root.provision(folder, progress)
            accelerator = probe.result()
    with progress.step("its disk"):
        root.make_disk(folder, work)
        progress.note(f"the processor is {'real (KVM)' if accelerator == 'kvm' else 'emulated'}")
    return Machine(work, accelerator)


def _explain(machine: Machine | None) -> None:
    """What the machine has to say about a failure: from inside where it still answers, else its console."""
    if machine is None:
        return
    with contextlib.suppress(StepFailed):
        script = (
            "systemctl --failed --no-pager; podwire status; journalctl -b -u podwire -n 80 --no-pager; dmesg | tail -20"
        )
        print(machine.guest.attempt(f"set +e; {script}", timeout=60)[1], flush=True)
    if machine.console.exists():
        print("--- the end of its console", *machine.console.read_text(errors="replace").splitlines()[-40:], sep="\n")
