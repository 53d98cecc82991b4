"""Continuous load, and what became of each connection: for tests that do things to a proxy meanwhile.

``Load`` starts a TCP connection every few milliseconds whatever became of those before, so that an outage is seen for
as long as it lasts. ``Flow`` is one UDP client that talks all the time and notes who answers.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from netns import namespaces
from tests.harness.netfilter import MiniNode

PATIENCE = 10.0  # seconds for a connection
GRACE = 0.1  # seconds in which a packet that was sent has met the rules, and an answer has come back

Window = tuple[float, float]  # monotonic seconds


@dataclass(slots=True)
class Attempt:
    """One connection. Times are monotonic seconds: before and after the first packet was sent, when the connection was
    there, when it was over. ``fault``: empty if the server answered, else the error's name."""

    who: str
    began: float
    sent: float = 0.0
    connected: float = 0.0
    ended: float = 0.0
    fault: str = ""

    def is_excused(self, windows: Iterable[Window]) -> bool:
        """Was something wrong with the rules when it depended on them? Those of the nat table are asked once, by the
        first packet."""
        last = max(self.sent, self.connected) + GRACE
        return any(self.began <= until and last >= since for since, until in windows)

    def __str__(self) -> str:
        how = f"connected after {self.connected - self.began:.3f} s" if self.connected else "not connected"
        return f"{self.who} at {self.began:.3f}: {self.fault} ({how}, over after {self.ended - self.began:.3f} s)"


class Load:
    """``with Load(node, "c", ("10.96.0.10", 80)) as load``; look at ``attempts`` afterwards."""

    def __init__(self, node: MiniNode, who: str, place: tuple[str, int], *, period: float = 0.02) -> None:
        self.attempts: list[Attempt] = []
        self._who, self._netns, self._place, self._period = who, node.name(who), place, period
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._selector.close()

    def faults(self, excused: Iterable[Window] = ()) -> list[Attempt]:
        """Connections that failed, but for those within these times."""
        windows = list(excused)
        return [attempt for attempt in self.attempts if attempt.fault and not attempt.is_excused(windows)]

    def _work(self) -> None:
        namespaces.enter(self._netns)
        due = time.monotonic()
        while not self._stop.is_set() or self._selector.get_map():
            now = time.monotonic()
            if now >= due and not self._stop.is_set():
                due = now + self._period
                self._begin(now)
            for key, _ in self._selector.select(min(self._period, 0.02)):
                self._go_on(key)
            self._give_up()

    def _begin(self, now: float) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        attempt = Attempt(self._who, now)
        self.attempts.append(attempt)
        code = sock.connect_ex(self._place)
        attempt.sent = time.monotonic()
        self._selector.register(sock, selectors.EVENT_WRITE, attempt)
        if code not in (0, errno.EINPROGRESS):
            self._end(sock, attempt, code)

    def _go_on(self, key: selectors.SelectorKey) -> None:
        sock, attempt = key.fileobj, key.data
        assert isinstance(sock, socket.socket)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or attempt.connected:
            self._end(sock, attempt, code or self._read(sock))
        else:
            attempt.connected = time.monotonic()
            self._selector.modify(sock, selectors.EVENT_READ, attempt)

    def _read(self, sock: socket.socket) -> int:
        try:
            return 0 if sock.recv(100) else errno.EPIPE
        except OSError as error:
            return error.errno or errno.EIO

    def _give_up(self) -> None:
        before = time.monotonic() - PATIENCE
        for key in list(self._selector.get_map().values()):
            if key.data.began < before:
                assert isinstance(key.fileobj, socket.socket)
                self._end(key.fileobj, key.data, errno.ETIMEDOUT)

    def _end(self, sock: socket.socket, attempt: Attempt, code: int) -> None:
        self._selector.unregister(sock)
        sock.close()
        attempt.ended, attempt.fault = time.monotonic(), errno.errorcode.get(code, str(code)) if code else ""


class Flow:
    """One UDP socket that asks all the time. ``answers``: who answered (name), in the order of ``asked`` questions."""

    def __init__(self, node: MiniNode, who: str, place: tuple[str, int], *, period: float = 0.02) -> None:
        self.asked = 0
        self.answers: list[str] = []
        self._sock = node.udp_client(who)
        self._sock.settimeout(period)
        self._sock.connect(place)
        self._period, self._stop = period, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sock.close()

    def _work(self) -> None:
        while not self._stop.wait(self._period):
            self.asked += 1
            try:
                self._sock.send(b"hello")
                self.answers.append(self._sock.recv(100).decode().split()[0])
            except TimeoutError:
                continue
            except OSError as error:
                self.answers.append(errno.errorcode.get(error.errno or 0, "?"))
