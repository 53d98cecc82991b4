"""``podwire down --drain`` and ``podwire clean``: take away what podwire made, and only that.

Safe after a crash and when half of it is gone already: every step looks first, and a step that fails is told and does
not keep the others from running.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator

from agent.config import Config, Paths, read_resolved
from agent.supervisor.predecessors import await_predecessors
from agent.supervisor.prepare import in_node, made_namespace, sysctl_memory
from agent.supervisor.state import SupervisorError, running_pid
from netns import host, namespaces

STOP_TIMEOUT = 20.0  # seconds


def stop(paths: Paths) -> bool:
    """Stop the supervisor of this state directory and wait until it is gone. False where none runs."""
    pid = running_pid(paths)
    if pid is None:
        await_predecessors(paths.resolved_config)
        return False
    handle = os.pidfd_open(pid)
    try:
        if running_pid(paths) == pid:  # still the one we opened
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        while running_pid(paths) == pid:
            if time.monotonic() > deadline:
                raise SupervisorError(f"cannot stop podwire (pid {pid}): it did not end within {STOP_TIMEOUT:g} s")
            time.sleep(0.02)
    finally:
        os.close(handle)
    return True


def drain(config: Config) -> None:
    """Remove all pods of the node; objects stay in the store, so the next ``up`` starts the pods again."""
    from agent import kubelet

    in_node(config, lambda: asyncio.run(kubelet.remove_all(config)))


def clean(paths: Paths, *, keep_state: bool) -> Iterator[str]:
    """Remove pods, rules, bridge, namespace, state: a line per step. Raises SupervisorError if any failed."""
    config = read_resolved(paths.resolved_config) if paths.resolved_config.exists() else None
    failures: list[str] = []
    for what, step in _steps(paths, config, keep_state=keep_state):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - every step must have its turn; all failures are raised below
            failures.append(f"{what}: {error}")
        else:
            yield what
    if failures:
        raise SupervisorError("cannot clean everything: " + "; ".join(failures))


def _steps(paths: Paths, config: Config | None, *, keep_state: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    if config is not None and (config.node_netns is None or namespaces.exists(config.node_netns)):
        yield "pods removed", lambda: drain(config)
        yield "Service rules removed", lambda: in_node(config, lambda: _remove_rules(config))
        yield "bridge and sysctls restored", lambda: in_node(config, lambda: _remove_bridge(config))
    marker = made_namespace(paths)
    if marker.exists():
        name = marker.read_text()
        yield f"network namespace {name} removed", lambda: namespaces.remove(name)
        yield "namespace marker removed", marker.unlink
    if not keep_state:
        yield f"state removed: {paths.state_dir}", lambda: _remove_tree(paths)


def _remove_rules(config: Config) -> None:
    from agent import proxy

    proxy.cleanup(proxy.Options.from_config(config))


def _remove_bridge(config: Config) -> None:
    host.remove_node(config.bridge, memory=sysctl_memory(config.paths))


def _remove_tree(paths: Paths) -> None:
    for folder in (paths.run_dir, paths.state_dir):
        if folder.exists():
            shutil.rmtree(folder)
