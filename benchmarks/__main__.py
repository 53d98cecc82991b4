"""``python -m benchmarks [NAME ...]``: all measurements, or those named.

The modules are compiled first, as they are in an installation: otherwise the first start would be measured with
Python's compiler in it, and every start where ``PYTHONDONTWRITEBYTECODE`` is set.
"""

from __future__ import annotations

import compileall
import importlib
import os
import platform
import sys
from pathlib import Path

NAMES = ("whole_node", "pod_start", "endpoint_change", "dns_queries")


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"bench: no such measurement: {', '.join(unknown)} (there are: {', '.join(NAMES)})")
    for package in ("agent", "netns", "rules", "dnsserver"):
        compileall.compile_dir(Path(__file__).parents[1] / package, quiet=1)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, load average {load}")
    for name in names or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
