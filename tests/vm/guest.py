"""The test's end of the serial line: requests to ``inside/agent.py`` and its answers, in frames as described there."""

from __future__ import annotations

import base64
import binascii
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.progress import StepFailed

STX = b"\x02"
GRACE = 30.0  # seconds that an answer may take beyond the time that was given to do the work
BOOT = 300.0  # seconds that a machine may take from its start to the agent's first word

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """Of an HTTP request made in the machine. ``pod``: who says that it answered. Status 0: ``text`` says why."""

    status: int
    pod: str
    text: str


@dataclass(slots=True)
class Knocks:
    """Requests that were answered, and when and how others were not."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


class Guest:
    """A machine that runs. One request at a time. ``silent`` things end in StepFailed, never in waiting for ever."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line.connect(str(path))
        self._buffer = b""
        self._number = 0

    def close(self) -> None:
        self._line.close()

    def await_boot(self, *, after: str = "") -> str:
        """Wait for the agent's first word; the id of the boot, which differs from that of the boot ``after``."""
        for frame in self._frames(BOOT):
            if frame.get("hello", after) != after:
                return str(frame["hello"])
        raise StepFailed(f"the machine has not booted within {BOOT:g} s")

    def run(self, script: str, *, timeout: float = 60.0) -> str:
        """What a shell script printed. Raises StepFailed if its exit code is not 0."""
        code, output = self.attempt(script, timeout=timeout)
        if code != 0:
            why = f"not done after {timeout:g} s" if code == 124 else f"exit code {code}"
            raise StepFailed(f"in the machine: {script}: {why}\n{output}")
        return output

    def attempt(self, script: str, *, timeout: float = 60.0) -> tuple[int, str]:
        """Exit code (124: it took longer than ``timeout`` seconds) and output of a shell script."""
        (frame,) = self._ask("run", timeout + GRACE, script=f"set -euo pipefail\n{script}", timeout=timeout)
        return frame["code"], frame["output"]

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a request to podwire's API server; status 0: it cannot be reached."""
        (frame,) = self._ask("api", 30 + GRACE, method=method, path=path, body=body)
        return frame["status"], frame["body"]

    def create_all(self, path: str, objects: list[Frame]) -> Iterator[Frame]:
        """Objects created one after the other: each as it was stored, as soon as that is acknowledged."""
        for frame in self._ask("create_all", 60 + GRACE, path=path, objects=objects):
            if "created" in frame:
                if frame["status"] != 201:
                    raise StepFailed(f"POST {path}: {frame['status']} {frame['body']}")
                yield frame["body"]

    def fetch(self, address: str, port: int, path: str = "/", *, netns: str = "", times: int = 1) -> list[Answer]:
        """HTTP GETs from the machine, or from a network namespace in it, one connection each."""
        words = {"address": address, "port": port, "path": path, "netns": netns, "times": times}
        (frame,) = self._ask("fetch", 10.0 * times + GRACE, **words)
        return [Answer(*answer) for answer in frame["answers"]]

    def reach(self, targets: Mapping[str, tuple[str, int]], *, netns: str) -> set[str]:
        """The names of those addresses and TCP ports that accept a connection from a network namespace."""
        (frame,) = self._ask("reach", GRACE, netns=netns, targets=list(targets.values()))
        return {name for name, reached in zip(targets, frame["reached"], strict=True) if reached}

    @contextmanager
    def knocking(self, address: str, port: int, *, netns: str) -> Iterator[Knocks]:
        """A client in ``netns`` that keeps connecting, and keeps a connection, during the block; filled at its end."""
        knocks = Knocks()
        list(self._ask("knock", GRACE, address=address, port=port, path="/", netns=netns))
        try:
            yield knocks
        finally:
            (frame,) = self._ask("stop_knocking", GRACE)
            knocks.answered, knocks.failures = frame["answered"], frame["failures"]

    def _ask(self, do: str, seconds: float, **words: Any) -> Iterator[Frame]:
        """The frames of an answer, up to and with the last one."""
        self._number += 1
        line = STX + base64.b64encode(json.dumps({"id": self._number, "do": do, "with": words}).encode()) + b"\n"
        self._line.settimeout(seconds)
        self._line.sendall(line)
        for frame in self._frames(seconds):
            if frame.get("id") != self._number:
                continue  # of a request that was given up
            if "trouble" in frame:
                raise StepFailed(f"in the machine: cannot {do}: {frame['trouble']}")
            yield frame
            if frame.get("last"):
                return
        raise StepFailed(f"in the machine: no answer to {do!r} within {seconds:g} s: {words}")

    def _frames(self, seconds: float) -> Iterator[Frame]:
        """All that come within so many seconds."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            *lines, self._buffer = self._buffer.split(b"\n")
            for position, line in enumerate(lines):
                if (frame := _parse_frame(line)) is not None:
                    self._buffer = b"\n".join((*lines[position + 1 :], self._buffer))
                    yield frame
                    break
            else:
                self._buffer += self._read(left)

    def _read(self, seconds: float) -> bytes:
        self._line.settimeout(seconds)
        try:
            data = self._line.recv(65536)
        except TimeoutError:
            return b""
        if not data:
            raise StepFailed("the machine has ended")
        return data


def _parse_frame(line: bytes) -> Frame | None:
    """None: noise."""
    _, found, code = line.rpartition(STX)
    if not found:
        return None
    try:
        frame = json.loads(base64.b64decode(code, validate=True))
    except (binascii.Error, ValueError):
        return None
    return frame if isinstance(frame, dict) else None
