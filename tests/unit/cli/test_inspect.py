"""A row on a terminal: what is trained stands out, and nothing in it can reach the terminal as a command."""

import re

import pytest

from app.cli.inspect import row_lines
from app.cli.text import in_line, visible
from app.jobs.views.data_schemas import RowView, SpanView

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def a_row(*spans: tuple[str, bool], cut: int = 0) -> RowView:
    shown = [SpanView(text=text, trained=trained, token_ids=list(range(len(text)))) for text, trained in spans]
    counts = [(len(span.token_ids), span.trained) for span in shown]
    return RowView(
        record=3,
        split="train",
        text="".join(span.text for span in shown),
        tokens=sum(count for count, _ in counts),
        supervised_tokens=sum(count for count, trained in counts if trained),
        cut_tokens=cut,
        spans=shown,
    )


def lines(row: RowView, *, has_colour: bool = False, has_ids: bool = False) -> list[str]:
    return list(row_lines(row, has_colour=has_colour, has_ids=has_ids))


def test_without_colour_trained_text_stands_in_brackets() -> None:
    assert lines(a_row(("ask\n", False), ("answer", True), (".", False))) == [
        "record 3 of train: 11 tokens, [[6 trained]], 5 not trained, 0 cut off",
        "ask\n[[answer]].",
    ]


def test_in_colour_trained_text_is_green_and_the_rest_is_dim() -> None:
    _, text = lines(a_row(("ask", False), ("answer", True)), has_colour=True)

    assert text == "\x1b[2mask\x1b[0m\x1b[32m\x1b[1manswer\x1b[0m"


def test_tokens_that_were_cut_off_are_counted_where_they_would_stand() -> None:
    assert (
        lines(a_row(("a", True), cut=1234))[-1]
        == "… 1,234 more tokens were cut off here: the row is longer than max_seq_length"
    )


def test_the_ids_of_every_span_are_shown_when_they_are_asked_for() -> None:
    assert lines(a_row(("ab", False), ("c", True)), has_ids=True)[-2:] == [
        "not trained, 2 tokens: 0 1",
        "trained, 1 tokens: 0",
    ]


HOSTILE = [
    ("\x1b[2J", "\\x1b[2J"),
    ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
    ("\x9b31m", "\\x9b31m"),
    ("a\rb\b", "a\\x0db\\x08"),
    ("\u202edcba\u2069", "\\u202edcba\\u2069"),
    ("\u2028", "\\u2028"),
    ("\ud800", "\\ud800"),
    ("\x00\x7f", "\\x00\\x7f"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_a_terminal_would_obey_is_shown_as_it_is_written(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["tab\tand\nline", "naïve 한글 😀", "👩‍👩‍👧", "שלום", "[red]"])
def test_text_that_does_no_harm_is_left_alone(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("has_colour", [True, False])
@pytest.mark.parametrize("is_trained", [True, False])
@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_no_escape_of_a_dataset_is_printed(text: str, shown: str, is_trained: bool, has_colour: bool) -> None:
    printed = lines(a_row((text, is_trained)), has_colour=has_colour)[1]

    assert shown in printed
    assert not set(ANSI.sub("", printed)) & set(text) & set("\x1b\x07\x9b\r\b\u202e\u2069\u2028\ud800\x00\x7f")


def test_a_line_stays_a_line() -> None:
    assert in_line("a\nb\tc\x1b") == "a\\nb\\tc\\x1b"
