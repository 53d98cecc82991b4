"""What is said to systemd, and what it wants to hear: sd_notify(3) and sd_watchdog_enabled(3) in a few lines.

A unit with ``Type=notify`` hands over a datagram socket (``$NOTIFY_SOCKET``) and, with ``WatchdogSec=``, a period in
which ``WATCHDOG=1`` must come. podwire says ``READY=1`` when every process does its work, ``STATUS=`` whenever that
changes, ``WATCHDOG=1`` while every process answers, ``STOPPING=1`` before it stops them. If pods are ended before that,
because the machine shuts down, ``EXTEND_TIMEOUT_USEC=`` again and again keeps ``TimeoutStopSec=`` from being the limit.
There is no ``RELOADING=1``: a new configuration takes a restart, which moves neither pods nor rules.

The variables are taken *out* of the environment. They are meant for this process alone; above all, runc with a
``$NOTIFY_SOCKET`` takes the *container* for the one who speaks sd_notify, and ``runc start`` waits for its ``READY=1``
for ever (runc's notify_socket.go).
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "SYSTEMD_EXEC_PID")


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Who started us, if it was systemd. ``address``: its socket, empty if nobody listens. ``watchdog``: seconds within
    which it wants to hear from us; 0: it does not. ``unit``: the service that we are the main process of, or empty.
    """

    address: str = ""
    watchdog: float = 0.0
    unit: str = ""

    def notify(self, *assignments: str) -> None:
        """Send e.g. ``READY=1``, ``STATUS=...``; an address that starts with ``@`` is in the abstract namespace.

        A manager that cannot be reached, or does not read, is no reason to end or to wait: what it does not hear it
        will notice itself.
        """
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)
        except OSError as error:
            log.warning("cannot tell the service manager %s at %s: %s", assignments[0], self.address, error)


def meet_manager(environment: MutableMapping[str, str] = os.environ, *, pid: int | None = None) -> ServiceManager:
    """The manager that ``environment`` tells of, which is then told of no more. ``pid``: ours."""
    told = {name: environment.pop(name, "") for name in VARIABLES}
    me = str(os.getpid() if pid is None else pid)
    watched = told["WATCHDOG_USEC"].isdecimal() and told["WATCHDOG_PID"] in ("", me)
    direct = told["SYSTEMD_EXEC_PID"] == me  # else somebody in a service, a CI runner say, has started us by hand
    return ServiceManager(
        address=told["NOTIFY_SOCKET"],
        watchdog=int(told["WATCHDOG_USEC"]) / 1e6 if watched else 0.0,
        unit=parse_unit(Path("/proc/self/cgroup").read_text()) if direct else "",
    )


def parse_unit(cgroups: str) -> str:
    """The service whose cgroup a process is in, from its /proc/PID/cgroup; empty if it is in none.

    The line of systemd's own hierarchy counts: ``0::`` with cgroup v2, ``name=systemd`` with v1 (cgroups(7)).
    """
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd") and (found := re.search(r"/([^/]+\.service)(/|$)", path)):
            return found[1]
    return ""


def in_journal(environment: MutableMapping[str, str] = os.environ, *, stream: int = 2) -> bool:
    """Whether the file descriptor ``stream`` leads to the journal: ``$JOURNAL_STREAM`` names its device and inode
    (systemd.exec(5)). The variable alone proves nothing: it is inherited by all that a service starts.
    """
    try:
        found = os.fstat(stream)
    except OSError:  # closed
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
