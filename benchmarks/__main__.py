"""``python -m benchmarks [NAME ...]``: all measurements, or those named."""

from __future__ import annotations

import importlib
import sys

NAMES = ("whole_node", "pod_start", "endpoint_change", "dns_queries")


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"bench: no such measurement: {', '.join(unknown)} (there are: {', '.join(NAMES)})")
    for name in names or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
