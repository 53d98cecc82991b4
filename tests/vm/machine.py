"""The virtual machine: QEMU, a disk, a kernel, two serial lines, and no network card.

The kernel is given to QEMU and the disk is an NVMe one, whose driver is part of Debian's kernels: so there is no boot
loader and no initial RAM disk to build, to load and to unpack. The first serial line is the console and goes to a file,
the second is the agent's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.vm.guest import Guest
from tests.vm.progress import StepFailed

PROBE = 10.0  # seconds in which a kernel that KVM runs has found that it has no disk
# Emulated: one of Intel's, since Linux trusts the time stamp counters of others less, and reading HPET costs 10 us.
PROCESSOR = {"kvm": "host", "tcg,thread=multi": "Nehalem"}
MEMORY = 1536  # MiB
# Emulated, mitigations double the time that everything takes: each system call would change page tables.
LEAN = "mitigations=off audit=0 tsc=reliable"
# Units that only cost time here: nobody logs in, and nothing is to be updated.
MASKED = ("getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@ttyS1.service", "e2scrub_reap.service",
          "apt-daily.timer", "apt-daily-upgrade.timer")  # fmt: skip


def find_accelerator(kernel: Path) -> str:
    """``kvm`` where it really runs a kernel; having ``/dev/kvm`` does not mean that it does."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg,thread=multi"
    argv = _argv(kernel, "kvm", command_line="console=ttyS0 panic=-1")
    probe = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        probe.wait(PROBE)  # the kernel panics for want of a disk, which with -no-reboot ends QEMU
        return "kvm" if probe.returncode == 0 else "tcg,thread=multi"
    except subprocess.TimeoutExpired:
        return "tcg,thread=multi"
    finally:
        probe.kill()
        probe.wait()


def _argv(kernel: Path, accelerator: str, *more: str, command_line: str) -> tuple[str, ...]:
    return (
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", accelerator, "-cpu", PROCESSOR[accelerator]),
        *("-smp", "2", "-m", str(MEMORY), "-nic", "none", "-display", "none", "-monitor", "none"),
        *("-kernel", str(kernel), "-append", command_line, "-no-reboot"),
        *more,
    )


class Machine:
    """One machine: the same disk through all its boots. ``folder``: where its disk and the console's log lie."""

    def __init__(self, folder: Path, accelerator: str) -> None:
        self._folder, self._accelerator = folder, accelerator
        self._process: subprocess.Popen[bytes] | None = None
        self._guest: Guest | None = None
        self._boot = ""
        self.boot_seconds = 0.0  # that the latest start took, from power to the agent's first word
        self.console, self.messages = folder / "console.log", folder / "qemu.log"

    @property
    def guest(self) -> Guest:
        if self._guest is None:
            raise StepFailed("the machine is off")
        return self._guest

    def power_on(self) -> None:
        """Until the agent answers."""
        line = self._folder / "agent.socket"
        line.unlink(missing_ok=True)
        disk = f"file={self._folder / 'disk'},format=raw,if=none,id=disk,cache=unsafe"
        more = (
            *("-drive", disk, "-device", "nvme,drive=disk,serial=disk"),
            *("-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=agent,path={line},server=on,wait=on", "-serial", "chardev:agent"),
        )
        masked = " ".join(f"systemd.mask={unit}" for unit in MASKED)
        command_line = f"root=/dev/nvme0n1 rw console=ttyS0 panic=-1 quiet {LEAN} {masked}"
        argv = _argv(self._folder / "kernel", self._accelerator, *more, command_line=command_line)
        argv = tuple(word for word in argv if word != "-no-reboot")
        with self.messages.open("ab") as messages:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages)
        begin = time.monotonic()
        self._guest = Guest(self._await_line(line))
        self._boot = self._guest.await_boot(after=self._boot)
        self.boot_seconds = time.monotonic() - begin

    def _await_line(self, line: Path) -> Path:
        """QEMU waits until somebody listens, so that no word is lost."""
        deadline = time.monotonic() + 30
        while not line.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise StepFailed(f"QEMU did not start:\n{self.messages.read_text(errors='replace')}")
            time.sleep(0.05)
        return line

    def reboot(self) -> None:
        """As a person would; until the agent answers again."""
        self.guest.run("systemctl reboot")
        self._boot = self.guest.await_boot(after=self._boot)

    def cut_power(self) -> None:
        """The machine is off at once. What it had not written to its disk is lost with its memory."""
        if self._guest is not None:
            self._guest.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._guest = self._process = None
