"""One strategy per kind: defaults, rules, what an update may change."""

from __future__ import annotations

from agent.apiserver.admission.strategies.base import Strategy
from agent.apiserver.admission.strategies.service import ServiceStrategy
from agent.apiserver.registry import Kind


def strategy_of(kind: Kind) -> Strategy:
    """The kind's strategy; kinds without rules of their own get the common one."""
    return _STRATEGIES.get(kind.storage, _COMMON)


_COMMON = Strategy()
_STRATEGIES: dict[str, Strategy] = {"services": ServiceStrategy()}
