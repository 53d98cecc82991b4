"""How a process is told to end, and what it may do before."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agent.kube.client import KubeError
from agent.lifetime import is_explained, run_until_told
from dnsserver.server import BindError

said: list[str] = []


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    said.clear()


async def work() -> None:
    """Tells itself to end, and notices when it must."""
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        await asyncio.sleep(30)
    finally:
        said.append("work over")


async def farewell() -> None:
    said.append("farewell")
    await asyncio.sleep(0.05)
    said.append("farewell over")


def test_a_signal_is_a_good_end() -> None:
    run_until_told(work())
    assert said == ["work over"]


def test_work_goes_on_during_the_farewell() -> None:
    run_until_told(work(), farewell=farewell)
    assert said == ["farewell", "farewell over", "work over"]


def test_a_second_signal_cuts_the_farewell_short() -> None:
    async def impatient() -> None:
        said.append("farewell")
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
        said.append("farewell over")

    run_until_told(work(), farewell=impatient)
    assert said == ["farewell", "work over"]


def test_failures_are_raised_those_of_the_farewell_too() -> None:
    async def fail() -> None:
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        run_until_told(fail())
    with pytest.raises(ValueError, match="x"):
        run_until_told(work(), farewell=fail)
    assert said == ["work over"]


def test_work_that_ends_during_the_farewell_does_not_wait_for_it() -> None:
    async def brief() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while not said:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.001)

    run_until_told(brief(), farewell=farewell)
    assert said == ["farewell"]


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (BindError("cannot listen on 192.0.2.1 port 53/udp"), True),
        (KubeError("cannot list pods"), True),
        (OSError(98, "Address already in use"), False),
        (ExceptionGroup("all", [BindError("a"), ExceptionGroup("inner", [KubeError("b")])]), True),
        (ExceptionGroup("all", [BindError("a"), KeyError("b")]), False),
    ],
)
def test_errors_of_our_own_need_no_traceback(error: Exception, explained: bool) -> None:
    assert is_explained(error) is explained
