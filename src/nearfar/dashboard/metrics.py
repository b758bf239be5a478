"""A status in OpenMetrics, or in the older text format of Prometheus, by `prometheus-client`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from nearfar.dashboard.figures import BOUNDS
from nearfar.dashboard.model import COUNTERS, GAUGES, Status


def expose(status: Status, accept: str) -> tuple[bytes, str]:
    """The metrics, in the format that the header field `accept` asks for, and their media type."""
    registry = CollectorRegistry()
    registry.register(_Collector(status))
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Collector:
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        prefix = f"nearfar_{status['program']}"
        about = {"program": status["program"], "version": status["version"], "address": status["address"]}
        yield InfoMetricFamily("nearfar_build", "the program", value=about)
        yield GaugeMetricFamily("nearfar_start_time_seconds", "when it started", status["started"])
        yield GaugeMetricFamily(
            "nearfar_snapshot_time_seconds", "when these figures were taken", status["time"]
        )
        yield GaugeMetricFamily("nearfar_ready", "1 if it can do its work", int(status.get("ready", True)))
        reasons = status.get("reasons")
        yield from _counts(prefix, status["counts"], leave="" if reasons is None else "failed")
        if reasons is not None:
            family = CounterMetricFamily(f"{prefix}_failed", COUNTERS["failed"], labels=["reason"])
            for reason, count in reasons.items():
                family.add_metric([reason], count)
            yield family
        if (workers := status.get("workers")) is not None:
            memory = sum(row["memory"] or 0 for row in workers)
            yield GaugeMetricFamily(
                f"{prefix}_workers_memory_bytes", "resident memory of the workers", memory
            )
        if (durations := status.get("task_seconds")) is not None:
            seen, buckets = 0, []
            for bound, count in zip((*map(_rounded, BOUNDS), "+Inf"), durations["buckets"], strict=True):
                seen += count
                buckets.append((bound, seen))
            yield HistogramMetricFamily(
                f"{prefix}_task_seconds", "how long tasks ran", buckets=buckets, sum_value=durations["sum"]
            )
        if (queue := status.get("queue")) is not None:
            yield from _counts("nearfar_queue", queue["counts"])
            yield GaugeMetricFamily("nearfar_queue_oldest_seconds", "age of the oldest item", queue["oldest"])
        if (hosts := status.get("hosts")) is not None:
            parked = sum(row.get("parked", 0) > 0 for row in hosts)
            yield GaugeMetricFamily(f"{prefix}_hosts_parked", "hosts that deferred requests", parked)


def _counts(prefix: str, counts: Mapping[str, int], leave: str = "") -> Iterator[Metric]:
    for name, count in counts.items():
        spelled = f"{prefix}_{name.replace(' ', '_')}"
        if name == leave:
            continue
        if name in COUNTERS:
            yield CounterMetricFamily(spelled, COUNTERS[name], count)
        elif name in GAUGES:
            yield GaugeMetricFamily(spelled, GAUGES[name], count)


def _rounded(bound: float) -> str:
    return f"{bound:.4g}"
