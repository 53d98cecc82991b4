"""A process that is nothing but an API server: ``python -m tests.harness.serve_api CONFIG FD``.

FD is a listening socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from agent.apiserver import serve
from agent.config import Config, read_resolved


async def _run(config: Config, listener: socket.socket) -> None:
    task = asyncio.create_task(serve(config, sockets=[listener], ready=lambda: print("ready", flush=True)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    asyncio.run(_run(read_resolved(Path(sys.argv[1])), socket.socket(fileno=os.dup(int(sys.argv[2])))))
