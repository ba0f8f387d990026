"""Text of an answer, piece by piece."""

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


def scanned(pieces: list[str], *stops: str) -> tuple[str, bool]:
    scanner = StopScanner(stops)
    text = "".join(scanner.feed(piece) for piece in pieces)
    return text + scanner.finish(), scanner.has_stopped


@given(texts)
def test_the_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(detokenized(list(text.encode()))) == text


@given(texts)
def test_no_piece_holds_half_a_character(text: str) -> None:
    assert not any("\ufffd" in piece for piece in detokenized(list(text.encode())))


def test_a_character_over_four_tokens_comes_with_the_last_of_them() -> None:
    assert detokenized(list("😀".encode())) == ["", "", "", "😀", ""]


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    assert detokenized([ord("a"), 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]


def test_a_broken_byte_does_not_hold_back_what_follows() -> None:
    assert "".join(detokenized([0xFF, ord("a"), ord("b")])) == "\ufffdab"


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
def test_a_stop_string_is_found_across_pieces(pieces: list[str]) -> None:
    assert scanned(pieces, "STOP") == ("a ", True)


@pytest.mark.parametrize("pieces", [["a STOP b"], ["a S", "TO", "P b"], list("a STOP b")])
def test_a_stop_string_that_is_kept_ends_the_text_behind_itself(pieces: list[str]) -> None:
    scanner = StopScanner([], kept=["STOP"])

    assert "".join(scanner.feed(piece) for piece in pieces) + scanner.finish() == "a STOP"
    assert scanner.has_stopped


def test_a_stop_string_that_only_began_comes_through() -> None:
    assert scanned(["a ST", "", "ART"], "STOP") == ("a START", False)


def test_the_beginning_of_a_stop_string_at_the_end_comes_through() -> None:
    assert scanned(["a STO"], "STOP") == ("a STO", False)


def test_the_first_of_two_stop_strings_ends_the_text() -> None:
    assert scanned(["one two"], "two", "one") == ("", True)


def test_text_is_held_back_no_longer_than_needed() -> None:
    scanner = StopScanner(["aab"])

    assert [scanner.feed(piece) for piece in ("xa", "a", "a", "c")] == ["x", "", "a", "aac"]


@given(texts, stops)
def test_what_comes_through_holds_no_stop_string(text: str, stops: list[str]) -> None:
    through, has_stopped = scanned(list(text), *stops)

    assert not any(stop in through for stop in stops)
    assert has_stopped == any(stop in text for stop in stops)
    assert text.startswith(through)
