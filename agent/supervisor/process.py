"""What runs inside a child: ``python -m agent.supervisor.process ROLE CONFIG``.

First of all, while the process still has one thread, it enters the node's network namespace; everything it opens from
then on belongs to the node. Components are imported only in the process that runs them. SIGTERM ends each of them;
the role ``node`` knows one signal more, ``child.SHUTDOWN``.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

from agent.config import Config, read_resolved
from agent.lifetime import is_explained, resolve_reason, run_until_told
from agent.supervisor.child import SHUTDOWN, TICK
from agent.telemetry import setup_logging

log = logging.getLogger(__name__)
Ready = Callable[[], None]

PR_SET_PDEATHSIG = 1


async def control(config: Config, ready: Ready) -> None:
    """API server and controllers: they share a process, and still speak only HTTP with each other."""
    from agent import apiserver, controllers
    from agent.kube.client import connect

    serving = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(apiserver.serve(config, sockets=_inherited_sockets(), ready=serving.set))
        await serving.wait()
        client = connect(config.paths.node_kubeconfig, field_manager="podwire-controllers")
        group.create_task(controllers.run(client, config, ready=ready))


async def node(config: Config, ready: Ready) -> None:
    """Before anything else it listens for SHUTDOWN: the first sign of life tells the supervisor that it does."""
    shutdown = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(SHUTDOWN, shutdown.set)

    from agent import kubelet
    from agent.kube.client import connect

    client = connect(config.paths.node_kubeconfig, field_manager="podwire-kubelet")
    await kubelet.run(client, config, ready=ready, shutdown=shutdown)


async def proxy(config: Config, ready: Ready) -> None:
    from agent import proxy as component
    from agent.kube.client import connect

    client = connect(config.paths.node_kubeconfig, field_manager="podwire-proxy")
    await component.run(client, component.Options.from_config(config), ready=ready)


async def dns(config: Config, ready: Ready) -> None:
    from agent import dns as component
    from agent.kube.client import connect

    client = connect(config.paths.node_kubeconfig, field_manager="podwire-dns")
    await component.run(client, component.Options.from_config(config), ready=ready)


ROLES: dict[str, Callable[[Config, Ready], Coroutine[None, None, None]]] = {
    "control": control,
    "node": node,
    "proxy": proxy,
    "dns": dns,
}


def main() -> int:
    role, config_file = sys.argv[1], Path(sys.argv[2])
    _die_with_parent()
    setup_logging(role)
    try:
        _run(role, config_file)
    except Exception as error:
        reason = resolve_reason(error)
        log.error("%s failed: %s", role, reason, exc_info=log.isEnabledFor(logging.DEBUG) or not is_explained(error))
        _say(f"failed {reason}")
        return 1
    return 0


def _run(role: str, config_file: Path) -> None:
    """SIGTERM cancels the component, which leaves the dataplane as it is."""
    config = read_resolved(config_file)
    setup_logging(role, verbose=config.verbose)
    if config.node_netns:
        from netns.namespaces import enter

        enter(config.node_netns)
    run_until_told(_show_life(ROLES[role](config, _settle)))


async def _show_life(work: Coroutine[None, None, None]) -> None:
    """Run ``work``, and tell the supervisor all the while that the event loop turns (see ``child``)."""
    beat = asyncio.create_task(_beat())
    try:
        await work
    finally:
        beat.cancel()


async def _beat() -> None:
    while True:
        try:
            _say("alive")
        except BrokenPipeError:  # the supervisor is gone, and the kernel is about to tell us to end
            return
        await asyncio.sleep(TICK)


def _settle() -> None:
    """The component is ready. What was loaded to get here stays for good: the garbage collector need not look through
    it again and again, which would stop the process for tens of milliseconds each time.
    """
    _say("ready")
    gc.collect()
    gc.freeze()


def _say(line: str) -> None:
    """Tell the supervisor (see ``child``)."""
    descriptor = os.environ.get("PODWIRE_STATUS_FD")
    if descriptor:
        os.write(int(descriptor), f"{line}\n".encode(errors="replace"))


def _inherited_sockets() -> list[socket.socket]:
    numbers = filter(None, os.environ.get("PODWIRE_LISTEN_FDS", "").split(","))
    return [socket.socket(fileno=int(number)) for number in numbers]


def _die_with_parent() -> None:
    """Unless it is dead already: a supervisor may be killed at any moment, also before this line."""
    parent = int(os.environ.get("PODWIRE_SUPERVISOR", os.getppid()))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
