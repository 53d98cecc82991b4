"""What a step is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.vm.guest import Guest
from tests.vm.machine import Machine
from tests.vm.node import Node
from tests.vm.progress import Progress


@dataclass(frozen=True, slots=True)
class Scene:
    machine: Machine
    node: Node
    progress: Progress

    @property
    def guest(self) -> Guest:
        return self.machine.guest

    def run(self, script: str, *, timeout: float = 60.0) -> str:
        return self.guest.run(script, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Step:
    """``quick``: also part of ``./run test-vm --quick``."""

    title: str
    act: Callable[[Scene], None]
    quick: bool = False
