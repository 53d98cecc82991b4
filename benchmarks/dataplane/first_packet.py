"""What a Service costs a new TCP connection: the time of ``connect`` through it beside that of one straight to the
endpoint, by turns, so that whatever else the machine does weighs on both.

The answer to the first packet is awaited in ``connect``; the nat table is asked about that packet alone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.dataplane.network import Network
from benchmarks.dataplane.world import ENDPOINT_PORT

_BATCH = 20  # pairs for which sockets are made ahead
_WARM = 10  # pairs that are not counted
_SYN_RETRIES = 2  # a connection that fails does so within seconds


@dataclass(frozen=True, slots=True)
class Path:
    """A way to a Service, and one straight to an endpoint of it, over the network ``beside``."""

    what: str
    network: Network
    who: str
    address: str
    port: int
    endpoint: str
    beside: Network


@dataclass(slots=True)
class Pairs:
    """Seconds to connect: through the Service, and straight to the endpoint; the same turn at the same index."""

    through: list[float] = field(default_factory=list)
    direct: list[float] = field(default_factory=list)

    @property
    def differences(self) -> list[float]:
        return [one - other for one, other in zip(self.through, self.direct, strict=True)]


def measure_paths(paths: Sequence[Path], pairs: int) -> dict[str, Pairs]:
    """So many pairs for each path, by its name."""
    found = {path.what: Pairs() for path in paths}
    left = pairs + _WARM
    while left > 0:
        turns = min(_BATCH, left)
        left -= turns
        made = [list(_sockets(path, turns)) for path in paths]
        for turn in range(turns):
            for path, sockets in zip(paths, made, strict=True):
                _one_pair(path, sockets[turn], found[path.what], first=bool(turn % 2))
    for times in found.values():
        del times.through[:_WARM], times.direct[:_WARM]
    return found


def _sockets(path: Path, pairs: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    through, direct = path.network.sockets(path.who, pairs), path.beside.sockets(path.who, pairs)
    for sock in (*through, *direct):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _SYN_RETRIES)
    return zip(through, direct, strict=True)


def _one_pair(path: Path, sockets: tuple[socket.socket, socket.socket], times: Pairs, *, first: bool) -> None:
    """``first``: the Service's turn comes first."""
    if first:
        times.through.append(_connect(sockets[0], path.address, path.port))
    times.direct.append(_connect(sockets[1], path.endpoint, ENDPOINT_PORT))
    if not first:
        times.through.append(_connect(sockets[0], path.address, path.port))


def _connect(sock: socket.socket, address: str, port: int) -> float:
    with sock:
        began = time.perf_counter()
        sock.connect((address, port))
        seconds = time.perf_counter() - began
        sock.recv(100)  # whoever answers is done with it before the next turn
        return seconds
