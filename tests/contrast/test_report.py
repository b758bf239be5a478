"""The report: from a document to text, tables and a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nearfar.contrast import report_model as words
from nearfar.contrast import settings as names
from nearfar.contrast.report import build_report, page, terminal
from nearfar.contrast.report_model import PROMISES, Format, promise_table, queue_promises
from nearfar.contrast.runner import PARTS, MeasurementOutcome
from nearfar.contrast.settings import POINTS, QUICK, Measurement, percentiles, ratios, spread
from nearfar.queues.base import Promises
from tests.contrast.sample import HOSTED, outcomes, sample, without_redis

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
    html = page(build_report(sample()))
    root = parsed(html)
    assert set(re.findall(r"https?://[^\"' )]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", html)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))


def test_every_figure_is_a_chart_and_a_table() -> None:
    report = build_report(sample())
    root = parsed(page(report))
    figures = list(root.iter("figure"))
    assert len(figures) == sum(len(section.figures) for section in report.sections)
    for figure in figures:
        classes = [each.get("class") for each in figure.iter("div")]
        assert len({"bars", "curves"} & set(classes)) == 1
        assert classes[-1] == "scroll"
        assert len(list(figure.iter("table"))) == 1


def test_a_curve_is_svg_with_a_title_and_every_bar_has_its_name_and_its_text() -> None:
    report = build_report(sample())
    root = parsed(page(report))
    charts = [each for each in root.iter() if each.tag.endswith("}svg")]
    assert len(charts) == 2
    titles = {each.get("id") for each in root.iter() if each.tag.endswith("}title")}
    assert {each.get("aria-labelledby") for each in charts} <= titles
    assert all(each.get("role") == "img" for each in charts)
    rows = [each for each in root.iter("div") if each.get("class") == "row"]
    assert len(rows) > 50
    for row in rows:
        texts = {part.get("class"): part.text for part in row}
        assert texts["name"] and texts["text"]


def test_a_single_lost_item_of_many_can_be_seen() -> None:
    """I expect a segment of least width, so that one item of 2,000 is not less than a pixel."""
    html = page(build_report(sample(["faults"])))
    assert '<i class="fill lost" style="flex-grow:0.05"></i>' in html
    assert re.search(r"\.bar i \{[^}]*min-width: 3px", html)


def test_every_colour_that_is_used_is_in_the_style_sheet() -> None:
    html = page(build_report(sample()))
    kinds = set(re.findall(r'class="(?:dot )?fill (\w+)"', html)) | {"standard"}
    assert kinds >= {"near", "ipc", "tcp", "redis", "raw", "lost", "stuck", "received"}
    assert [kind for kind in kinds if f".fill.{kind}" not in html] == []


@pytest.mark.parametrize("part", PARTS)
def test_what_was_not_measured_is_left_out(part: str) -> None:
    report = build_report(sample([part]))
    assert [section.title for section in report.sections] == [SECTIONS[part]]
    parsed(page(report))
    assert SECTIONS[part] in terminal(report, 160)


def test_a_run_without_results_gives_a_report_of_its_errors() -> None:
    lame = [MeasurementOutcome(each.measurement, trouble="stuck for 20 s") for each in outcomes()]
    report = build_report(sample([], extra=lame))
    assert len(report.troubles) == len(lame)
    parsed(page(report))
    assert terminal(report, 160).count("stuck for 20 s") == len(lame)


def test_an_error_is_named_on_the_page_and_in_the_terminal() -> None:
    job = Measurement("queue", "latency", names.RAW, 0)
    report = build_report(sample(extra=[MeasurementOutcome(job, trouble="failed: <Oh> & no")]))
    assert report.troubles == ["queue: latency, PUSH/PULL: failed: <Oh> & no"]
    assert "queue: latency, PUSH/PULL: failed: <Oh> & no" in texts(parsed(page(report)), "li")
    assert "!  queue: latency, PUSH/PULL: failed: <Oh> & no" in terminal(report, 160)


def test_faults_show_the_worst_trial_and_say_how_often() -> None:
    report = build_report(sample(["faults"]))
    first = report.sections[0].figures[0].chart.groups[0]  # type: ignore[union-attr]
    said = {row.name: row.text for row in first.rows}
    assert said == {
        names.QUEUE: "1 lost (1 of 2 trials)",
        names.RAW: "889 lost (1 of 2 trials)",
        names.NEAR: "1,000 stuck (1 of 2 trials)",
        names.FAR_IPC: "all arrived, 1 handled twice",
        names.FAR_TCP: "all arrived, 1 handled twice",
        names.REDIS: "all arrived, 1 handled twice",
    }
    last = report.sections[0].figures[0].chart.groups[-1]  # type: ignore[union-attr]
    assert [row.name for row in last.rows] == list(HOSTED)


def test_findings_are_as_the_figures_came_out() -> None:
    said = " ".join(build_report(sample()).findings)
    assert "PUSH/PULL lost 3,556 and left 0 stuck, of 8,000" in said
    assert "PUSH/PULL lost 889 and left 0 stuck, of 2,000" in said
    assert "far lost 0 and left 0 stuck, of 20,000" in said
    assert "redis lost 0 and left 0 stuck, of 10,000" in said
    assert "100 B 0.02×, 1.91 k/s; 10 KiB 0.02×, 187/s; 1 MiB 0.02×, 2/s" in said  # noqa: RUF001 - the sign that is meant
    assert "8.81 ms far tcp (50×)" in said  # noqa: RUF001
    assert "multiprocessing.Pool 0 and 1" in said


def test_a_busy_machine_is_said_before_all_else() -> None:
    assert "the times and rates are not reliable" in build_report(sample(load=1000.0)).findings[0]
    assert not any("busy" in finding for finding in build_report(sample(load=0.0)).findings)


def test_the_terminal_s_lines_end_in_no_space_and_its_columns_line_up() -> None:
    lines = terminal(build_report(sample()), 160).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    start = lines.index("Pools: speed") + 2
    rows = lines[start : lines.index("", start)]
    assert len(rows) > 6
    assert len({len(line) for line in rows[-6:]}) == 1


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_s_lines_fit_and_no_word_is_lost(width: int) -> None:
    report = build_report(sample())
    text = terminal(report, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    words_there = set(text.split())
    for sentence in (*report.texts["advice"], *report.findings):
        assert set(sentence.split()) <= words_there


def test_page_and_terminal_say_the_same() -> None:
    """I expect advice, findings, contestants, words and promises on both."""
    report = build_report(sample())
    html, text = html_text(page(report)), " ".join(terminal(report, 300).split())
    pairs = {**report.texts["contestants"], **report.texts["words"]}
    for said in (*report.texts["advice"], *report.findings, *pairs, *pairs.values(), *PROMISES.values()):
        assert said in html
        assert said in text


def html_text(html: str) -> str:
    return " ".join("".join(parsed(html).itertext()).split())


def test_there_are_five_sentences_on_when_to_use_which() -> None:
    assert len(build_report(sample()).texts["advice"]) == 5


def test_every_contestant_and_every_column_of_the_summary_is_explained() -> None:
    report = build_report(sample())
    assert set(report.texts["contestants"]) == {*names.QUEUES, *names.POOLS}
    assert len(set(report.texts["contestants"].values())) == len(report.texts["contestants"])
    titles = " ".join(report.texts["words"])
    for head in ("lost", "stuck", "handled twice", "round trip", "p50", "p99", "failed", "never answered"):
        assert head in titles


def test_every_size_that_was_measured_is_in_the_summary() -> None:
    summary = dict(build_report(sample()).summary)
    sizes = [words.bytes_of(size) for size in QUICK.sizes]
    assert "10 KiB" in sizes
    assert summary["Queues: items per second, one by one"].heads == ["", *sizes]


def test_the_table_of_promises_is_what_the_queues_say() -> None:
    assert list(PROMISES) == [name for name in Promises.__slots__ if name != "transport"]
    table = promise_table(queue_promises())
    assert table.heads == ["", names.NEAR, names.FAR_IPC, names.FAR_TCP]
    answers = {row[0]: row[1:] for row in table.rows}
    assert answers[PROMISES["redelivers"]] == ["no", "yes", "yes"]
    assert answers[PROMISES["crosses_machines"]] == ["no", "no", "yes"]


def test_a_page_with_redis_shows_its_promises_and_version() -> None:
    report = build_report(sample())
    assert report.promises.heads == ["", names.NEAR, names.FAR_IPC, names.FAR_TCP, names.REDIS]
    answers = {row[0]: row[-1] for row in report.promises.rows}
    assert answers[PROMISES["durable"]] == answers[PROMISES["confirms_puts"]] == "yes"
    assert "redis-server 7.0.15" in dict(report.setting)["libraries"]
    assert "redis is left out" not in page(report)


def test_without_a_redis_server_redis_is_left_out_and_the_method_says_so() -> None:
    report = build_report(without_redis())
    said = html_text(page(report))
    assert "redis is left out: it needs redis-server on the PATH, and pip install 'nearfar[redis]'." in said
    assert names.REDIS not in report.promises.heads
    tables = [table for _, table in report.summary]
    tables += [figure.table for section in report.sections for figure in section.figures]
    assert [row for table in tables for row in table.rows if row[0] == names.REDIS] == []
    assert "redis-server" not in dict(report.setting)["libraries"]
    parsed(page(report))


def test_the_page_says_where_and_how_and_what_not() -> None:
    said = page(build_report(sample()))
    for what in ("machine", "Python", "pyzmq", "2 rounds of what is timed", "What is not measured"):
        assert what in said


@pytest.mark.parametrize(
    ("say", "value", "said"),
    [
        (words.rate, 28315.2, "28.3 k/s"),
        (words.rate, 999.7, "1 k/s"),
        (words.rate, 999_700, "1 M/s"),
        (words.rate, 21.64, "21.6/s"),
        (words.time, 66.04, "66 µs"),
        (words.time, 999.6, "1 ms"),
        (words.time, 1500.0, "1.5 ms"),
        (words.time, 2.1e6, "2.1 s"),
        (words.bytes_of, 100, "100 B"),
        (words.bytes_of, 10240, "10 KiB"),
        (words.bytes_of, 1 << 20, "1 MiB"),
        (words.plain, 0.0, "0"),
        (words.plain, 0.01234, "0.0123"),
        (words.plain, 1234567.0, "1,234,567"),
        (words.share, 0.0005, "<1%"),
        (words.share, 0.9995, ">99%"),
        (words.share, 1.0, "100%"),
    ],
)
def test_figures_in_words(say: Format, value: float, said: str) -> None:
    assert say(value) == said


def test_percentiles_are_values_that_occurred() -> None:
    found = percentiles(range(1, 1001))
    assert found == {f"{point:g}": point * 10 for point in POINTS}
    assert set(percentiles([7.0]).values()) == {7.0}


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios({0: 2.0, 1: 30.0, 2: 9.0}, {0: 1.0, 1: 10.0}) == spread([2.0, 3.0])
    assert ratios({0: 1.0}, {1: 1.0}) is None
