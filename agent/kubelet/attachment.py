"""Attaching to a running container: its own stdin and stdout, which conmon holds and shares with whoever connects.

conmon listens on a socket called ``attach`` in the container's folder (conmon's src/conn_sock.c). It keeps packets
apart (SOCK_SEQPACKET): what it sends begins with one byte that names the stream, what it gets is input as it is. The
size of a terminal is written as ``height width`` into the fifo ``winsz`` beside it.

An ``Attachment`` has the face of an exec, so that one kind of session serves both; the container does not end with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from agent.kubelet.containers import Container, ContainerError

FROM_STDOUT, FROM_STDERR = 2, 3  # conmon's src/utils.h: STDOUT_PIPE, STDERR_PIPE
PACKET = 32768 + 1  # bytes: conmon's CONN_SOCK_BUF_SIZE and the stream's number
WAITING_PACKETS = 16


class Stream:
    """One of the container's output streams; ``read`` returns b"" at its end."""

    def __init__(self) -> None:
        self._packets: asyncio.Queue[bytes] = asyncio.Queue(maxsize=WAITING_PACKETS)

    async def read(self, n: int = -1) -> bytes:
        return await self._packets.get()

    async def feed(self, data: bytes) -> None:
        await self._packets.put(data)


class Input:
    """The container's standard input."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def write(self, data: bytes) -> None:
        """Hand over ``data``. That the container has ended is told by its output's end, not here."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), PACKET - 1):
            try:
                await loop.sock_sendall(self._connection, data[start : start + PACKET - 1])
            except (BrokenPipeError, ConnectionResetError):
                return

    def close(self) -> None:
        """No more input will come from here."""
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError:  # conmon was quicker
            return


class Attachment:
    """A connection to a running container. Read ``stdout`` and ``stderr``; await ``wait`` or ``kill`` at the end."""

    def __init__(self, folder: Path, connection: socket.socket, *, stdin: bool) -> None:
        self._folder, self._connection = folder, connection
        self.stdin = Input(connection) if stdin else None
        self.stdout, self.stderr = Stream(), Stream()
        self._pump = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, folder: Path, container: Container, *, stdin: bool) -> Attachment:
        """Connect. ``folder``: of the container. Raises ContainerError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:  # a socket's path may have 107 bytes only (unix(7)); one through a descriptor is always short
                connection.connect(f"/proc/self/fd/{place}/attach")
            finally:
                os.close(place)
        except OSError as error:
            connection.close()
            raise ContainerError("AttachError", f"cannot attach to container {container.id}: {error}") from error
        return cls(folder, connection, stdin=stdin)

    def resize(self, width: int, height: int) -> None:
        """Tell the container's terminal its size in characters."""
        fifo = os.open(self._folder / "winsz", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fifo, f"{height} {width}\n".encode())
        finally:
            os.close(fifo)

    async def wait(self) -> int:
        """Until the container's output has ended. Attaching succeeded, however the container ended."""
        await asyncio.shield(self._pump)
        self._connection.close()
        return 0

    async def kill(self) -> int:
        """Detach."""
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        self._connection.close()
        return 0

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(self._connection, PACKET):
                await (self.stderr if packet[0] == FROM_STDERR else self.stdout).feed(packet[1:])
        except ConnectionResetError:  # conmon was killed: an end like any other
            return
        finally:
            if not self._pump.cancelling():
                await self.stdout.feed(b"")
                await self.stderr.feed(b"")
