"""A command in a running container: ``runc exec`` as a child of podwire, its streams as asyncio readers and writers.

Without a terminal the three streams are pipes. With one, runc makes the container's terminal and relays it to its own,
which is the slave of a pty whose master is held here: ``setsid --ctty`` makes that slave runc's controlling terminal,
so that a resize of the master reaches runc as SIGWINCH.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
import termios
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import shell
from agent.kubelet import procfs

CANNOT_START = 126  # a shell's exit code for what is there but cannot be run; runc's own 255 could be the command's
NOTE_SECONDS = 5.0  # how long runc may take to note the pid of a command that it has started
END_OF_TRANSMISSION = b"\x04"  # ^D: how a terminal says that no more input comes


@dataclass(frozen=True, slots=True)
class ExecFiles:
    """The files of one exec: what to run (runtime-spec's process), the pid that runc writes, and runc's own log
    (without which its log lines would be among the command's output).
    """

    stem: Path

    @property
    def spec(self) -> Path:
        return self.stem.with_suffix(".json")

    @property
    def pid(self) -> Path:
        return self.stem.with_suffix(".pid")

    @property
    def log(self) -> Path:
        return self.stem.with_suffix(".log")

    def command(self, runc: Sequence[str], container_id: str) -> list[str]:
        files = ["--process", str(self.spec), "--pid-file", str(self.pid)]
        return [*runc, "--log", str(self.log), "exec", *files, container_id]

    def remove(self) -> None:
        for path in (self.spec, self.pid, self.log):
            path.unlink(missing_ok=True)


class ExecInput:
    """The command's standard input."""

    def __init__(self, writer: asyncio.StreamWriter, *, end: bytes = b"") -> None:
        self._writer, self._end = writer, end
        self._closed = False

    async def write(self, data: bytes) -> None:
        """Hand over ``data``, waiting while the command does not read. A command that no longer listens is no error."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._writer.write(data)
            await self._writer.drain()

    def close(self) -> None:
        """No more input will come (a terminal is told so with ^D and stays open)."""
        if self._closed:
            return
        self._closed = True
        if self._end:
            self._writer.write(self._end)
        else:
            self._writer.close()

    async def abandon(self) -> None:
        """The command is gone: drop what it did not read."""
        self._closed = True
        transport = self._writer.transport
        if not transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
        await asyncio.sleep(0)  # in which the transport closes


class ExecProcess:
    """A command that runs in a container. With a terminal there is one stream, ``stdout``, and ``stderr`` is None.

    Read ``stdout`` and ``stderr`` to the end (``b""``) and await ``wait()``, or await ``kill()``.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        files: ExecFiles,
        *,
        stdin: ExecInput | None,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader | None,
        terminal: _Terminal | None = None,
    ) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._process, self._files, self._terminal = process, files, terminal

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal its size in characters; nothing happens without one."""
        if self._terminal is not None:
            self._terminal.resize(width, height)

    async def wait(self) -> int:
        """The exit code: 128 + n after signal n; 126 if runc could not start the command, with the reason on its
        output.
        """
        code = await self._process.wait()
        if code == 255 and not self._files.pid.exists():
            code = CANNOT_START
        self._files.remove()
        if self.stdin is not None:
            await self.stdin.abandon()
        return 128 - code if code < 0 else code

    async def kill(self) -> int:
        """End the command with SIGKILL, with its process group; what it still had to say is dropped."""
        pid = await self._noted_pid()
        with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
            if pid is not None and procfs.parent(pid) == self._process.pid:
                os.killpg(pid, signal.SIGKILL)  # runc made it the leader of a session
            # runc would go on relaying for whoever else holds the command's output. (Popen.kill would look first
            # whether it has ended, and so take its exit code away from asyncio, which then makes one up: 255.)
            if self._process.returncode is None:
                os.kill(self._process.pid, signal.SIGKILL)
        code = await self.wait()
        if self._terminal is not None:
            self._terminal.close()
        return code

    async def _noted_pid(self) -> int | None:
        """The command's pid. runc notes it a moment *after* the command has begun, so a missing note is waited for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + NOTE_SECONDS
        while (pid := procfs.read_pid(self._files.pid)) is None and self._process.returncode is None:
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.02)
        return pid


async def exec_pipes(command: Sequence[str], files: ExecFiles, *, stdin: bool) -> ExecProcess:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await shell.spawn(command, stdin=pipe if stdin else nothing, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    given = ExecInput(process.stdin) if process.stdin is not None else None
    return ExecProcess(process, files, stdin=given, stdout=process.stdout, stderr=process.stderr)


async def exec_tty(command: Sequence[str], files: ExecFiles) -> ExecProcess:
    master, slave = os.openpty()
    try:
        # Raw from the start: runc makes it so only a moment after it has begun to relay.
        tty.setraw(slave)
        process = await shell.spawn(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    terminal = await _Terminal.open(master)
    given = ExecInput(terminal.writer, end=END_OF_TRANSMISSION)
    return ExecProcess(process, files, stdin=given, stdout=terminal.reader, stderr=None, terminal=terminal)


class _PtyProtocol(asyncio.StreamReaderProtocol):
    def connection_lost(self, exc: Exception | None) -> None:
        # The read error EIO is how Linux says that nobody holds the slave any more: the end, not a failure.
        ended = isinstance(exc, OSError) and exc.errno == errno.EIO
        super().connection_lost(None if ended else exc)


@dataclass(frozen=True, slots=True)
class _Terminal:
    """The master of a pty as reader and writer. Each has a descriptor of its own, closed by its transport."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    source: asyncio.ReadTransport

    @classmethod
    async def open(cls, master: int) -> _Terminal:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        writing = os.fdopen(os.dup(master), "wb", buffering=0)
        source, _ = await loop.connect_read_pipe(lambda: _PtyProtocol(reader), os.fdopen(master, "rb", buffering=0))
        sink, protocol = await loop.connect_write_pipe(lambda: _PtyProtocol(asyncio.StreamReader()), writing)
        return cls(reader, asyncio.StreamWriter(sink, protocol, None, loop), source)

    def resize(self, width: int, height: int) -> None:
        pipe = self.writer.get_extra_info("pipe")
        if not self.writer.is_closing():
            fcntl.ioctl(pipe.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close(self) -> None:
        self.source.close()
        self.writer.close()
