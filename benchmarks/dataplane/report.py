"""The tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

from benchmarks.dataplane.first_packet import Pairs
from benchmarks.dataplane.plan import Result
from benchmarks.tables import print_table, quantile

_MIB = 1024  # KiB


def print_report(results: Sequence[Result]) -> None:
    if not results:
        return
    _print_programming(results)
    _print_process(results)
    _print_starts(results)
    title = (
        "A new TCP connection: through a Service, and straight to its endpoint, by turns"
        " (no Service: straight through this node, and through one without rules)"
    )
    _print_latencies(title, results, lambda result: result.latencies)
    title = "The same where KUBE-SERVICES is one flat list (straight: beside it, on the node with the tree)"
    _print_latencies(title, results, lambda result: result.flat)


def _print_programming(results: Sequence[Result]) -> None:
    header = (
        "Services",
        "engine",
        "cold load: agent",
        "kernel",
        "one endpoint changed: agent",
        "kernel",
        "its CPU",
        "load",
    )
    print_table("Rules, without an API (medians, in parentheses maxima)", header, map(_programming, results))


def _programming(result: Result) -> tuple[str, ...]:
    return (
        str(result.size),
        result.way.name,
        _seconds(result.cold.agent.seconds, result.cold.agent.cpu),
        _seconds(result.cold.kernel.seconds, result.cold.kernel.cpu),
        _ms([change.agent.seconds for change in result.changes]),
        _ms([change.kernel.seconds for change in result.changes]),
        f"{statistics.median(change.kernel.cpu for change in result.changes) * 1e3:.0f} ms",
        f"{result.load:.1f}",
    )


def _print_process(results: Sequence[Result]) -> None:
    title = "podwire proxy, and an API over HTTP (medians, in parentheses maxima)"
    header = (
        "Services",
        "engine",
        "PATCH -> new endpoint answers",
        "a Service's chain flushed -> it answers",
        "nat wiped -> the last Service answers",
    )
    print_table(title, header, map(_process, results))


def _print_starts(results: Sequence[Result]) -> None:
    title = (
        "Starts of podwire proxy: process started -> rules in place, with its own CPU time; its memory then, and later"
    )
    header = ("Services", "engine", "when", "time", "PSS", "RSS", "peak")
    print_table(title, header, [row for result in results for row in _starts(result)])


def _process(result: Result) -> tuple[str, ...]:
    running = result.running
    wiped = f"{running.wiped:.2f} s"
    return (str(result.size), result.way.name, _ms(running.changes), _ms(running.flushed), wiped)


def _starts(result: Result) -> Iterator[tuple[str, ...]]:
    running = result.running
    rows = (
        ("started on empty tables", _seconds(running.start.seconds, running.start.cpu), running.start.memory),
        ("after changes", "", running.memory),
        ("started on its own rules", _seconds(running.restart.seconds, running.restart.cpu), running.restart.memory),
    )
    for when, taken, memory in rows:
        held = (f"{value / _MIB:.0f} MiB" for value in (memory.pss, memory.rss, memory.peak))
        yield (str(result.size), result.way.name, when, taken, *held)


def _print_latencies(title: str, results: Sequence[Result], pairs_of: Callable[[Result], dict[str, Pairs]]) -> None:
    rows = [row for result in results for row in _latencies(result, pairs_of(result))]
    if rows:
        header = ("Services", "variant", "to", "pairs", "p50", "p99", "straight: p50", "p99", "difference: p50")
        print_table(title, header, rows)


def _latencies(result: Result, latencies: dict[str, Pairs]) -> Iterator[tuple[str, ...]]:
    for what, pairs in latencies.items():
        times = (pairs.through, pairs.direct)
        shown = (f"{value * 1e6:.0f} us" for one in times for value in (statistics.median(one), quantile(one, 0.99)))
        difference = f"{statistics.median(pairs.differences) * 1e6:+.0f} us"
        yield (str(result.size), result.way.variant, what, str(len(pairs.direct)), *shown, difference)


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.1f} ms ({max(seconds) * 1e3:.1f})"


def _seconds(seconds: float, cpu: float) -> str:
    return f"{seconds:.2f} s (CPU {cpu:.2f})"
