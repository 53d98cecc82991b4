"""What a step is given, what it is, and which are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tests.vm.guest import Guest
from tests.vm.machine import Machine
from tests.vm.node import Node
from tests.vm.progress import Progress


class Extent(IntEnum):
    """How much is tested: each has all that the one before has. ``NEIGHBOURS``: with others on the machine."""

    QUICK = 1
    WHOLE = 2
    NEIGHBOURS = 3


@dataclass(frozen=True, slots=True)
class Scene:
    machine: Machine
    node: Node
    progress: Progress
    extent: Extent

    @property
    def guest(self) -> Guest:
        return self.machine.guest

    def run(self, script: str, *, timeout: float = 60.0) -> str:
        return self.guest.run(script, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Step:
    """``extent``: the least with which it is done."""

    title: str
    act: Callable[[Scene], None]
    extent: Extent = Extent.WHOLE
