"""What is read of an attempt while its process still writes: whole lines and whole characters."""

from pathlib import Path

import pytest

from app.contracts.events import Phase, PhaseStarted
from app.jobs.logs import LOG_NAME, attempt_dir, read_log
from worker.events import EventWriter
from worker.tail import EventTail


def test_an_event_counts_once_its_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = PhaseStarted(phase=Phase.LOAD).model_dump_json().encode()
    path.write_bytes(line + b"\n" + line[:10])

    events, offset = EventTail(path).peek()

    assert len(events) == 1
    assert offset == len(line) + 1


def test_a_tail_reads_on_from_where_it_was_advanced_to(tmp_path: Path) -> None:
    tail = EventTail(tmp_path / "events.jsonl")
    with EventWriter(tmp_path / "events.jsonl") as writer:
        writer.enter(Phase.LOAD)
        tail.advance(tail.peek()[1])
        writer.enter(Phase.TRAIN)

    assert [event.phase for event in tail.peek()[0] if isinstance(event, PhaseStarted)] == [Phase.TRAIN]


def test_what_was_not_advanced_over_is_read_again(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "events.jsonl") as writer:
        writer.enter(Phase.LOAD)
    tail = EventTail(tmp_path / "events.jsonl")

    assert tail.peek() == tail.peek()


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_pages_of_a_log_put_together_are_the_log(tmp_path: Path, limit: int) -> None:
    folder = attempt_dir(tmp_path, 1)
    folder.mkdir(parents=True)
    (folder / LOG_NAME).write_text("añ→😀b", encoding="utf-8")
    text, offset, is_complete = "", 0, False
    while not is_complete:
        page = read_log(tmp_path, 1, offset=offset, limit=max(limit, 4), is_ended=True)
        text, offset, is_complete = text + page.text, page.next_offset, page.is_complete

    assert text == "añ→😀b"


def test_a_log_of_a_job_that_still_runs_is_never_complete(tmp_path: Path) -> None:
    assert not read_log(tmp_path, None, offset=0, limit=10, is_ended=False).is_complete
