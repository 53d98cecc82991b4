"""The machine shuts down: pods are ended before the node is stopped (Graceful Node Shutdown, KEP-2000).

Otherwise their containers, which are in no unit of systemd's, would live until systemd-shutdown sends its last SIGTERM
to whatever is left. By then neither DNS nor the API is there, no preStop hook has run, and a first process that does
not listen to SIGTERM holds up the machine for 90 s (``DefaultTimeoutStopSec=``).

A stop for this reason looks like any other: systemd sends SIGTERM. But then its own state is ``stopping``, as a job for
``shutdown.target`` is there (systemctl(1), is-system-running). Upstream's kubelet delays the shutdown by an inhibitor
lock of logind instead. That holds back who asks logind, not who asks systemd itself (``systemctl start reboot.target``,
a signal to process 1), and logind is not on every machine.

A supervisor that is no unit of systemd's does not ask: somebody who ends ``podwire up`` by hand wants pods to stay.
"""

from __future__ import annotations

import asyncio
import logging
from subprocess import PIPE

from agent import shell

log = logging.getLogger(__name__)

ASK = 5.0  # seconds that the service manager may take to answer
MARGIN = 5.0  # seconds that the kubelet may take longer than pods may, to note their ends and tell the API
EXTENSION = 20.0  # seconds that are asked for at a time: more than two signs of life, or the end of all children, take


async def machine_shuts_down(unit: str) -> bool:
    """Whether the service ``unit`` that we are (empty: none) is stopped because the machine shuts down."""
    if not unit:
        return False
    try:
        return await _system_state() == "stopping"
    except shell.CommandError as error:
        log.warning("cannot tell whether the machine shuts down, so pods are left running: %s", error)
        return False


async def _system_state() -> str:
    """The exit code says nothing new: it is 0 for ``running`` only. Raises CommandError."""
    argv = ["systemctl", "is-system-running"]
    process = await shell.spawn(argv, stdout=PIPE)
    try:
        async with asyncio.timeout(ASK):
            said, _ = await process.communicate()
    except TimeoutError:
        raise shell.CommandError(argv, code=None, output=f"no answer within {ASK:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(errors="replace").strip()
