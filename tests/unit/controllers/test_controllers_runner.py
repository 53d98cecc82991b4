"""The keyed queue and its workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agent.controllers import runner
from agent.controllers.runner import Controller, Queue
from agent.kube.client import KubeError
from tests.harness.scripted_api import until


async def test_a_waiting_key_is_queued_once() -> None:
    queue = Queue[str]()
    for key in ("a", "b", "a"):
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_a_key_added_during_its_work_runs_again_and_never_twice_at_once() -> None:
    queue = Queue[str]()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0, "not handed out while it is worked on"
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_of_several_later_wishes_the_earliest_counts() -> None:
    queue, loop = Queue[str](), asyncio.get_running_loop()
    begun = loop.time()
    queue.add_after("a", 60)
    queue.add_after("a", 0.02)
    queue.add_after("a", 60)
    assert await asyncio.wait_for(queue.get(), 10) == "a"
    assert loop.time() - begun >= 0.015
    queue.done("a")
    assert len(queue) == 0
    queue.close()


async def test_pauses_double_up_to_the_longest_and_success_forgets() -> None:
    queue = Queue[str]()
    pauses = [queue.retry("a") for _ in range(20)]
    assert pauses[:4] == [0.005, 0.01, 0.02, 0.04]
    assert pauses[-1] == runner.LONGEST
    assert queue.retry("b") == 0.005, "each key has its own"
    queue.forget("a")
    assert queue.retry("a") == 0.005
    queue.close()


async def test_close_cancels_timers() -> None:
    queue = Queue[str]()
    queue.add_after("a", 0.01)
    queue.close()
    await asyncio.sleep(0.03)
    assert len(queue) == 0


@asynccontextmanager
async def running(reconcile: Callable[[str], Awaitable[None]], *, workers: int = 4) -> AsyncIterator[Controller[str]]:
    controller = Controller("test", reconcile, workers=workers)
    task = asyncio.create_task(controller.run())
    yield controller
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    active: set[str] = set()
    most = 0
    go = asyncio.Event()

    async def reconcile(key: str) -> None:
        nonlocal most
        assert key not in active
        active.add(key)
        most = max(most, len(active))
        await go.wait()
        active.discard(key)

    async with running(reconcile, workers=3) as controller:
        for key in "abcdef":
            controller.queue.add(key)
        await until(lambda: len(active) == 3)
        for key in "abc":
            controller.queue.add(key)
        await asyncio.sleep(0.01)
        go.set()
        await until(lambda: not active and not len(controller.queue))
    assert most == 3


async def test_a_failing_key_is_tried_again_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[str] = []

    async def reconcile(key: str) -> None:
        runs.append(key)
        if key == "bad" and runs.count("bad") < 4:
            raise KubeError("conflict") if runs.count("bad") < 3 else RuntimeError("a mistake")

    async with running(reconcile, workers=1) as controller:
        controller.queue.add("bad")
        controller.queue.add("good")
        await until(lambda: runs.count("bad") == 4)
        assert runs.count("good") == 1
        assert runs.index("good") < 3, "it did not wait for the failing one"
        await until(lambda: controller.queue.failures("bad") == 0)
    assert "a mistake" in caplog.text
    assert "Traceback" in caplog.text
    assert len(caplog.records) == 1, "ordinary failures are quiet at first"


async def test_a_key_that_keeps_failing_is_told() -> None:
    pauses: list[float] = []

    async def reconcile(key: str) -> None:
        raise KubeError("it is refused")

    async with running(reconcile) as controller:
        retry = controller.queue.retry

        def noting(key: str) -> float:
            pauses.append(retry(key))
            return pauses[-1]

        controller.queue.retry = noting  # type: ignore[method-assign]
        controller.queue.add("a")
        await until(lambda: len(pauses) > runner.QUIET)
    assert pauses[:3] == [0.005, 0.01, 0.02]
