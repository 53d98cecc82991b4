"""How conmon is called, and what it says.

Of its options, those that every packaged version has (2.0.25 and later); ``--socket-dir-path`` must name a folder that
exists. It runs runc itself, with the arguments it is given for that, and reports the result in one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

from agent.kubelet import procfs
from agent.kubelet.bundle import Launch

CREATE_TIMEOUT = 60.0  # seconds for conmon to say that runc created the container


def command(launch: Launch, folder: Path, *, runc_root: Path, attach: Path) -> list[str]:
    """The argv. ``folder``: the bundle, in which conmon also leaves its files; ``attach``: for its sockets."""
    return [
        *("conmon", "-c", launch.id, "-u", launch.id, "-n", f"{launch.namespace}/{launch.pod}/{launch.container}"),
        *("-r", shutil.which("runc") or "runc", "-b", str(folder), "-l", f"k8s-file:{launch.log_path}"),
        *("-p", str(folder / "pid"), "-P", str(folder / "conmon.pid"), "--exit-dir", str(folder / "exit")),
        *("--socket-dir-path", str(attach), "--log-level", "warning"),
        *("--runtime-arg", "--root", "--runtime-arg", str(runc_root)),
        *(("-t",) if launch.tty else ()),
        *(("-i", "--leave-stdin-open") if launch.stdin else ()),
    ]


def runs_for(pid: int | None, container_id: str) -> bool:
    """Whether the process is the conmon of this container: by its command line, because process ids are reused."""
    argv = procfs.command_line(pid) if pid is not None else ()
    return len(argv) > 2 and os.path.basename(argv[0]) == "conmon" and argv[1:3] == ("-c", container_id)


async def read_reply(fd: int) -> dict[str, Any]:
    """conmon's one line of JSON: {"pid": N} or {"pid": -1, "message": "..."} ("data" for "pid" in newer versions)."""
    loop, received, pipe = asyncio.get_running_loop(), asyncio.StreamReader(), os.fdopen(fd, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(received), pipe)
    try:
        async with asyncio.timeout(CREATE_TIMEOUT):
            line = await received.readline()
    except TimeoutError:
        return {"message": f"conmon did not answer in {CREATE_TIMEOUT:g} s"}
    finally:
        transport.close()
    try:
        reply = json.loads(line) if line else {}
    except ValueError:
        return {"message": line.decode(errors="replace")}
    return reply if isinstance(reply, dict) else {}
