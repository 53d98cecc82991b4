"""The loop of ``podwire up``: children running, status told, until SIGTERM or SIGINT.

Who watches whom: a child that dies or hangs is the supervisor's to start again (``child``); a supervisor that hangs is
systemd's, which hears ``WATCHDOG=1`` no more. It is withheld too where a hanging child cannot even be killed. A child
that keeps dying, because a port is taken say, is *not* a reason to withhold it: to start everything anew would take
the API server and the proxy away again and again, and would free no port. Why it dies stands in ``STATUS=``.

If it is told to stop because the machine shuts down (``shutdown``), pods come first: the kubelet ends them, and then
itself. The others go on meanwhile, so that a pod that finishes its work resolves names, and Services forget it. No
child is started again any more: a new kubelet would not know, and start the pods again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence

from agent.config import Config
from agent.lifetime import run_until_told
from agent.supervisor.child import SHUTDOWN, TICK, Child
from agent.supervisor.neighbours import describe, look_at_firewalls, look_at_port_53
from agent.supervisor.notify import ServiceManager, in_journal, meet_manager
from agent.supervisor.predecessors import await_predecessors
from agent.supervisor.prepare import prepare
from agent.supervisor.process import ROLES
from agent.supervisor.shutdown import EXTENSION, MARGIN, machine_shuts_down
from agent.supervisor.state import Lock, NodeStatus, write_status

log = logging.getLogger(__name__)


class Supervisor:
    """One node's processes. ``announce`` is called once, when all of them are ready for the first time."""

    def __init__(
        self,
        config: Config,
        listeners: Sequence[socket.socket],
        announce: Callable[[NodeStatus], None],
        manager: ServiceManager,
    ) -> None:
        self._config, self._announce, self._manager = config, announce, manager
        self._started = time.time()
        self._announced = False
        self._last_words = ""  # what is waited for before the stop
        self._children: list[Child] = []
        for role in ROLES:
            listen = tuple(listener.fileno() for listener in listeners) if role == "control" else ()
            self._children.append(self._child(role, listen))

    def _child(self, role: str, listen: tuple[int, ...]) -> Child:
        paths = self._config.paths
        log_file = None if in_journal() else paths.logs / f"{role}.log"
        return Child(role, config_file=paths.resolved_config, log_file=log_file, changed=self._changed, listen=listen)

    async def run(self) -> None:
        """Until cancelled; then the children are stopped, all at once, and the dataplane stays as it is."""
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.run())
            group.create_task(self._look_around())
            group.create_task(self._watch())

    async def farewell(self) -> None:
        """What comes between the signal to stop and the stop: if the machine shuts down, all pods end."""
        grace = self._config.shutdown_grace_period
        if not grace or not await machine_shuts_down(self._manager.unit):
            return
        self._last_words = f"the machine shuts down; waiting up to {grace:g} s for pods to end"
        log.info("%s", self._last_words)
        for child in self._children:
            child.run_no_more()
        self._manager.notify("STOPPING=1", f"STATUS={self._last_words}", *self._extension())
        (kubelet,) = (child for child in self._children if child.role == "node")
        if not await kubelet.finish(SHUTDOWN, within=grace + MARGIN):
            log.warning("the kubelet has not ended within %g s: it is stopped, whatever still runs", grace + MARGIN)

    def _extension(self) -> tuple[str, ...]:
        return (f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}",) if self._last_words else ()

    async def _watch(self) -> None:
        """Look after the children, and tell the service manager that somebody does."""
        pause = min(TICK, self._manager.watchdog / 3) if self._manager.watchdog else TICK
        due = 0.0
        try:
            while True:
                if time.monotonic() >= due:
                    due = time.monotonic() + TICK
                    for child in self._children:
                        child.look()
                if all(child.answering for child in self._children):
                    self._manager.notify(*self._extension(), "WATCHDOG=1")
                await asyncio.sleep(pause)
        finally:
            what = "stopping with the machine" if self._last_words else "stopping; pods and rules stay"
            self._manager.notify("STOPPING=1", f"STATUS={what}", *self._extension())

    async def _look_around(self) -> None:
        """Say which firewalls are here and what they mean for Services. It must not make the start any longer."""
        for finding in await asyncio.to_thread(look_at_firewalls, self._config):
            log.log(logging.WARNING if finding.hint else logging.INFO, "%s", describe(finding))

    def status(self) -> NodeStatus:
        config = self._config
        children = tuple(child.status for child in self._children)
        kubeconfig = str(config.paths.kubeconfig)
        return NodeStatus(
            os.getpid(),
            config.node_name,
            config.node_ip,
            config.node_netns,
            kubeconfig,
            self._started,
            children,
            self._manager.unit,
        )

    def _changed(self) -> None:
        status = self.status()
        write_status(self._config.paths, status)
        first = status.ready and not self._announced
        self._manager.notify(f"STATUS={self._last_words or status}", *(["READY=1"] if first else []))
        if first:
            self._announced = True
            self._announce(status)


def run_node(config: Config, announce: Callable[[NodeStatus], None]) -> None:
    """Run a node in the foreground until it is told to stop. Raises SupervisorError where it cannot start."""
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: where we hung goes to the journal
    manager = meet_manager()
    lock = Lock(config.paths)
    try:
        await_predecessors(config.paths.resolved_config)
        prepared = prepare(config)
        for finding in look_at_port_53(prepared.config):
            log.log(logging.INFO if finding.ok else logging.ERROR, "%s", describe(finding))
        try:
            supervisor = Supervisor(prepared.config, prepared.listeners, announce, manager)
            run_until_told(supervisor.run(), farewell=supervisor.farewell)
        finally:
            for listener in prepared.listeners:
                listener.close()
    finally:
        lock.release()
