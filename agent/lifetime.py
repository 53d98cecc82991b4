"""How a process of podwire lives: one coroutine, until a signal ends it or it fails; and why it failed, in one line."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine

Work = Coroutine[None, None, None]

OWN = frozenset({"agent", "netns", "rules", "dnsserver"})  # our packages


def run_until_told(work: Work, *, farewell: Callable[[], Work] | None = None) -> None:
    """Run ``work`` in an event loop; SIGTERM and SIGINT cancel it, which is a good end. Its failure is raised.

    ``farewell`` is done between the signal and the cancellation, while ``work`` goes on; a second signal cuts it short.
    Its failure is raised too.
    """
    asyncio.run(_until_told(work, farewell))


async def _until_told(work: Work, farewell: Callable[[], Work] | None) -> None:
    task = asyncio.ensure_future(work)
    leaving: list[asyncio.Task[None]] = []

    def leave() -> None:
        if farewell is None or leaving:
            task.cancel()
            return
        leaving.append(asyncio.create_task(farewell()))
        leaving[0].add_done_callback(lambda _: task.cancel())

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    await asyncio.wait([task])
    for left in leaving:
        left.cancel()
        await asyncio.wait([left])
    for ended in (task, *leaving):
        if not ended.cancelled():
            ended.result()


def resolve_reason(error: BaseException) -> str:
    """What went wrong, in one line: of a group of exceptions, what each of them says."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(resolve_reason(inner) for inner in error.exceptions))
    return " ".join(str(error).split()) or type(error).__name__


def is_explained(error: BaseException) -> bool:
    """Is it of one of our own families, which are worded for people: what, where, what to do? A traceback then says
    nothing more. Of a group of exceptions, all must be.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_explained(inner) for inner in error.exceptions)
    return type(error).__module__.partition(".")[0] in OWN
