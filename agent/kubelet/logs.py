"""Container logs: conmon writes them in the Kubernetes format, here they are read back for ``kubectl logs``.

One line of the file is one piece of output (KEP: kubernetes/design-proposals-archive, kubelet-cri-logging.md)::

    2024-05-01T10:00:00.123456789+00:00 stdout F a whole line
    2024-05-01T10:00:00.200000000+00:00 stdout P the beginning of a long one,
    2024-05-01T10:00:00.200000001+00:00 stdout F  and its end

A *line* below is what the program wrote: some P pieces and an F piece. Following is inotify, so nothing is polled.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

BLOCK = 65536
_IN_MODIFY = 0x2
Ended = Callable[[], Awaitable[object]]
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC have the same values (inotify_init(2))


@dataclass(frozen=True, slots=True)
class LogOptions:
    """As in PodLogOptions: ``tail`` lines, pieces written at or after ``since`` (epoch seconds), ``limit`` bytes."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One line of the file. ``partial``: the program's line goes on in the next piece."""

    time: bytes
    stream: bytes
    partial: bool
    content: bytes

    @property
    def shown_time(self) -> bytes:
        """As Go writes RFC 3339: ``Z`` where conmon has ``+00:00``."""
        return self.time.removesuffix(b"+00:00") + b"Z" if self.time.endswith(b"+00:00") else self.time

    @property
    def written_at(self) -> float:
        """Epoch seconds. Raises ValueError."""
        return datetime.fromisoformat(self.time.decode()).timestamp()


def parse_piece(line: bytes) -> Piece | None:
    """One line of the file, without its line end; None if it is none (cut short by a crash)."""
    time, _, rest = line.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tag, _, content = rest.partition(b" ")
    if stream not in (b"stdout", b"stderr") or tag[:1] not in (b"F", b"P"):
        return None
    return Piece(time, stream, tag[:1] == b"P", content)


def tail_offset(blocks: Iterator[bytes], size: int, lines: int) -> int:
    """Where the program's last ``lines`` lines begin. ``blocks``: a file of ``size`` bytes, its last block first."""
    found, offset = 0, size
    for line in _backwards(blocks):
        piece = parse_piece(line.rstrip(b"\n"))
        begins_new = (
            piece is None or not piece.partial or found == 0
        )  # an F piece closes a line; a last P is one as well
        if begins_new and found == lines:
            return offset
        found += begins_new
        offset -= len(line)
    return 0


class Renderer:
    """File content in, what ``kubectl logs`` prints out. Keeps what is needed across blocks."""

    def __init__(self, options: LogOptions) -> None:
        self._options, self._rest, self._continued = options, b"", False
        self._left = options.limit

    @property
    def full(self) -> bool:
        """``limit`` bytes have been given out."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        output = b"".join(self._render(line) for line in lines)
        if self._left is not None:
            output = output[: self._left]
            self._left -= len(output)
        return output

    def _render(self, line: bytes) -> bytes:
        piece = parse_piece(line)
        if piece is None or (self._options.since is not None and piece.written_at < self._options.since):
            return b""
        prefix = piece.shown_time + b" " if self._options.timestamps and not self._continued else b""
        self._continued = piece.partial
        return prefix + piece.content + (b"" if piece.partial else b"\n")


async def read_log(path: Path, options: LogOptions, *, ended: Ended) -> AsyncIterator[bytes]:
    """The log as it is and, with ``follow``, as it grows until ``ended()`` is done (the container has exited)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a container that never got as far as writing
        return
    try:
        renderer = Renderer(options)
        os.lseek(descriptor, _start(descriptor, options), os.SEEK_SET)
        async for data in _follow(path, descriptor, ended) if options.follow else _all(descriptor):
            output = renderer.feed(data)
            if output:
                yield output
            if renderer.full:
                return
    finally:
        os.close(descriptor)


def _start(descriptor: int, options: LogOptions) -> int:
    if options.tail is None:
        return 0
    size = os.fstat(descriptor).st_size
    return tail_offset(_blocks(descriptor, size), size, options.tail) if options.tail > 0 else size


async def _all(descriptor: int) -> AsyncIterator[bytes]:
    while data := os.read(descriptor, BLOCK):
        yield data
        await asyncio.sleep(0)


async def _follow(path: Path, descriptor: int, ended: Ended) -> AsyncIterator[bytes]:
    end = asyncio.ensure_future(ended())
    growth = _Growth(path)
    end.add_done_callback(lambda _: growth.wake())
    try:
        while True:
            growth.forget()
            over = end.done()  # asked before reading: what was written until then is read
            async for data in _all(descriptor):
                yield data
            if over:
                return
            await growth.wait()
    finally:
        growth.close()
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)


class _Growth:
    """inotify on one file, in the event loop."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(_FLAGS)
        if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_MODIFY) < 0:
            code = ctypes.get_errno()
            if self._descriptor >= 0:
                os.close(self._descriptor)
            raise OSError(code, f"cannot watch {path}: {os.strerror(code)}")
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        os.read(self._descriptor, 4096)
        self._grown.set()

    def forget(self) -> None:
        self._grown.clear()

    async def wait(self) -> None:
        """Until the file has grown since ``forget``, or somebody calls ``wake``."""
        await self._grown.wait()

    def wake(self) -> None:
        self._grown.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    """The file's blocks, the last one first."""
    while size > 0:
        start = max(0, size - BLOCK)
        yield os.pread(descriptor, size - start, start)
        size = start


def _backwards(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends, the last one first; a line may span blocks."""
    rest = b""
    for block in blocks:
        *whole, last = (block + rest).split(b"\n")
        first, *lines = [*(line + b"\n" for line in whole), *([last] if last else [])]
        yield from reversed(lines)
        rest = first  # may have begun in the block before
    if rest:
        yield rest
