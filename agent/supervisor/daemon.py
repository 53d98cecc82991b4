"""The loop of ``podwire up``: children running, status told, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence

from agent.config import Config
from agent.lifetime import run_until_told
from agent.supervisor.child import Child
from agent.supervisor.notify import notify
from agent.supervisor.predecessors import await_predecessors
from agent.supervisor.prepare import prepare
from agent.supervisor.process import ROLES
from agent.supervisor.state import Lock, NodeStatus, write_status

log = logging.getLogger(__name__)


class Supervisor:
    """One node's processes. ``announce`` is called once, when all of them are ready for the first time."""

    def __init__(
        self, config: Config, listeners: Sequence[socket.socket], announce: Callable[[NodeStatus], None]
    ) -> None:
        self._config, self._announce = config, announce
        self._started = time.time()
        self._announced = False
        self._children: list[Child] = []
        for role in ROLES:
            listen = tuple(listener.fileno() for listener in listeners) if role == "control" else ()
            self._children.append(self._child(role, listen))

    def _child(self, role: str, listen: tuple[int, ...]) -> Child:
        paths = self._config.paths
        to_journal = "JOURNAL_STREAM" in os.environ  # systemd.exec(5): standard error is the journal
        log_file = None if to_journal else paths.logs / f"{role}.log"
        return Child(role, config_file=paths.resolved_config, log_file=log_file, changed=self._changed, listen=listen)

    async def run(self) -> None:
        """Until cancelled; then the children are stopped, all at once, and the dataplane stays as it is."""
        try:
            async with asyncio.TaskGroup() as group:
                for child in self._children:
                    group.create_task(child.run())
        finally:
            notify("STOPPING=1")

    def status(self) -> NodeStatus:
        config = self._config
        children = tuple(child.status for child in self._children)
        kubeconfig = str(config.paths.kubeconfig)
        return NodeStatus(
            os.getpid(), config.node_name, config.node_ip, config.node_netns, kubeconfig, self._started, children
        )

    def _changed(self) -> None:
        status = self.status()
        write_status(self._config.paths, status)
        if status.ready and not self._announced:
            self._announced = True
            notify("READY=1")
            self._announce(status)


def run_node(config: Config, announce: Callable[[NodeStatus], None]) -> None:
    """Run a node in the foreground until it is told to stop. Raises SupervisorError where it cannot start."""
    lock = Lock(config.paths)
    try:
        await_predecessors(config.paths.resolved_config)
        prepared = prepare(config)
        try:
            run_until_told(Supervisor(prepared.config, prepared.listeners, announce).run())
        finally:
            for listener in prepared.listeners:
                listener.close()
    finally:
        lock.release()
