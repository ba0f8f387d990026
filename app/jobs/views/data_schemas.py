"""What the routes answer that show rows as they are learned."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.jobs.schemas import JobError

Split = Literal["train", "eval"]


class RowSummary(BaseModel):
    """One row in numbers."""

    record: int = Field(description="number of the record in its source, from 1")
    tokens: int = Field(description="as many as are trained on, after the cut to max_seq_length")
    supervised_tokens: int = Field(description="tokens that carry loss")
    cut_tokens: int = Field(description="tokens that were cut off behind")


class RowPage(BaseModel):
    """Rows of one set, in the order of the source. Ask for the next page with `after` = `last_record`."""

    object: Literal["list"] = "list"
    split: Split
    data: list[RowSummary]
    rows: int = Field(description="of the whole set")
    last_record: int | None = Field(description="of this page; null where it is empty")
    has_more: bool


class SpanView(BaseModel):
    """Neighbouring tokens that are all trained, or all not."""

    text: str = Field(description="a character that several tokens make belongs to the span that completes it")
    trained: bool
    token_ids: list[int]


class RowView(RowSummary):
    """One row as it is learned, decoded from the very ids that the trainer reads."""

    object: Literal["row"] = "row"
    split: Split
    text: str = Field(description="special tokens included; the texts of the spans, joined")
    spans: list[SpanView]


class Validation(BaseModel):
    """What POST /jobs would find out about a spec."""

    object: Literal["validation"] = "validation"
    valid: bool = Field(description="whether the job would be queued for training")
    resolved_spec: dict[str, Any] = Field(description="with defaults, and what the check chose for auto")
    data_report: dict[str, Any] | None
    notices: list[dict[str, Any]]
    error: JobError | None = Field(description="why it is not valid")
    preview: list[RowView] = Field(description="the first rows of the training set, as they would be learned")
