"""Text of an answer, piece by piece."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inference.text.chat_text import Detokenizer, StopScanner

texts = st.text(alphabet="ab<|é€😀\n", max_size=30)
stops = st.lists(st.text(alphabet="ab<|é", min_size=1, max_size=4), max_size=3)


def bytes_as_tokens(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def detokenized(ids: list[int]) -> list[str]:
    letters = Detokenizer(bytes_as_tokens)
    return [*(letters.feed(token) for token in ids), letters.finish()]


def scanned(pieces: list[str], *stops: str, kept: Sequence[str] = ()) -> tuple[str, bool]:
    scanner = StopScanner(stops, kept=kept)
    text = "".join(scanner.feed(piece) for piece in pieces)
    return text + scanner.finish(), scanner.has_stopped


def test_a_character_over_four_tokens_comes_with_the_last_of_them() -> None:
    assert detokenized(list("😀".encode())) == ["", "", "", "😀", ""]


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    assert detokenized([ord("a"), 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]


def without_the_first_space(ids: list[int]) -> str:
    """As decoders of SentencePiece write the beginning of a text."""
    return bytes(ids).decode().removeprefix(" ")


def test_what_goes_on_from_a_text_keeps_its_first_space() -> None:
    letters = Detokenizer(without_the_first_space, before=list(b"one"))

    assert "".join(letters.feed(token) for token in b" two") + letters.finish() == " two"


@given(texts, texts)
def test_what_was_before_is_no_part_of_the_text(before: str, text: str) -> None:
    letters = Detokenizer(bytes_as_tokens, before=list(before.encode()))

    assert "".join(letters.feed(token) for token in text.encode()) + letters.finish() == text


@given(texts, st.data())
def test_tokens_that_are_written_together_are_the_same_text(text: str, data: st.DataObject) -> None:
    letters = Detokenizer(bytes_as_tokens)
    pieces = []
    for token in text.encode():
        if data.draw(st.booleans()):
            letters.hold(token)
        else:
            pieces.append(letters.feed(token))

    assert "".join([*pieces, letters.finish()]) == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.binary(max_size=30))
def test_any_bytes_come_through(raw: bytes) -> None:
    assert "".join(detokenized(list(raw))) == raw.decode("utf-8", errors="replace")


@pytest.mark.parametrize("pieces", [["a STOP b"], ["a S", "TO", "P b"], list("a STOP b")])
def test_a_stop_string_is_found_across_pieces_and_may_be_kept(pieces: list[str]) -> None:
    assert scanned(pieces, "STOP") == ("a ", True)
    assert scanned(pieces, kept=["STOP"]) == ("a STOP", True)


def test_text_is_held_back_no_longer_than_needed() -> None:
    scanner = StopScanner(["aab"])

    assert [scanner.feed(piece) for piece in ("xa", "a", "a", "c")] == ["x", "", "a", "aac"]


@given(texts, stops)
def test_the_stop_string_that_is_complete_first_ends_the_text_before_itself(text: str, stops: list[str]) -> None:
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    lengths = [len(stop) for stop in stops if ends and text[: min(ends)].endswith(stop)]

    assert scanned(list(text), *stops) == (text[: min(ends) - max(lengths)] if ends else text, bool(ends))
