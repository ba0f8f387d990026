"""What is read of an attempt while its process still writes: whole lines and whole characters."""

from pathlib import Path

import pytest

from app.contracts.events import Phase, PhaseStarted
from app.jobs.schemas import LogPage
from app.jobs.views.logs import LOG_NAME, attempt_dir, read_log
from app.processes.log_rotation import LogOffsets, offsets_file, rotated_log
from worker.events import EventWriter
from worker.supervising.tail import EventTail


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
        page = read_log(tmp_path, 1, offset=offset, limit=limit, is_ended=True)
        text, offset, is_complete = text + page.text, page.next_offset, page.is_complete

    assert text == "añ→😀b"


def test_a_log_of_a_job_that_still_runs_is_never_complete(tmp_path: Path) -> None:
    assert not read_log(tmp_path, None, offset=0, limit=10, is_ended=False).is_complete


def a_rotated_log(job_dir: Path, old: bytes, live: bytes, first: int, rotated: int) -> None:
    path = attempt_dir(job_dir, 1) / LOG_NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(live)
    rotated_log(path).write_bytes(old)
    offsets_file(path).write_text(LogOffsets(first=first, rotated=rotated).model_dump_json())


@pytest.mark.parametrize(
    ("offset", "limit", "text", "following"),
    [
        (0, 5, "hello", 105),  # rotated away: from the first byte that is kept
        (103, 5, "lo wo", 108),  # over the border of the two files
        (106, 100, "world", 111),
        (200, 100, "", 200),  # not there yet
    ],
)
def test_an_offset_counts_the_bytes_that_were_rotated_away(
    tmp_path: Path, offset: int, limit: int, text: str, following: int
) -> None:
    a_rotated_log(tmp_path, b"hello ", b"world", first=100, rotated=106)

    page = read_log(tmp_path, 1, offset=offset, limit=limit, is_ended=False)

    assert (page.text, page.first_offset, page.next_offset) == (text, 100, following)


def test_a_page_never_joins_what_a_crash_parted(tmp_path: Path) -> None:
    """The offsets between are nobody's; the character that was cut off at the end does not stop the reader."""
    a_rotated_log(tmp_path, b"hello \xf0\x9f", b"world", first=100, rotated=1000)
    pages: list[LogPage] = []
    offset = 0
    while not pages or not pages[-1].is_complete:
        pages.append(read_log(tmp_path, 1, offset=offset, limit=6, is_ended=True))
        offset = pages[-1].next_offset

    assert [(page.text, page.next_offset) for page in pages] == [("hello ", 106), ("\ufffd", 108), ("world", 1005)]


def test_a_log_whose_old_bytes_are_not_there_begins_with_the_live_file(tmp_path: Path) -> None:
    a_rotated_log(tmp_path, b"of before", b"world", first=106, rotated=106)

    page = read_log(tmp_path, 1, offset=0, limit=100, is_ended=True)

    assert (page.text, page.first_offset, page.next_offset, page.is_complete) == ("world", 106, 111, True)
