"""A client for Services: plain sockets, to be used inside a network namespace (see ``harness.node.inside``)."""

from __future__ import annotations

import http.client
import os
import select
import socket
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from netns import namespaces


def http_get(address: str, port: int, path: str = "/", *, timeout: float = 5.0) -> str:
    """One request on a connection of its own; the body as text."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"http://{address}:{port}{path}: {response.status}: {body}"
        return body
    finally:
        connection.close()


def udp_ask(address: str, port: int, message: str, *, timeout: float = 5.0) -> str:
    """One datagram there, one back. The socket is connected, so an ICMP error is a ConnectionRefusedError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        sock.send(message.encode())
        return sock.recv(2048).decode().strip()


def count_hostnames(netns: str, address: str, port: int, requests: int) -> Counter[str]:
    """Who answered ``requests`` GET /hostname, each on a new connection, made from ``netns`` by four threads."""

    def some(number: int) -> Counter[str]:
        return namespaces.inside(netns, lambda: Counter(http_get(address, port, "/hostname") for _ in range(number)))

    share = [requests // 4 + (1 if number < requests % 4 else 0) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(some, share), Counter())


def chi_square(counts: Counter[str], outcomes: int) -> float:
    """Pearson's statistic against the uniform distribution over ``outcomes`` outcomes (absent ones count as 0)."""
    expected = counts.total() / outcomes
    observed = [*counts.values(), *[0] * (outcomes - len(counts))]
    return sum((value - expected) ** 2 / expected for value in observed)


def ping(address: str, *, timeout: float = 5.0) -> float:
    """One ICMP echo request (RFC 792); seconds until the reply. Raises TimeoutError."""
    identifier = os.getpid() & 0xFFFF
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        packet = struct.pack("!BBHHH", 8, 0, 0, identifier, 1) + b"podwire!"
        packet = struct.pack("!BBHHH", 8, 0, _checksum(packet), identifier, 1) + b"podwire!"
        begin = time.monotonic()
        sock.sendto(packet, (address, 0))
        while (left := begin + timeout - time.monotonic()) > 0:
            if not select.select([sock], [], [], left)[0]:
                break
            reply = sock.recv(2048)
            kind, number = reply[20], struct.unpack("!H", reply[24:26])[0]
            if kind == 0 and number == identifier:
                return time.monotonic() - begin
    raise TimeoutError(f"no ICMP echo reply from {address} within {timeout:g} s")


def _checksum(packet: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
