"""The kubelet: runs the pods of this node, each in a network namespace of its own, and tells the API about them.

``pod`` and ``status`` decide (pure); ``worker`` carries out, one per pod; ``loop`` finds the pods; ``server`` answers
``kubectl logs`` and ``exec``. Below them ``sandbox`` (namespace, address, files in /etc), ``containers`` (runc under
conmon) and ``images``. See docs/architecture.md.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from agent.config import Config
from agent.kube.client import Client


async def run(client: Client, config: Config, *, ready: Callable[[], None], shutdown: asyncio.Event) -> None:
    """Run this node's pods until cancelled; then they go on running and the next kubelet adopts them. Or until
    ``shutdown`` is set, because the machine shuts down: then their containers are ended gracefully within
    ``shutdown_grace_period``, and this returns.

    The process must be in the node's network namespace, with bridge and certificates prepared. ``ready`` is called
    once: the node is registered, what ran before is adopted, and the server listens on ``node_ip:kubelet_port``.
    """
    from agent.kubelet.loop import Kubelet

    await Kubelet(client, config).run(ready=ready, shutdown=shutdown)


async def remove_all(config: Config) -> None:
    """Kill and remove every pod of a state directory, and nothing else. No kubelet may be running. Idempotent."""
    from agent.kubelet.loop import make_runtime, make_sandboxes

    await make_runtime(config).clean()
    sandboxes = make_sandboxes(config)
    try:
        await sandboxes.clean()
    finally:
        sandboxes.close()
    if config.paths.pods.exists():
        await asyncio.to_thread(shutil.rmtree, config.paths.pods)
