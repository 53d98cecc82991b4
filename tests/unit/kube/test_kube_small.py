"""Selectors and ticks."""

from __future__ import annotations

import asyncio

import pytest
from lightkube.models.meta_v1 import LabelSelector, LabelSelectorRequirement

from agent.kube.selectors import matches, matches_map
from agent.kube.tick import Tick

LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({"app": "web"}, True),
        ({"app": "web", "tier": "front"}, True),
        ({"app": "web", "tier": "back"}, False),
        ({"other": "web"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_a_service_selector(selector: dict[str, str] | None, chosen: bool) -> None:
    assert matches_map(selector, LABELS) is chosen
    assert matches_map({"app": "web"}, None) is False


def requirement(operator: str, key: str = "app", *values: str) -> LabelSelector:
    return LabelSelector(matchExpressions=[LabelSelectorRequirement(key=key, operator=operator, values=list(values))])


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (None, False),
        (LabelSelector(), True),
        (LabelSelector(matchLabels={"app": "web"}), True),
        (LabelSelector(matchLabels={"app": "db"}), False),
        (requirement("In", "app", "db", "web"), True),
        (requirement("In", "app", "db"), False),
        (requirement("In", "absent", "db"), False),
        (requirement("NotIn", "app", "db"), True),
        (requirement("NotIn", "app", "web"), False),
        (requirement("NotIn", "absent", "web"), True),
        (requirement("Exists"), True),
        (requirement("Exists", "absent"), False),
        (requirement("DoesNotExist"), False),
        (requirement("DoesNotExist", "absent"), True),
        (requirement("Invented"), False),
        (
            LabelSelector(
                matchLabels={"app": "web"},
                matchExpressions=[LabelSelectorRequirement(key="tier", operator="DoesNotExist")],
            ),
            False,
        ),
    ],
)
def test_a_label_selector(selector: LabelSelector | None, chosen: bool) -> None:
    assert matches(selector, LABELS) is chosen


def test_no_labels_at_all() -> None:
    assert matches(requirement("DoesNotExist"), None)
    assert not matches(LabelSelector(matchLabels={"a": "b"}), None)


async def test_many_pokes_are_one_tick() -> None:
    tick = Tick(0.0)
    tick.poke()
    tick.poke()
    assert await tick.wait(1) is True
    assert await tick.wait(0.01) is False


async def test_a_poke_during_the_work_is_another_tick() -> None:
    tick = Tick(0.0)
    tick.poke()
    await tick.wait()
    tick.poke()
    assert await tick.wait(1) is True


async def test_ticks_keep_their_distance_and_gather_what_comes_meanwhile() -> None:
    tick, loop = Tick(0.1), asyncio.get_running_loop()
    tick.poke()
    await tick.wait()
    begun = loop.time()
    tick.poke()
    loop.call_later(0.02, tick.poke)
    assert await tick.wait() is True
    assert loop.time() - begun >= 0.09
    assert await tick.wait(0.01) is False


async def test_the_first_tick_comes_at_once_after_a_long_quiet() -> None:
    tick, loop = Tick(3600.0), asyncio.get_running_loop()
    waiting = asyncio.create_task(tick.wait(30))
    await asyncio.sleep(0)
    begun = loop.time()
    tick.poke()
    assert await waiting is True
    assert loop.time() - begun < 5
