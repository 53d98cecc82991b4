"""The dataplane at scale: ``./run bench dataplane``, where ``--help`` says which part of it can be asked for.

For each way into the kernel and each number of Services, in namespaces of its own:

- ``programming``: cold load and one endpoint changed, without an API, as the agent's share and the kernel's;
- ``first_packet``: what a Service costs a new connection, beside one straight to the endpoint; and, where Services are
  many, the same through the flat list that kube-proxy would write;
- ``process``: a real ``podwire proxy`` and an API over HTTP: change to first connection, tampering, starts, memory.

All of it takes the better part of an hour; ``--quick`` a minute. Legacy programs use a lock file of their own, so that
nobody else on this machine waits for them. Who interrupts it gets the tables of what was measured until then.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.dataplane.options import parse_options
from benchmarks.dataplane.plan import Result, measure_all
from benchmarks.dataplane.report import print_report


def main(arguments: Sequence[str]) -> None:
    options = parse_options(arguments)
    results: list[Result] = []
    try:
        results.extend(measure_all(options))
    finally:
        print_report(results)
