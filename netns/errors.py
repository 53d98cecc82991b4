"""The one exception family of this package."""

from __future__ import annotations


class NetnsError(Exception):
    """The kernel refused; the message says what was wanted, where, why not, and where it helps what to do."""


class PoolExhausted(NetnsError):
    """Every address of the pod CIDR is in use."""
