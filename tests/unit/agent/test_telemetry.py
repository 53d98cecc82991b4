import multiprocessing
import os
from pathlib import Path

from agent import telemetry
from agent.cli.sequence import render_sequence, select_sequence
from agent.telemetry import PROXY_SAW, REQUEST_ACCEPTED, RULES_IN_KERNEL, Mark, Timeline, read_timeline


def test_marks_come_back_in_order(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "t.jsonl")
    timeline.mark(REQUEST_ACCEPTED, "default", "a", at=1.0)
    timeline.mark(PROXY_SAW, "default", "a", at=2.0, detail="x")
    assert list(read_timeline(tmp_path / "t.jsonl")) == [
        Mark(1.0, REQUEST_ACCEPTED, "default", "a"),
        Mark(2.0, PROXY_SAW, "default", "a", "x"),
    ]


def test_without_a_file_nothing_is_noted_and_nothing_is_read(tmp_path: Path) -> None:
    Timeline(None).mark(REQUEST_ACCEPTED, "default", "a")
    assert list(read_timeline(tmp_path / "missing.jsonl")) == []


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "t.jsonl")
    timeline.mark(REQUEST_ACCEPTED, "default", "a", at=1.0)
    with (tmp_path / "t.jsonl").open("ab") as file:
        file.write(b'{"at": 2.0, "st')
    assert [mark.at for mark in read_timeline(tmp_path / "t.jsonl")] == [1.0]


def test_the_file_is_put_aside_above_its_limit(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "t.jsonl")
    timeline.mark(REQUEST_ACCEPTED, "default", "a" * 300, at=1.0)
    (limit, telemetry.LIMIT) = (telemetry.LIMIT, 100)
    try:
        timeline.mark(PROXY_SAW, "default", "b", at=2.0)
    finally:
        telemetry.LIMIT = limit
    assert [mark.at for mark in read_timeline(tmp_path / "t.jsonl")] == [2.0]
    assert [mark.at for mark in read_timeline(tmp_path / "t.jsonl.1")] == [1.0]


def _write_many(path: Path, count: int) -> None:
    timeline = Timeline(path)
    for number in range(count):
        timeline.mark(REQUEST_ACCEPTED, str(os.getpid()), str(number))


def test_processes_share_the_file_without_losing_a_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path / "t.jsonl", 200)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    marks = list(read_timeline(tmp_path / "t.jsonl"))
    assert len(marks) == 400
    assert len({(mark.namespace, mark.name) for mark in marks}) == 400


def test_the_sequence_is_that_of_the_latest_creation() -> None:
    marks = [
        Mark(1.0, REQUEST_ACCEPTED, "default", "a"),
        Mark(1.5, PROXY_SAW, "default", "a"),
        Mark(5.0, REQUEST_ACCEPTED, "default", "a"),
        Mark(5.2, RULES_IN_KERNEL, "default", "a"),
        Mark(5.1, PROXY_SAW, "default", "a"),
        Mark(5.3, PROXY_SAW, "default", "a"),
        Mark(5.1, PROXY_SAW, "default", "other"),
    ]
    found = select_sequence(marks, "default", "a")
    assert [(mark.step, mark.at) for mark in found] == [
        (REQUEST_ACCEPTED, 5.0),
        (PROXY_SAW, 5.1),
        (RULES_IN_KERNEL, 5.2),
    ]
    text = render_sequence(found)
    assert "200.0 ms" in text
    assert text.count("\n") == 3


def test_an_unknown_service_has_no_sequence() -> None:
    assert render_sequence(select_sequence([], "default", "a")) == ""
