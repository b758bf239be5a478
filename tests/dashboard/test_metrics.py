"""``/metrics``, read by prometheus-client's own parsers."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from nearfar.dashboard import server
from nearfar.dashboard.figures import Histogram
from nearfar.dashboard.model import COUNTERS, GAUGES
from tests.dashboard.web import ask, served


def everything() -> dict[str, Any]:
    took = Histogram()
    took.add(0.01, 3)
    return {
        "counts": dict.fromkeys([*COUNTERS, *GAUGES], 7),
        "reasons": {"dns": 4, "http-4xx": 3},
        "task_seconds": took.status(),
        "workers": [{"name": "a", "tasks": 1, "memory": 1000}, {"name": "b", "tasks": 2, "memory": None}],
        "failures": [],
        "queue": {"counts": {"stored": 9, "size": 2}, "oldest": 1.5, "consumers": [], "dead_letters": []},
        "hosts": [{"host": "a", "bytes": 1, "parked": 3.0}],
        "files": [],
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_both_formats_are_read_by_a_parser(openmetrics: bool) -> None:
    with served(**everything()) as (_, made):
        accept = "application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain"
        answer = ask(made.url, "/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith(accept.partition(";")[0])
    text = answer.body.decode()
    families = list((read_openmetrics if openmetrics else read_text)(text))
    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for each in families
        for sample in each.samples
    }
    assert samples["nearfar_pool_done_total", ()] == 7
    assert samples["nearfar_pool_waiting", ()] == 7
    assert samples["nearfar_pool_failed_total", (("reason", "dns"),)] == 4
    assert samples["nearfar_pool_workers_memory_bytes", ()] == 1000
    assert samples["nearfar_queue_stored_total", ()] == 9
    assert samples["nearfar_queue_oldest_seconds", ()] == 1.5
    assert samples["nearfar_pool_task_seconds_count", ()] == 3
    assert samples["nearfar_pool_task_seconds_sum", ()] == pytest.approx(0.03)
    assert samples["nearfar_pool_hosts_parked", ()] == 1
    names = [each.name for each in families]
    assert len(set(names)) == len(names), "each family once"
    assert all(re.fullmatch(r"nearfar(_[a-z]+)+", name) for name in names)
    assert all(each.documentation for each in families)
    reserved = ("_total", "_count", "_sum", "_bucket")
    assert not [each.name for each in families if each.type == "gauge" and each.name.endswith(reserved)]


def test_without_the_package_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nearfar.dashboard.metrics", None)
    with served() as (_, made):
        answer = ask(made.url, "/metrics")
    assert (answer.status, answer.body) == (501, f"{server.NO_METRICS}\n".encode())
