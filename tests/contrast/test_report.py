"""From a document to words, tables and a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nearfar.contrast import names
from nearfar.contrast.job import Job
from nearfar.contrast.jobs import PARTS
from nearfar.contrast.quantiles import POINTS, percentiles, ratios, spread
from nearfar.contrast.report import numbers
from nearfar.contrast.report.build import build
from nearfar.contrast.report.page import page
from nearfar.contrast.report.terminal import terminal
from nearfar.contrast.runner import Outcome
from tests.contrast.sample import outcomes, sample

pytestmark = pytest.mark.pure

SECTIONS = {
    "faults": "What a fault costs",
    "queue": "What a queue costs",
    "download": "The download over each queue",
    "pool": "What a pool costs",
}


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>\n"))


def texts(root: ElementTree.Element, tag: str) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter() if each.tag.rpartition("}")[2] == tag]


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    html = page(build(sample()))
    root = parsed(html)
    assert set(re.findall(r"https?://[^\"' )]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", html)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))


def test_every_drawing_is_there_for_wide_and_narrow_and_as_a_table() -> None:
    report = build(sample())
    root = parsed(page(report))
    figures = list(root.iter("figure"))
    assert len(figures) == sum(len(section.figures) for section in report.sections)
    for figure in figures:
        assert [each.get("class") for each in figure.iter("div")] == ["wide", "narrow", "scroll"]
        assert len(list(figure.iter("table"))) == 1


def test_every_colour_that_is_used_is_in_the_style_sheet() -> None:
    html = page(build(sample()))
    kinds = set(re.findall(r'class="fill (\w+)"', html)) | {"standard"}
    assert kinds >= {"near", "ipc", "tcp", "raw", "lost", "stuck", "received"}
    assert [kind for kind in kinds if f".fill.{kind}" not in html] == []


@pytest.mark.parametrize("part", PARTS)
def test_what_was_not_measured_is_left_out(part: str) -> None:
    report = build(sample([part]))
    assert [section.title for section in report.sections] == [SECTIONS[part]]
    parsed(page(report))
    assert SECTIONS[part] in terminal(report)


def test_a_run_of_which_nothing_came_is_a_report_of_its_troubles() -> None:
    lame = [Outcome(each.job, trouble="stuck for 20 s") for each in outcomes()]
    report = build(sample([], extra=lame))
    assert len(report.troubles) == len(lame)
    parsed(page(report))
    assert terminal(report).count("stuck for 20 s") == len(lame)


def test_a_trouble_is_named_on_the_page_and_in_the_terminal() -> None:
    job = Job("queue", "latency", names.RAW, 0)
    report = build(sample(extra=[Outcome(job, trouble="failed: <Oh> & no")]))
    assert report.troubles == ["queue: latency, PUSH/PULL: failed: <Oh> & no"]
    assert "queue: latency, PUSH/PULL: failed: <Oh> & no" in texts(parsed(page(report)), "li")
    assert "! no result: queue: latency, PUSH/PULL: failed: <Oh> & no" in terminal(report)


def test_faults_show_the_worst_trial_and_say_how_often() -> None:
    report = build(sample(["faults"]))
    first = report.sections[0].figures[0].drawing.groups[0]  # type: ignore[union-attr]
    said = {row.name: row.said for row in first.rows}
    assert said == {
        names.QUEUE: "1 lost (1 of 2 trials)",
        names.RAW: "889 lost (1 of 2 trials)",
        names.NEAR: "1,000 stuck (1 of 2 trials)",
        names.FAR_IPC: "all arrived · 1 twice",
        names.FAR_TCP: "all arrived · 1 twice",
    }
    last = report.sections[0].figures[0].drawing.groups[-1]  # type: ignore[union-attr]
    assert [row.name for row in last.rows] == [names.FAR_IPC, names.FAR_TCP]


def test_findings_are_as_the_figures_came_out() -> None:
    said = " ".join(build(sample()).findings)
    assert "PUSH/PULL lost 4,445 and left 0 stuck of 10,000" in said
    assert "the far queues lost 0 and left 0 stuck of 24,000" in said
    assert "0.02× at 100 B" in said  # noqa: RUF001 - the sign that is meant
    assert "multiprocessing.Pool 0 and 1" in said


def test_a_busy_machine_is_said_before_all_else() -> None:
    assert "the times and rates mean little" in build(sample(load=1000.0)).findings[0]
    assert not any("busy" in finding for finding in build(sample(load=0.0)).findings)


def test_the_terminal_s_lines_end_in_no_space_and_its_columns_line_up() -> None:
    lines = terminal(build(sample())).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    start = lines.index("Pools at a glance") + 2
    assert len({len(line) for line in lines[start : start + 6]}) == 1


def test_the_page_says_where_and_how_and_what_not() -> None:
    said = page(build(sample()))
    for what in ("machine", "Python", "pyzmq", "rounds and trials", "What is not measured"):
        assert what in said


@pytest.mark.parametrize(
    ("say", "value", "said"),
    [
        (numbers.rate, 28315.2, "28.3 k/s"),
        (numbers.rate, 999.7, "1 k/s"),
        (numbers.rate, 999_700, "1 M/s"),
        (numbers.rate, 21.64, "21.6/s"),
        (numbers.time, 66.04, "66 µs"),
        (numbers.time, 999.6, "1 ms"),
        (numbers.time, 1500.0, "1.5 ms"),
        (numbers.time, 2.1e6, "2.1 s"),
        (numbers.bytes_of, 100, "100 B"),
        (numbers.bytes_of, 10240, "10 KiB"),
        (numbers.bytes_of, 1 << 20, "1 MiB"),
        (numbers.plain, 0.0, "0"),
        (numbers.plain, 0.01234, "0.0123"),
        (numbers.plain, 1234567.0, "1,234,567"),
        (numbers.share, 0.0005, "<1%"),
        (numbers.share, 0.9995, ">99%"),
        (numbers.share, 1.0, "100%"),
    ],
)
def test_figures_in_words(say: numbers.Say, value: float, said: str) -> None:
    assert say(value) == said


def test_percentiles_are_values_that_occurred() -> None:
    found = percentiles(range(1, 1001))
    assert found == {f"{point:g}": point * 10 for point in POINTS}
    assert set(percentiles([7.0]).values()) == {7.0}


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios({0: 2.0, 1: 30.0, 2: 9.0}, {0: 1.0, 1: 10.0}) == spread([2.0, 3.0])
    assert ratios({0: 1.0}, {1: 1.0}) is None
