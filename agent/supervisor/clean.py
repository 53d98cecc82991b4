"""``podwire down --drain`` and ``podwire clean``: take away what podwire made, and only that.

Safe after a crash and when half of it is gone already: every step looks first, and a step that fails is told and does
not keep the others from running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator

from agent import shell
from agent.config import DEFAULT_STATE_DIR, Config, Paths, read_resolved
from agent.supervisor.predecessors import await_predecessors
from agent.supervisor.prepare import in_node, made_namespace, sysctl_memory
from agent.supervisor.state import Lock, SupervisorError, read_status, running_pid
from netns import host, namespaces

log = logging.getLogger(__name__)

STOP_TIMEOUT = 20.0  # seconds


def stop(paths: Paths) -> bool:
    """Stop the supervisor of this state directory and wait until it is gone. False where none runs."""
    pid, status = running_pid(paths), read_status(paths)
    if pid is None:
        await_predecessors(paths.resolved_config)
        return False
    if status is not None and status.unit:
        _stop_unit(status.unit)
        return True
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


def _stop_unit(unit: str) -> None:
    """A service that merely ended would be started again (``Restart=always``): it is its manager who must stop it."""
    try:
        shell.run(["systemctl", "stop", unit])
    except shell.CommandError as error:
        raise SupervisorError(f"cannot stop podwire, which runs as {unit}: {error}") from error


def drain(paths: Paths, *, node_netns: str | None) -> None:
    """Remove all pods of the node; objects stay in the store, so the next ``up`` starts the pods again. Nothing happens
    if there has been no node. Raises SupervisorError.
    """
    config = _last_config(paths, node_netns)
    if config is None:
        return
    with _nobody_else(paths):
        try:
            _remove_pods(config)
        except Exception as error:
            raise SupervisorError(f"cannot remove the pods of node {config.node_name}: {error}") from error


def clean(paths: Paths, *, node_netns: str | None, keep_state: bool) -> Iterator[str]:
    """Remove pods, rules, bridge, namespace, state: a line per step. Raises SupervisorError if any failed.

    ``node_netns`` is only asked where it is not on record any more.
    """
    config = _last_config(paths, node_netns)
    with _nobody_else(paths):
        yield from _take_away(paths, config, keep_state=keep_state)


def _last_config(paths: Paths, node_netns: str | None) -> Config | None:
    """What the node was told when it last started; None if it never did.

    Where that cannot be read, the namespace must be known: to guess could take away the rules of another node.
    """
    file = paths.resolved_config
    try:
        return read_resolved(file)
    except FileNotFoundError:
        if not paths.database.exists():
            return None
    except ValueError as error:
        log.warning("%s cannot be read, the defaults are taken: %s", file, error)
    marker = made_namespace(paths)
    known = node_netns or (marker.read_text() if marker.exists() else "")
    if not known and paths.state_dir != DEFAULT_STATE_DIR:
        raise SupervisorError(
            f"cannot tell in which network namespace the node of {paths.state_dir} was: {file} is missing or damaged; "
            "say it with --node-netns"
        )
    return Config(state_dir=paths.state_dir, node_netns=known or None)


@contextlib.contextmanager
def _nobody_else(paths: Paths) -> Iterator[None]:
    """No ``podwire up`` begins meanwhile."""
    lock = Lock(paths)
    try:
        yield
    finally:
        lock.release()


def _take_away(paths: Paths, config: Config | None, *, keep_state: bool) -> Iterator[str]:
    failures: list[str] = []
    for what, step in _steps(paths, config):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - every step must have its turn; all failures are raised below
            failures.append(f"{what}: {error}")
        else:
            yield what
    if failures:  # what is left can only be found again by the state
        raise SupervisorError("cannot clean everything, so the state is kept: " + "; ".join(failures))
    if not keep_state:
        _remove_tree(paths)
        yield f"state removed: {paths.state_dir}"


def _steps(paths: Paths, config: Config | None) -> Iterator[tuple[str, Callable[[], object]]]:
    if config is not None:
        yield "pods removed", lambda: _remove_pods(config)
    if config is not None and _has_network(config):
        yield "Service rules removed", lambda: in_node(config, lambda: _remove_rules(config))
        yield "bridge and sysctls restored", lambda: in_node(config, lambda: _remove_bridge(config))
    marker = made_namespace(paths)
    if marker.exists():
        if name := marker.read_text():
            yield f"network namespace {name} removed", lambda: namespaces.remove(name)
        yield "namespace marker removed", marker.unlink


def _remove_pods(config: Config) -> None:
    from agent import kubelet

    def remove() -> None:
        asyncio.run(kubelet.remove_all(config))

    if _has_network(config):
        in_node(config, remove)
    else:  # somebody deleted the node's namespace, and with it the pods' links; containers run on
        namespaces.in_new(remove)


def _has_network(config: Config) -> bool:
    return config.node_netns is None or namespaces.exists(config.node_netns)


def _remove_rules(config: Config) -> None:
    from agent import proxy

    proxy.cleanup(proxy.Options.from_config(config))


def _remove_bridge(config: Config) -> None:
    host.remove_node(config.bridge, memory=sysctl_memory(config.paths))


def _remove_tree(paths: Paths) -> None:
    for folder in (paths.run_dir, paths.state_dir):
        if folder.exists():
            shutil.rmtree(folder)
