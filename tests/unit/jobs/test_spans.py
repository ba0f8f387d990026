"""A row is split where training begins and ends, and not a character of it is lost, whatever its tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from app.contracts.rows import IGNORED
from app.jobs.views.spans import Decode, Span, Tokenizers, split
from tests.support.learned_text import Parts, byte_tokenizer, chat_parts, tokens_of

EMOJI = "👩‍👩‍👧 😀"


def pieces() -> Tokenizer:
    """As Llama 2: a space before the first word, which decoding takes off again; bytes for unknown letters."""
    letters = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "▁b"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges = [("▁", "a"), ("▁", "b")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def words() -> Tokenizer:
    """As BERT: the decoder puts the spaces between."""
    names = ["[UNK]", "a", "b", "##c", "do", "n't", ".", "!"]
    tokenizer = Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in "▁abc.")], 0, False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


MADE = {"bytes": byte_tokenizer(), "pieces": pieces(), "words": words(), "metaspace": metaspace()}


def decoder(tokenizer: Tokenizer) -> Decode:
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def spans_of(parts: Parts) -> list[Span]:
    return split(decoder(MADE["bytes"]), *tokens_of(parts))


def shown(spans: Sequence[Span]) -> list[tuple[str, bool]]:
    return [(span.text, span.is_trained) for span in spans]


@pytest.mark.parametrize(("question", "answer"), [("q", "a"), (EMOJI, "שלום"), ("한글", EMOJI), ("  q ", "\n\n a\t")])
def test_spans_are_the_parts_that_are_trained_and_not(question: str, answer: str) -> None:
    parts = chat_parts(question, answer)

    assert shown(spans_of(parts)) == list(parts)


def test_a_row_without_tokens_has_no_spans() -> None:
    assert split(decoder(MADE["bytes"]), [], []) == []


def test_a_character_belongs_to_the_span_that_completes_it() -> None:
    ids = MADE["bytes"].encode("é!").ids
    spans = split(decoder(MADE["bytes"]), ids, [IGNORED, ids[1], ids[2]])

    assert shown(spans) == [("", False), ("é!", True)]


def test_a_row_cut_within_a_character_ends_with_its_mark() -> None:
    ids = MADE["bytes"].encode("aé").ids[:-1]

    assert shown(split(decoder(MADE["bytes"]), ids, [IGNORED, *ids[1:]])) == [("a", False), ("\ufffd", True)]


@pytest.mark.parametrize("text", ["a b", " b", "b\ub098\ub77c a"])
def test_the_first_token_of_a_span_keeps_its_space(text: str) -> None:
    ids = MADE["pieces"].encode(text).ids
    spans = split(decoder(MADE["pieces"]), [*ids, *ids], [IGNORED] * len(ids) + ids)

    assert shown(spans) == [(text, False), (f" {text}", True)]


def test_a_span_that_ends_within_a_character_leaves_the_characters_before_it_where_they_are() -> None:
    """A decoder of byte pieces breaks all neighbouring characters where the last one is not whole."""
    ids = MADE["pieces"].encode("a" * 24 + "👩👩👩").ids
    labels = [IGNORED] * 28 + ids[28:30] + [IGNORED] * 2 + ids[32:]

    assert shown(split(decoder(MADE["pieces"]), ids, labels)) == [
        ("a" * 24 + "👩", False),
        ("", True),
        ("👩", False),
        ("👩", True),
    ]


@given(name=st.sampled_from(sorted(MADE)), seeds=st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), max_size=90))
def test_the_spans_joined_are_what_the_row_decodes_to(name: str, seeds: list[tuple[int, bool]]) -> None:
    decode, size = decoder(MADE[name]), MADE[name].get_vocab_size()
    ids = [seed % size for seed, _ in seeds]
    spans = split(
        decode, ids, [token if is_trained else IGNORED for token, (_, is_trained) in zip(ids, seeds, strict=True)]
    )

    assert "".join(span.text for span in spans) == decode(ids)
    assert [token for span in spans for token in span.token_ids] == ids


@given(text=st.text(alphabet="ab .é한👩", max_size=60), lengths=st.lists(st.integers(1, 9), min_size=60, max_size=60))
@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_a_span_ends_where_the_row_up_to_it_does(name: str, text: str, lengths: list[int]) -> None:
    """Against the slow way, which decodes all tokens up to the end of each span."""
    decode, ids = decoder(MADE[name]), MADE[name].encode(text).ids
    turns = [number % 2 == 0 for number, length in enumerate(lengths) for _ in range(length)] * 5
    spans = split(
        decode, ids, [token if is_trained else IGNORED for token, is_trained in zip(ids, turns, strict=False)]
    )
    end, shown, place = 0, "", 0
    for span in spans[:-1]:
        end, shown = end + len(span.token_ids), shown + span.text
        place = max(place, shared(decode(ids[:end]), decode(ids)))
        assert shown == decode(ids)[:place]


def shared(prefix: str, text: str) -> int:
    return next((at for at, char in enumerate(prefix) if not text.startswith(char, at)), len(prefix))


class CountingDecoder:
    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode, self.tokens = decode, 0

    def __call__(self, ids: Sequence[int]) -> str:
        self.tokens += len(ids)
        return self._decode(ids)


@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_the_work_grows_with_the_row_and_not_with_its_square(name: str) -> None:
    ids = (MADE[name].encode(f"a b {EMOJI} c").ids * 800)[:20_000]
    decode = CountingDecoder(decoder(MADE[name]))
    spans = split(decode, ids, [IGNORED if number // 7 % 2 else token for number, token in enumerate(ids)])

    assert len(spans) > 2000
    assert decode.tokens < 100 * len(ids)


def test_only_the_last_tokenizers_are_kept(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for path in paths:
        byte_tokenizer().save(str(path))
    kept = Tokenizers(2)

    assert [kept.decoder(path)([0]) for path in paths] == ["!", "!", "!"]
    assert len(kept._found) == 2
