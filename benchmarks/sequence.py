"""The Sequence, measured: from the request that makes a Service to rules in the kernel and a name that answers."""

from __future__ import annotations

import time

from lightkube import Client
from lightkube.models.core_v1 import ServicePort, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Service

from agent.cli.sequence import select_sequence
from agent.config import Paths
from agent.telemetry import STEPS, read_timeline
from benchmarks.tables import print_table, summary
from tests.harness.node import Node, eventually

SERVICES = 30
PAUSE = 0.3  # seconds between two Services, so that none waits for another


def measure(node: Node, client: Client, *, app: str) -> None:
    """Make Services for the ready pods with label ``app``, one by one, and print when each step was reached."""
    names = [f"sequence-{number}" for number in range(SERVICES)]
    for name in names:
        spec = ServiceSpec(selector={"app": app}, ports=[ServicePort(port=80, targetPort=8080)])
        client.create(Service(metadata=ObjectMeta(name=name), spec=spec))
        time.sleep(PAUSE)
    found = eventually(lambda: _complete(node, names))
    rows = [(step, *summary([after[step] for after in found])) for step in STEPS[1:]]
    print_table("The Sequence: time since the request was accepted", ("step", "runs", "median", "p99", "max"), rows)
    for name in names:
        client.delete(Service, name)


def _complete(node: Node, names: list[str]) -> list[dict[str, float]]:
    """For each Service the seconds from the first step to each."""
    marks = list(read_timeline(Paths(node.state_dir).timeline))
    sequences = {name: select_sequence(marks, "default", name) for name in names}
    for name, sequence in sequences.items():
        missing = set(STEPS) - {mark.step for mark in sequence}
        assert not missing, f"{name}: steps that were never reached: {', '.join(missing)}"
    return [{mark.step: mark.at - sequence[0].at for mark in sequence} for sequence in sequences.values()]
