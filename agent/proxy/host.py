"""The one setting of the kernel's that Services depend on, in the namespace of the calling thread."""

from __future__ import annotations

from pathlib import Path

from rules.iptables.engines import EngineError

_ROUTE_LOCALNET = Path("/proc/sys/net/ipv4/conf/all/route_localnet")


def enable_route_localnet() -> None:
    """Let packets from 127.0.0.1 leave the loopback, for NodePorts there (Documentation/networking/ip-sysctl.rst). What
    then could come from outside for 127/8 is dropped by rules. Raises EngineError."""
    _write(b"1")


def disable_route_localnet() -> None:
    """As the kernel has it by default. Raises EngineError."""
    _write(b"0")


def _write(value: bytes) -> None:
    try:
        if _ROUTE_LOCALNET.read_bytes().strip() != value:
            _ROUTE_LOCALNET.write_bytes(value)
    except OSError as error:
        raise EngineError(f"cannot set {_ROUTE_LOCALNET}: {error.strerror}") from error
