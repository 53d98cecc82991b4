"""What the processes of a node tell about themselves: logs and the timeline.

Logs go to standard error, one line each; the supervisor adds them to ``<state-dir>/log/<process>.log``.

The timeline is how a person sees *The Sequence*: each component notes the moment it first acts on an object, one JSON
line each, in ``<run-dir>/timeline.jsonl``. Lines are written with one ``write`` to a file opened ``O_APPEND``, so that
several processes share the file without a lock (``write(2)``: the offset change and the write are one atomic step).
Above ``LIMIT`` bytes the file is renamed to ``timeline.jsonl.1``: it is a window on what just happened, not a history.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

LIMIT = 4 << 20  # bytes

# The steps a Service goes through, in the order in which they happen (docs/document.md).
REQUEST_ACCEPTED = "request accepted"
ENDPOINTS_SAW = "endpoints controller saw it"
SLICE_WRITTEN = "EndpointSlice written"
PROXY_SAW = "proxy saw it"
RULES_IN_KERNEL = "rules in the kernel"
DNS_SAW = "DNS saw it"
NAME_ANSWERS = "name answers"
STEPS = (REQUEST_ACCEPTED, ENDPOINTS_SAW, SLICE_WRITTEN, PROXY_SAW, RULES_IN_KERNEL, DNS_SAW, NAME_ANSWERS)


@dataclass(frozen=True, slots=True)
class Mark:
    """``step`` (one of STEPS) was reached for the Service ``namespace/name`` at ``at`` (seconds since the epoch)."""

    at: float
    step: str
    namespace: str
    name: str
    detail: str = ""


class Timeline:
    """Appends marks to one file. ``Timeline(None)`` notes nothing: a component that runs alone needs no timeline."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd: int | None = None

    def mark(self, step: str, namespace: str, name: str, *, detail: str = "", at: float | None = None) -> None:
        if self._path is None:
            return
        line = msgspec.json.encode(
            Mark(at=time.time() if at is None else at, step=step, namespace=namespace, name=name, detail=detail)
        )
        os.write(self._open(), line + b"\n")

    def _open(self) -> int:
        assert self._path is not None
        if self._fd is None or os.fstat(self._fd).st_nlink == 0 or os.fstat(self._fd).st_size > LIMIT:
            if self._fd is not None:
                os.close(self._fd)
            if self._path.exists() and self._path.stat().st_size > LIMIT:
                self._path.replace(self._path.with_suffix(".jsonl.1"))
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._fd


def read_timeline(path: Path) -> Iterator[Mark]:
    """The marks of a timeline file, oldest first; a line cut short by a crash is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=Mark)
        except msgspec.DecodeError:
            continue


def setup_logging(process: str, *, verbose: bool = False) -> None:
    """Log to standard error: ``HH:MM:SS.mmm LEVEL process logger: message``."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03d %(levelname).1s {process} %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "httpx", "httpcore", "asyncio", "websockets", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
