"""Engines at work in a node's namespace, for tests that hold all of them to the same."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from agent.shell import run
from rules.iptables.diff import Plan, diff_rulesets
from rules.iptables.engines import Engine, Watch
from rules.iptables.engines.libiptc import LibiptcEngine
from rules.iptables.engines.restore import RestoreEngine
from rules.iptables.lower import lower_frontends
from rules.iptables.ruleset import Ruleset
from rules.policy import resolve_frontends
from rules.snapshot import Family, Snapshot
from tests.harness.netfilter import MiniNode, mini_node
from tests.leaks import assert_no_leaks

ENGINES = ["restore-nft", "restore-legacy", "libiptc"]


def make(kind: str, family: Family = Family.IPV4) -> Engine:
    if kind == "libiptc":
        return LibiptcEngine(run)
    return RestoreEngine(run, variant="nft" if kind == "restore-nft" else "legacy", family=family)


def lowered(snapshot: Snapshot, family: Family = Family.IPV4) -> Ruleset:
    return lower_frontends(resolve_frontends(snapshot), family)


class Driver:
    """An engine that works in the node's namespace."""

    def __init__(self, node: MiniNode, engine: Engine) -> None:
        self.node, self.engine = node, engine

    @property
    def tool(self) -> str:
        """The program that shows and changes the same tables."""
        return f"iptables-{self.engine.variant}"

    def read(self) -> Ruleset:
        return self.node.inside("node", self.engine.read)

    def apply(self, plan: Plan) -> None:
        self.node.inside("node", lambda: self.engine.apply(plan))

    def bring(self, wanted: Ruleset) -> Plan:
        """Make ``wanted`` so, and return the plan."""
        plan = diff_rulesets(self.read(), wanted)
        self.apply(plan)
        return plan

    def watch(self) -> Watch:
        return self.node.inside("node", self.engine.watch)

    def cleanup(self) -> None:
        self.node.inside("node", self.engine.cleanup)


@contextmanager
def driving(node: MiniNode, engine: Engine) -> Iterator[Driver]:
    """A driver that cleans up after itself."""
    made = Driver(node, engine)
    yield made
    made.cleanup()
    engine.close()


@contextmanager
def node_for_engines() -> Iterator[MiniNode]:
    """A node whose legacy tables are there: once used, they stay as long as their namespace."""
    tag = secrets.token_hex(3)
    with assert_no_leaks(tag=tag), mini_node(tag=tag) as made:
        for table in ("nat", "filter"):
            made.run("iptables-legacy", "-t", table, "-S")
        yield made
