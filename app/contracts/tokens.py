"""The report on the tokens of a dataset's rows, and how many are trained on. Record numbers are those of the source."""

from pydantic import Field

from app.contracts.base import Contract


class Bucket(Contract):
    """Rows with at most `up_to` tokens, and more than the previous bucket's."""

    up_to: int
    rows: int


class Spread(Contract):
    """The distribution of a count of tokens over the rows. Buckets end at powers of two; empty ones are left out."""

    total: int
    mean: float
    p50: int
    p90: int
    p99: int
    largest: int
    histogram: list[Bucket]


class LongRecord(Contract):
    """A record of more than max_seq_length tokens. `learned_tokens_cut`: supervised tokens that were cut off."""

    record: int
    tokens: int
    learned_tokens_cut: int


class RecordIssue(Contract):
    """A finding about `count` records; `records` are the numbers of the first ones."""

    code: str
    message: str
    count: int
    records: list[int]


class Overlap(Contract):
    """Evaluation rows whose tokens equal those of a training row, so they measure memorisation."""

    count: int
    records: list[int] = Field(description="of the evaluation set")


class TokenReport(Contract):
    """All rows of one split that the trainer gets: whole rows, before padding and packing."""

    rows: int
    tokens: int
    supervised_tokens: int
    max_seq_length: int
    longest_row_tokens: int = Field(description="before it was cut")
    longest_record: int
    mean_row_tokens: float
    row_tokens: Spread
    supervised_row_tokens: Spread
    truncated_rows: int
    truncated_tokens: int
    long_records: list[LongRecord] = Field(description="the first that were cut, dropped or left out for their length")
    left_out: list[RecordIssue] = Field(description="records that are not trained on, by reason")
    findings: list[RecordIssue] = Field(description="records that are trained on, but may be a mistake")
    duplicates: int = Field(description="rows whose tokens equal those of an earlier row; they are kept")


class Prepared(Contract):
    """What the rows were made from. `key` is a hash of all other fields: equal keys mean equal rows."""

    key: str
    from_cache: bool
    source_sha256: str | None = Field(description="of the bytes that were read; null for rows of the hub")
    eval_source_sha256: str | None
    tokenizer_sha256: str
    chat_template_sha256: str | None
    max_seq_length: int
