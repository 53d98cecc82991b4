"""A program in namespaces of its own, of which nothing is left when it ends.

It is process 1 of a process namespace, so that the kernel ends all others in it when it ends; its mounts are seen by
nobody else, and a tmpfs, on which it works, is gone with the last of them. It is killed when the one who started it
ends, even if that was by SIGKILL: ``setpriv`` sees to this for ``unshare``, ``unshare --kill-child`` for the program.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
WORK = Path("/mnt")  # where the tmpfs lies
APART = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork",
         "--mount-proc", "--kill-child")  # fmt: skip
MOUNT = f'mount -t tmpfs -o mode=0755,size=75% vm {WORK} && exec "$@"'


def run_apart(argv: Sequence[str], *, limit: float) -> int:
    """The exit code of a program; 130 after SIGINT or SIGTERM; 1 if it has not ended within ``limit`` seconds."""
    signal.signal(signal.SIGTERM, _interrupt)
    process = subprocess.Popen((*APART, "sh", "-c", MOUNT, "sh", *argv), cwd=REPOSITORY, stdin=subprocess.DEVNULL)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"vm: not done after {limit:g} s, so it hangs: ended", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        process.kill()  # by exec it is unshare by now
        process.wait()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
