"""The one door through which podwire starts other programs.

Each command is logged as a line that can be pasted into a shell (at DEBUG), and a failure carries that line, the exit
code and what the program said. ``rules`` and ``netns`` know nothing of the agent: they are handed ``run`` as a value.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger(__name__)


class CommandError(Exception):
    """A program could not be started, timed out (seconds), or exited with a code other than 0."""

    def __init__(self, argv: Sequence[str], *, code: int | None, output: str) -> None:
        self.argv, self.code, self.output = tuple(argv), code, output
        how = f"exit code {code}" if code is not None else "not finished"
        super().__init__(f"{shlex.join(argv)}: {how}: {output.strip() or 'no output'}")


def run(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 60.0) -> bytes:
    """Run ``argv``, give it ``stdin``, return its standard output. Raises CommandError. Blocks: use an executor."""
    log.debug("+ %s", shlex.join(argv))
    try:
        done = subprocess.run(
            argv, input=stdin if stdin is not None else b"", capture_output=True, timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        raise CommandError(argv, code=None, output=f"{error.filename}: no such program") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, code=None, output=f"killed after {timeout:g} s") from error
    if done.returncode != 0:
        raise CommandError(argv, code=done.returncode, output=(done.stderr or done.stdout).decode(errors="replace"))
    return done.stdout


async def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start ``argv`` and hand back the running process: for what is talked to, or outlives the call. Raises
    CommandError.
    """
    log.debug("+ %s", shlex.join(argv))
    try:
        return await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, pass_fds=pass_fds
        )
    except FileNotFoundError as error:
        raise CommandError(argv, code=None, output=f"{error.filename}: no such program") from error
