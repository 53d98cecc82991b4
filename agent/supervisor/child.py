"""One child process: started, watched until it says it is ready, started again when it dies.

A child talks through the pipe whose number is in ``$PODWIRE_STATUS_FD``, a line at a time: ``ready``; ``alive`` every
now and then, from its event loop; and before it ends because something is wrong, ``failed`` and why, so that a person
need not look for the reason in a log. One that has fallen silent hangs: it is killed, and started again like any other
that died. When the supervisor dies the kernel sends each child SIGTERM (``PR_SET_PDEATHSIG``, set by the child itself),
so that none outlives it unseen.

A child hears two signals. SIGTERM: end, and leave what was made in the kernel. And ``SHUTDOWN``, in the role ``node``
only: the machine shuts down, so end the pods, and then yourself (see ``shutdown``). It is sent only once the child has
shown life in this run, for then it listens: before that the signal would kill it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.supervisor.state import ChildState, ChildStatus

log = logging.getLogger(__name__)

BACKOFF = (0.5, 30.0)  # seconds: pause before the first restart, longest pause
STEADY = 60.0  # seconds after which a run counts as good and the pause starts small again
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LAST_WORDS = 1.0  # seconds that the pipe of a dead child may take to end
TICK = 2.0  # seconds between two signs of life, and between two looks whether they came
PATIENCE = 15  # looks in a row that may find none: looks, not seconds, as the whole machine may have been paused
PATIENCE_AT_START = 150  # of a process that is not ready yet: to load everything may take a slow machine a minute
SHUTDOWN = signal.SIGPWR
LOG_LIMIT = 16 << 20  # bytes after which a log is put aside at the next start


def command(role: str, config_file: Path) -> tuple[str, ...]:
    """The argv of a child. ``-P``: nothing is imported from the folder that podwire happens to be started in."""
    return (sys.executable, "-P", "-m", "agent.supervisor.process", role, str(config_file))


class Child:
    """``role``: what runs in it (see ``process``). ``listen``: sockets handed down, by file descriptor."""

    def __init__(
        self,
        role: str,
        *,
        config_file: Path,
        log_file: Path | None,
        changed: Callable[[], None],
        listen: Sequence[int] = (),
    ) -> None:
        self.role = role
        self._config_file, self._log_file, self._changed, self._listen = config_file, log_file, changed, tuple(listen)
        self._process: asyncio.subprocess.Process | None = None
        self._state: ChildState = "starting"
        self._since = time.time()
        self._restarts = 0
        self._why = ""
        self._said = ""
        self._heard = False  # since the last look
        self._silent = 0  # looks in a row
        self._last = False  # this run is the last one
        self._listens = asyncio.Event()  # unset while a process has not shown life yet
        self._listens.set()
        self._over = asyncio.Event()  # ``run`` has come to its end

    @property
    def answering(self) -> bool:
        """False if it hangs. One that has died does not: it is being started again."""
        return self._silent < self._patience

    def look(self) -> None:
        """For the supervisor, every TICK seconds: kill the process if it has been silent for too long."""
        if self._process is None or self._process.returncode is not None:
            return
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        if self._silent == self._patience:
            self._said = f"it had not answered for {self._silent * TICK:g} s"
            log.error("%s hangs: %s; it is killed", self.role, self._said)
            self._process.kill()

    @property
    def _patience(self) -> int:
        return PATIENCE if self._state == "ready" else PATIENCE_AT_START

    @property
    def status(self) -> ChildStatus:
        pid = self._process.pid if self._process is not None and self._process.returncode is None else None
        return ChildStatus(self.role, self._state, pid, self._restarts, self._since, self._why)

    async def run(self) -> None:
        """Keep the process running until cancelled; then stop it, leaving what it made in the kernel. Returns after
        ``run_no_more``, when it has ended by itself.
        """
        pause = BACKOFF[0]
        try:
            while not self._last:
                started = time.monotonic()
                code = await self._run_once()
                self._why = f"{_ending(code)}: {self._said}" if self._said else _ending(code)
                if code != 0 or not self._last:
                    log.error("%s died: %s%s", self.role, self._why, self._hint())
                if self._last:
                    break
                pause = BACKOFF[0] if time.monotonic() - started > STEADY else pause
                self._set("waiting")
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF[1])
                self._restarts += 1
        finally:
            await self._stop()
            self._set("stopped")
            self._over.set()

    def run_no_more(self) -> None:
        """However the process ends, it is not started again: the node is about to be stopped."""
        self._last = True

    async def finish(self, number: signal.Signals, *, within: float) -> bool:
        """Send the process a signal as soon as it listens, and wait until it has ended by itself (one that is not there
        has). False if it has not within so many seconds. For after ``run_no_more``.
        """
        try:
            async with asyncio.timeout(within):
                await self._listens.wait()
                if self._process is not None and self._process.returncode is None:
                    self._process.send_signal(number)
                    await self._over.wait()
        except TimeoutError:
            return False
        return True

    async def _run_once(self) -> int:
        read_end, write_end = os.pipe()
        try:
            self._said, self._heard, self._silent = "", False, 0
            self._listens.clear()
            self._process = await self._spawn(write_end)
            self._set("starting")
        except BaseException:
            os.close(read_end)
            self._listens.set()
            raise
        finally:
            os.close(write_end)
        listener = asyncio.create_task(self._listen_to(read_end))
        try:
            code = await self._process.wait()
            self._silent = 0
            self._listens.set()
            await asyncio.wait([listener], timeout=LAST_WORDS)
            return code
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _spawn(self, status_fd: int) -> asyncio.subprocess.Process:
        environment = {
            **os.environ,
            "PODWIRE_STATUS_FD": str(status_fd),
            "PODWIRE_SUPERVISOR": str(os.getpid()),
            "PODWIRE_LISTEN_FDS": ",".join(map(str, self._listen)),
        }
        output = self._open_log()
        try:
            return await asyncio.create_subprocess_exec(
                *command(self.role, self._config_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(status_fd, *self._listen),
                process_group=0,  # Ctrl-C is for the supervisor: it stops its children in order
            )
        finally:
            if output is not None:
                os.close(output)

    def _open_log(self) -> int | None:
        if self._log_file is None:
            return None
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_LIMIT:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        return os.open(self._log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    async def _listen_to(self, read_end: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(read_end, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while line := (await reader.readline()).decode(errors="replace").strip():
                word, _, rest = line.partition(" ")
                if word == "alive":
                    self._heard = True
                    self._listens.set()
                elif word == "ready":
                    self._set("ready")
                elif word == "failed":
                    self._said = rest
        finally:
            transport.close()

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                await process.wait()
        except TimeoutError:
            log.warning("%s did not stop within %g s: killed", self.role, GRACE)
            process.kill()
            await process.wait()

    def _set(self, state: ChildState) -> None:
        self._state, self._since = state, time.time()
        self._changed()

    def _hint(self) -> str:
        return f"; its last words are in {self._log_file}" if self._log_file else ""


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
