"""``python -m benchmarks [NAME...]``: run the benchmarks named, or all, each with its defaults."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "dashboard",
    "download",
    "ledger",
    "pool",
    "pool_machines",
    "pool_million",
    "queue",
    "redis",
    "scale",
    "shipped",
)


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in NAMES]:
        print(f"no benchmark {unknown[0]!r} (there are: {', '.join(NAMES)})", file=sys.stderr)
        return 2
    return max([int(import_module(f"benchmarks.{name}").main([])) for name in names or NAMES])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
