"""``python -m benchmarks [NAME ...]``: all measurements, or those named. ``python -m benchmarks NAME OPTION ...``: one
that takes options; ``--help`` is one. In a run of all, those that would take half an hour are quick ones.

The modules are compiled first, as they are in an installation: otherwise the first start would be measured with
Python's compiler in it, and every start where ``PYTHONDONTWRITEBYTECODE`` is set.
"""

from __future__ import annotations

import compileall
import importlib
import itertools
import os
import platform
import sys
from pathlib import Path

NAMES = ("whole_node", "pod_start", "dataplane", "dns_queries")
WITH_OPTIONS = {"dataplane": ["--quick"]}  # and those it gets in a run of all


def main(arguments: list[str]) -> None:
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = arguments[len(names) :]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"bench: no such measurement: {', '.join(unknown)} (there are: {', '.join(NAMES)})")
    if options and (len(names) != 1 or names[0] not in WITH_OPTIONS):
        sys.exit(f"bench: options come after the one measurement that takes them: {', '.join(WITH_OPTIONS)}")
    for package in ("agent", "netns", "rules", "dnsserver"):
        compileall.compile_dir(Path(__file__).parents[1] / package, quiet=1)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load average {load}")
    for name in names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        if name in WITH_OPTIONS:
            module.main(options if names else WITH_OPTIONS[name])
        else:
            module.main()


if __name__ == "__main__":
    main(sys.argv[1:])
