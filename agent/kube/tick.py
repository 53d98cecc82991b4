"""Ticks: many events, one piece of work.

A component whose work covers everything that changed since the last time (proxy, DNS) need not run once per event. The
first event runs it at once; those that come while it runs, or within ``interval`` seconds of its start, are served
together by the next run. This is kube-proxy's BoundedFrequencyRunner without its timer wheel.
"""

from __future__ import annotations

import asyncio
import time


class Tick:
    """``poke`` as often as you like; ``wait`` returns once per batch of pokes, at most once in ``interval`` seconds."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._poked = asyncio.Event()
        self._last = float("-inf")

    def poke(self) -> None:
        self._poked.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """True when poked; False when ``timeout`` seconds went by without a poke (time for a periodic look)."""
        try:
            async with asyncio.timeout(timeout):  # wait_for of Python 3.11 may swallow a cancellation (cpython 86296)
                await self._poked.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(max(0.0, self._last + self._interval - time.monotonic()))
        self._poked.clear()
        self._last = time.monotonic()
        return True
