"""Does in the machine what the test outside asks for, over a serial line: ``agent.py DEVICE``.

One frame per line, both ways: the byte STX, then base64 of a JSON object. Whatever else appears on the line (a kernel
message, the rest of a frame that a reboot cut off) does not begin with STX or does not decode, and is passed over. Each
frame of an answer carries the ``id`` of its request; the last one says ``"last": true``. When the agent starts it says
``hello`` and which boot this is.

Written for the machine's own Python, with nothing but the standard library. It stays loaded, so that asking costs
milliseconds even where the processor is emulated and starting a Python takes a second.
"""

from __future__ import annotations

import base64
import concurrent.futures
import ctypes
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STX = b"\x02"
OUTPUT_LIMIT = 200_000  # bytes of a command's output that are sent: its end
PKI = Path("/var/lib/podwire/pki")
API_PORT = 6443
KNOCK_PAUSE = 0.25  # seconds between two connections of a Knocker
REACH_PATIENCE = 4.0  # seconds until what has not been answered counts as dropped
Frame = dict[str, Any]
Got = tuple[int, str, str]


def main(device: str) -> None:
    port = os.open(device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port, termios.TCSANOW)
    send(port, {"hello": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
    for request in receive(port):
        for answer in handle(request):
            send(port, {**answer, "id": request["id"]})


def send(port: int, frame: Frame) -> None:
    line = STX + base64.b64encode(json.dumps(frame).encode()) + b"\n"
    while line:
        line = line[os.write(port, line) :]


def receive(port: int) -> Iterator[Frame]:
    buffer = b""
    while True:
        buffer += os.read(port, 4096)
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            try:
                yield json.loads(base64.b64decode(line[line.rindex(STX) + 1 :], validate=True))
            except ValueError:
                continue  # noise; the other side asks again or gives up


def handle(request: Frame) -> Iterator[Frame]:
    try:
        yield from OPERATIONS[request["do"]](**request["with"])
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the one who asked
        yield {"last": True, "trouble": f"{type(error).__name__}: {error}"}


def run(script: str, timeout: float) -> Iterator[Frame]:
    """A shell script: its exit code (124: it took too long) and what it printed."""
    process = subprocess.Popen(
        ("bash", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, code = process.communicate(timeout=timeout)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, code = process.communicate()[0], 124
    yield {"last": True, "code": code, "output": output[-OUTPUT_LIMIT:].decode(errors="replace")}


def api(method: str, path: str, body: Any = None) -> Iterator[Frame]:
    """One request to podwire's API server: status and JSON (0 and why, where it cannot be reached)."""
    try:
        status, answer = call_api(method, path, body)
    except OSError as error:
        status, answer = 0, str(error)
    yield {"last": True, "status": status, "body": answer}


def create_all(path: str, objects: list[Any]) -> Iterator[Frame]:
    """Objects created one after the other; a frame as soon as each is acknowledged."""
    for position, body in enumerate(objects):
        status, answer = call_api("POST", path, body)
        yield {"created": position, "status": status, "body": answer}
    yield {"last": True}


def call_api(method: str, path: str, body: Any) -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    connection = http.client.HTTPSConnection("127.0.0.1", API_PORT, timeout=30, context=context)
    headers = {"Authorization": f"Bearer {(PKI / 'token').read_text().strip()}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def fetch(address: str, port: int, path: str, netns: str, times: int) -> Iterator[Frame]:
    """HTTP GETs, each with a connection of its own, from a network namespace (empty: the machine's)."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # the thread that enters a namespace ends with it
        answers = pool.submit(_fetch_from, netns, address, port, path, times).result()
    yield {"last": True, "answers": answers}


def _fetch_from(netns: str, address: str, port: int, path: str, times: int) -> list[Got]:
    if netns:
        enter(netns)
    return [get(address, port, path) for _ in range(times)]


def enter(netns: str) -> None:
    """This thread moves into the network namespace (setns(2))."""
    with open(f"/run/netns/{netns}") as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")


def get(address: str, port: int, path: str) -> Got:
    """Status, the pod that says it answered, text; without an answer 0, nothing, and why."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        text = response.read(OUTPUT_LIMIT).decode(errors="replace")
        return response.status, response.headers.get("X-Pod") or "", text
    except (OSError, http.client.HTTPException) as error:
        return 0, "", f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def reach(netns: str, targets: list[tuple[str, int]]) -> Iterator[Frame]:
    """Which of these addresses and TCP ports accept a connection from a network namespace; all are tried at once."""
    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        reached = list(pool.map(lambda target: _accepts(netns, *target), targets))
    yield {"last": True, "reached": reached}


def _accepts(netns: str, address: str, port: int) -> bool:
    enter(netns)
    try:
        socket.create_connection((address, port), timeout=REACH_PATIENCE).close()
    except OSError:
        return False
    return True


class Knocker(threading.Thread):
    """A client that opens a connection, asks, closes, and again, until it is told to stop; and one more connection that
    stays open all the time and is asked in between.
    """

    def __init__(self, address: str, port: int, path: str, netns: str) -> None:
        super().__init__(daemon=True)
        self._target, self._netns = (address, port, path), netns
        self._done = threading.Event()
        self.answered = 0
        self.failures: list[str] = []

    def run(self) -> None:
        enter(self._netns)
        address, port, path = self._target
        kept = http.client.HTTPConnection(address, port, timeout=10)
        while not self._done.wait(KNOCK_PAUSE):
            self._note(get(address, port, path))
            try:
                kept.request("GET", path)
                response = kept.getresponse()
                response.read()
                self._note((response.status, "", ""))
            except (OSError, http.client.HTTPException) as error:
                self._note((0, "", f"the connection that was open: {type(error).__name__}: {error}"))
                kept.close()
        kept.close()

    def _note(self, answer: Got) -> None:
        if answer[0] == 200:
            self.answered += 1
        else:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {answer}")

    def stop(self) -> None:
        self._done.set()
        self.join()


knockers: list[Knocker] = []


def knock(address: str, port: int, path: str, netns: str) -> Iterator[Frame]:
    """Start a Knocker; ``stop_knocking`` ends it and tells how it went."""
    knockers.append(Knocker(address, port, path, netns))
    knockers[-1].start()
    yield {"last": True}


def stop_knocking() -> Iterator[Frame]:
    knocker = knockers.pop()
    knocker.stop()
    yield {"last": True, "answered": knocker.answered, "failures": knocker.failures}


OPERATIONS: dict[str, Callable[..., Iterator[Frame]]] = {
    operation.__name__: operation for operation in (run, api, create_all, fetch, reach, knock, stop_knocking)
}

if __name__ == "__main__":
    main(sys.argv[1])
