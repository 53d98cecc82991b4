"""One controller that fails does not stop the others, and is started again."""

from __future__ import annotations

import asyncio

import pytest

from agent import controllers
from agent.kube.client import KubeError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "PAUSE", (0.001, 0.004))


async def test_what_fails_or_ends_is_started_again_and_told(caplog: pytest.LogCaptureFixture) -> None:
    started = 0
    steady = asyncio.Event()

    async def part() -> None:
        nonlocal started
        started += 1
        if started == 1:
            raise RuntimeError("a mistake in a controller")
        if started == 2:
            return
        steady.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(controllers.keep_running("part", part))
    await asyncio.wait_for(steady.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert started == 3
    assert "a mistake in a controller" in caplog.text
    assert "part ended" in caplog.text


async def test_the_base_is_tried_until_the_server_lets_it(caplog: pytest.LogCaptureFixture) -> None:
    tries = 0

    async def attempt() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise KubeError("not yet")
        return "done"

    assert await controllers._until_done("base objects", attempt) == "done"
    assert caplog.text.count("not yet") == 3
