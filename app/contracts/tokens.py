"""What the rows of a dataset are in tokens, and which of them are learned. Record numbers are those of the source."""

from pydantic import Field

from app.contracts.base import Contract


class Bucket(Contract):
    """Rows of more than the bucket before, and at most `up_to` tokens."""

    up_to: int
    rows: int


class Spread(Contract):
    """How a count of tokens is spread over the rows. Buckets end at powers of two; empty ones are left out."""

    total: int
    mean: float
    p50: int
    p90: int
    p99: int
    largest: int
    histogram: list[Bucket]


class LongRecord(Contract):
    """A record of more than max_seq_length tokens. `learned_tokens_cut` counts supervised tokens behind the cut."""

    record: int
    tokens: int
    learned_tokens_cut: int


class Named(Contract):
    """Something that was met in `count` records; `records` are the numbers of the first ones."""

    code: str
    message: str
    count: int
    records: list[int]


class Overlap(Contract):
    """Evaluation rows whose tokens equal those of a training row: what they measure is memory."""

    count: int
    records: list[int] = Field(description="of the evaluation set")


class TokenReport(Contract):
    """All rows of one set, as the trainer gets them: whole rows, before padding and packing."""

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
    left_out: list[Named] = Field(description="records that are not trained on, by reason")
    findings: list[Named] = Field(description="records that are trained on, and worth a look")
    duplicates: int = Field(description="rows whose tokens equal those of an earlier row; they are kept")


class Prepared(Contract):
    """What the rows were made of. `key` is the hash over all the rest: equal keys mean equal rows."""

    key: str
    from_cache: bool
    source_sha256: str | None = Field(description="of the bytes that were read; null for rows of the hub")
    eval_source_sha256: str | None
    tokenizer_sha256: str
    chat_template_sha256: str | None
    max_seq_length: int
