"""The rules of the package that a syntax tree can show: allowed imports, and the length of files.

A module is named as Python names it, below ``nearfar``: ``net.reliable``; the package itself is ``nearfar``.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

LAYERS = (
    ("base_errors", "errors", "output", "readable"),
    ("net",),
    ("dashboard",),
    ("serialization",),
    ("queues",),
    ("coordinator", "worker"),
    ("pool",),
    ("nearfar",),
    ("download",),
    ("demo", "contrast"),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a module imports from its own layer or from below. `nearfar` is the public names."""

ONLY_IN = {
    "zmq": (
        "net",
        "queues",
        "coordinator",
        "worker",
        "pool",
        "contrast.transports",  # bare PUSH/PULL is one of the contestants
        "contrast.runner",  # says which version was measured
    ),
    "msgspec": ("net.frames", "queues.messages", "coordinator.messages", "download.messages"),
    "redis": ("queues.redis.client",),
    "distributed": ("pool.dask_executor", "pool.dask_scheduler"),
    "ray": ("pool.ray_executor",),
    "grpc": ("pool.ray_executor",),
    "nacl": ("queues.redis.signatures",),
    "pycurl": ("download.fetch.curl", "download.fetch.curl_handle"),
    "pickle": ("serialization.pickles",),
    "cloudpickle": ("serialization.pickles",),
    "marshal": (),
    "prometheus_client": ("dashboard.metrics",),
    "shelve": (),
}
"""Who may import what reaches out of the process or runs what it reads."""

PURE = (
    "net.frames",
    "net.reliable",
    "net.session",
    "net.timers",
    "dashboard.figures",
    "dashboard.model",
    "queues.broker.ledger",
    "queues.client.producer",
    "queues.client.put_buffer",
    "queues.client.consumer",
    "queues.client.deliveries",
    "queues.limits",
    "coordinator.agents",
    "coordinator.large_parts",
    "coordinator.messages",
    "coordinator.placement",
    "coordinator.protocol",
    "coordinator.registry",
    "coordinator.remote_client",
    "coordinator.remote_clients",
    "coordinator.scheduler",
    "coordinator.sessions",
    "coordinator.state",
    "coordinator.statistics",
    "coordinator.task",
    "pool.far_client",
    "worker.agent_protocol",
    "contrast.charts",
    "contrast.figures",
    "contrast.report_model",
    "contrast.settings",
    "contrast.verdict",
)
IMPURE = frozenset({"asyncio", "multiprocessing", "random", "select", "socket", "threading", "time", "zmq"})
"""Machines decide: no sockets, no threads, no clock, no dice."""

LONGEST = 800
"""Lines of a file at most. A file of more than 400 lines should be looked at; this bound catches extremes."""


def modules(root: Path) -> dict[str, str]:
    """The source of every module below the package folder `root`, by name."""
    return {name_of(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "nearfar"


def imports(source: str) -> Iterator[str]:
    """All imports of a module, at any place, by full name; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def complaints(sources: Mapping[str, str]) -> list[str]:
    """A text for each violation of the rules in `sources` (module name to source)."""
    found = []
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        imported = set(imports(source))
        graph[name] = {module for module in (ours(each, sources) for each in imported) if module}
        found += lone_breaches(name, source)
        found += (breach for each in sorted(imported) for breach in foreign_breaches(name, each))
        found += (f"{name} imports {each}, from a layer above" for each in graph[name] if above(each, name))
    return found + [f"{' -> '.join(ring)} is a ring of imports" for ring in rings(graph)]


def lone_breaches(name: str, source: str) -> list[str]:
    """The violations in a single module."""
    lines = len(source.splitlines())
    found = [f"{name} has {lines} lines, more than {LONGEST}"] if lines > LONGEST else []
    return found if layer(name) is not None else [*found, f"{name} stands in no layer"]


def foreign_breaches(name: str, imported: str) -> list[str]:
    """The violations if the module `name` imports `imported` from outside the package."""
    top = imported.partition(".")[0]
    if not top:
        return [f"{name} imports {imported} relatively"]
    found = []
    if top in ONLY_IN and not within(name, ONLY_IN[top]):
        found.append(f"{name} imports {top}")
    if top in IMPURE and within(name, PURE):
        found.append(f"{name} decides and must not act: it imports {top}")
    return found


def ours(imported: str, sources: Container[str]) -> str | None:
    """The nearfar module that `imported` is, or is in: ``nearfar.net.reliable.Heartbeat`` is in
    net.reliable."""
    top, _, rest = imported.partition(".")
    if top != "nearfar":
        return None
    while rest and rest not in sources:
        rest = rest.rpartition(".")[0]
    return rest or "nearfar"


def layer(name: str) -> int | None:
    """The height of a module's layer."""
    top = name.partition(".")[0]
    return next((height for height, members in enumerate(LAYERS) if top in members), None)


def above(upper: str, lower: str) -> bool:
    heights = layer(upper), layer(lower)
    return heights[0] is not None and heights[1] is not None and heights[0] > heights[1]


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def rings(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Cycles of modules that import each other."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterator[list[str]]:
        if name in path:
            yield [*path[path.index(name) :], name]
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                yield from walk(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        yield from walk(name, [])
