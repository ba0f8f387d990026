"""The responses of the routes that show a job's rows."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.jobs.schemas import JobError

Split = Literal["train", "eval"]


class RowSummary(BaseModel):
    """The counts of one row."""

    record: int = Field(description="number of the record in its source, from 1")
    tokens: int = Field(description="tokens of the row, after the cut to max_seq_length")
    supervised_tokens: int = Field(description="tokens that carry loss")
    cut_tokens: int = Field(description="tokens that were cut off at the end")


class RowPage(BaseModel):
    """Rows of one split, in the order of the source. Request the next page with `after` = `last_record`."""

    object: Literal["list"] = "list"
    split: Split
    data: list[RowSummary]
    rows: int = Field(description="of the whole split")
    last_record: int | None = Field(description="the last record number of this page; null if it is empty")
    has_more: bool


class SpanView(BaseModel):
    """Neighbouring tokens that are either all trained on, or all not."""

    text: str = Field(description="a character of several tokens belongs to the span of the last one")
    trained: bool
    token_ids: list[int]


class RowView(RowSummary):
    """One row, decoded from the token ids that the trainer reads."""

    object: Literal["row"] = "row"
    split: Split
    text: str = Field(description="special tokens included; the texts of the spans, joined")
    spans: list[SpanView]
    columns: dict[str, Any] = Field({}, description="what the training method knows of the row besides")


class Validation(BaseModel):
    """What POST /jobs and the job's check would find out about a spec."""

    object: Literal["validation"] = "validation"
    valid: bool = Field(description="whether the job would be queued for training")
    resolved_spec: dict[str, Any] = Field(description="with defaults, and what the check chose for auto")
    data_report: dict[str, Any] | None
    notices: list[dict[str, Any]]
    error: JobError | None = Field(description="why the spec is not valid")
    preview: list[RowView] = Field(description="the first rows of the training set, as they would be learned")
