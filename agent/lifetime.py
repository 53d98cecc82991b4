"""How a process of podwire lives: one coroutine, until a signal ends it or it fails; and why it failed, in one line."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine


def run_until_told(work: Coroutine[None, None, None]) -> None:
    """Run ``work`` in an event loop; SIGTERM and SIGINT cancel it, which is a good end. Its failure is raised."""
    asyncio.run(_until_told(work))


async def _until_told(work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def resolve_reason(error: BaseException) -> str:
    """What went wrong, in one line: of a group of exceptions, what each of them says."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(resolve_reason(inner) for inner in error.exceptions))
    return " ".join(str(error).split()) or type(error).__name__
