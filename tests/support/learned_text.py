"""Rows as a checker leaves them for the trainer, with a tokenizer of single bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.contracts.rows import IGNORED, TOKENIZER
from app.contracts.tokens import LongRecord, RecordIssue, Spread, TokenReport
from worker.checking.rows import SCHEMA

START, END = "<|im_start|>", "<|im_end|>"

# Parts of a row: text, and whether it is trained.
Parts = Sequence[tuple[str, bool]]


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and two special ones."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def chat_parts(question: str, answer: str) -> Parts:
    return [(f"{START}user\n{question}{END}\n{START}assistant\n", False), (f"{answer}{END}", True), ("\n", False)]


def tokens_of(parts: Parts, tokenizer: Tokenizer | None = None) -> tuple[list[int], list[int]]:
    """ids and labels."""
    tokenizer = tokenizer or byte_tokenizer()
    encoded = [(tokenizer.encode(text).ids, is_trained) for text, is_trained in parts]
    ids = [token for part, _ in encoded for token in part]
    return ids, [token if is_trained else IGNORED for part, is_trained in encoded for token in part]


def _row(record: int, ids: list[int], labels: list[int], cut: int) -> tuple[object, ...]:
    return (record, ids, labels, cut, sum(label != IGNORED for label in labels), record)


def write_rows(path: Path, rows: dict[int, Parts], *, cut: int = 0, rows_in_batch: int = 2) -> None:
    """An Arrow stream of rows by their record numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer()
    values = [_row(record, *tokens_of(parts, tokenizer), cut) for record, parts in rows.items()]
    with pa.ipc.new_stream(str(path), SCHEMA) as stream:
        for begin in range(0, len(values), rows_in_batch):
            columns = zip(*values[begin : begin + rows_in_batch], strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))


def write_data(data: Path, **sets: dict[int, Parts]) -> None:
    """A data folder with a tokenizer and the sets that are named: train, eval."""
    (data / TOKENIZER).mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(data / TOKENIZER / "tokenizer.json"))
    for name, rows in sets.items():
        write_rows(data / f"{name}.arrow", rows)


def a_token_report(**changes: Any) -> TokenReport:
    spread = Spread(total=30, mean=10.0, p50=8, p90=12, p99=14, largest=14, histogram=[{"up_to": 16, "rows": 3}])
    usual = TokenReport(
        rows=3,
        tokens=30,
        supervised_tokens=12,
        max_seq_length=64,
        longest_row_tokens=14,
        longest_record=2,
        mean_row_tokens=10.0,
        row_tokens=spread,
        supervised_row_tokens=spread,
        truncated_rows=0,
        truncated_tokens=0,
        long_records=[],
        left_out=[],
        findings=[],
        duplicates=0,
    )
    return usual.model_copy(update=changes)


def left_out(code: str, message: str, *records: int) -> RecordIssue:
    return RecordIssue(code=code, message=message, count=len(records), records=list(records))


def too_long(record: int, tokens: int) -> LongRecord:
    return LongRecord(record=record, tokens=tokens, learned_tokens_cut=0)
