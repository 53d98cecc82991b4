"""One sentence about traffic, and how a list of them is shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rules.snapshot import ServiceName

NO_EFFECT = "no effect on traffic"


class Impact(Enum):
    """What a change means for those who connect. The value is the mark before its sentence."""

    LOSS = "-"  # connections that were served no longer are
    GAIN = "+"
    CHANGE = "~"
    NOTE = " "


@dataclass(frozen=True, slots=True)
class Effect:
    """One sentence. ``service``: None where it concerns the whole node. ``field``: the object's field behind it."""

    service: ServiceName | None
    impact: Impact
    sentence: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.sentence} ({self.field})" if self.field else self.sentence


def render_effects(effects: Iterable[Effect]) -> str:
    """``mark sentence (field)`` under the name of each Service; ``no effect on traffic`` where nothing is different."""
    lines: list[str] = []
    for service, group in itertools.groupby(effects, key=lambda effect: effect.service):
        lines.append(f"Service {service}:" if service else "this node:")
        lines += [f"  {effect.impact.value} {effect}" for effect in group]
    return "\n".join(lines) or NO_EFFECT
