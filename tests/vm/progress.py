"""What a run says: a line when a step begins and ends, notes between, and at the end a table of all steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "FAILED", "not run"]


class StepFailed(Exception):
    """What was expected, and what was found instead."""


def require(holds: object, otherwise: str) -> None:
    if not holds:
        raise StepFailed(otherwise)


@dataclass(frozen=True, slots=True)
class Result:
    title: str
    outcome: Outcome
    seconds: float


@dataclass(slots=True)
class Progress:
    """``begin``: of the run, by the monotonic clock."""

    begin: float = field(default_factory=time.monotonic)
    results: list[Result] = field(default_factory=list)

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begin:6.1f} s] {text}", flush=True)

    def note(self, text: str) -> None:
        self.say(f"    {text}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Times the block. Its exception is noted as a failure of the step, and goes on."""
        self.say(f"{title} ...")
        begin, outcome = time.monotonic(), "FAILED"
        try:
            yield
            outcome = "ok"
        finally:
            seconds = time.monotonic() - begin
            self.results.append(Result(title, "ok" if outcome == "ok" else "FAILED", seconds))
            self.say(f"{title}: {outcome} ({seconds:.1f} s)")

    def skip(self, title: str) -> None:
        self.results.append(Result(title, "not run", 0.0))

    @property
    def failed(self) -> bool:
        return any(result.outcome == "FAILED" for result in self.results)

    def table(self) -> str:
        rows = [f"{'STEP':<66}{'RESULT':<10}{'SECONDS':>7}"]
        rows += [f"{r.title:<66}{r.outcome:<10}{r.seconds:>7.1f}" for r in self.results]
        rows.append(f"{'':<66}{'':<10}{time.monotonic() - self.begin:>7.1f}")
        count = {outcome: sum(r.outcome == outcome for r in self.results) for outcome in ("ok", "FAILED", "not run")}
        rows.append(f"vm: {count['ok']} passed, {count['FAILED']} failed, {count['not run']} skipped")
        return "\n".join(rows)
