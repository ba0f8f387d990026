"""The bodies and responses of the feedback routes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from app.contracts.base import Contract, check_text
from app.contracts.training_args import SafeName
from app.database.stored_fields import UNREADABLE, StoredView, show
from app.datasets.messages import is_empty_answer
from app.feedback.models import Feedback, Rating
from app.feedback.repository import DatasetCounts
from app.generate.schemas import AnyName

USUAL_DATASET = "feedback"
MOST_MESSAGES = 200
# Of all texts of a row together.
MOST_CHARACTERS = 100_000
LONGEST_NOTE = 2000
Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]


class RatedMessage(Contract):
    role: Literal["system", "user", "assistant"]
    content: str


class FeedbackCreate(Contract):
    """An answer, the messages that it answers, and what somebody thinks of it."""

    messages: Annotated[list[RatedMessage], Field(min_length=1, max_length=MOST_MESSAGES)] = Field(
        description="as they were sent; the last one is the question"
    )
    answer: Text
    model: AnyName = Field(description="as the answer named it, so with the version of an adapter or a step")
    rating: Rating
    correction: Text | None = Field(None, description="the right answer, which is learned in place of the other")
    note: Annotated[str, StringConstraints(max_length=LONGEST_NOTE)] | None = Field(None, description="never learned")
    dataset: SafeName = USUAL_DATASET
    project: SafeName | None = Field(None, description="default: that of the key")

    @model_validator(mode="before")
    @classmethod
    def _text_can_be_kept(cls, value: Any) -> Any:
        check_text(value)
        return value

    @model_validator(mode="after")
    def _can_be_learned(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("messages should end with a question, a message of the user")
        if self.correction is not None and is_empty_answer(self.correction):
            raise ValueError("correction should have text, or be left out")
        if self.rating is Rating.UP and self.correction is None and is_empty_answer(self.answer):
            raise ValueError("answer should have text where the rating is up")
        texts = [message.content for message in self.messages] + [self.answer, self.correction or ""]
        if sum(map(len, texts)) > MOST_CHARACTERS:
            raise ValueError(f"messages should have at most {MOST_CHARACTERS:,} characters, with answer and correction")
        return self


class FeedbackView(StoredView):
    """One row: an answer with its rating."""

    object: Literal["feedback"] = "feedback"
    id: str
    project: str
    dataset: str
    created_at: datetime
    rating: Rating | None = None
    model: str
    messages: list[RatedMessage] = []
    answer: str
    correction: str | None
    note: str | None
    learned: str | None = Field(description="the answer that a job learns from this row; null: nothing is learned")
    unreadable: list[str] = Field([], description=UNREADABLE)

    @classmethod
    def of(cls, row: Feedback) -> "FeedbackView":
        own = {"object", "unreadable"}
        return show(cls, {name: getattr(row, name) for name in cls.model_fields if name not in own})


class FeedbackPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FeedbackView]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, rows: Sequence[Feedback], has_more: bool) -> "FeedbackPage":
        shown = [FeedbackView.of(row) for row in rows]
        first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
        return cls(data=shown, first_id=first, last_id=last, has_more=has_more)


class FeedbackDataset(BaseModel):
    """The rows of a dataset, counted. It exists as long as it has a row."""

    object: Literal["feedback.dataset"] = "feedback.dataset"
    project: str
    dataset: str
    rows: int
    up: int
    down: int
    corrected: int
    learned: int = Field(description="rows that a file of the dataset has: answers rated up, and corrections")


class FeedbackDatasetList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FeedbackDataset]

    @classmethod
    def of(cls, project: str, counted: Sequence[DatasetCounts]) -> "FeedbackDatasetList":
        return cls(data=[FeedbackDataset(project=project, dataset=one.name, **_numbers(one)) for one in counted])


def _numbers(counted: DatasetCounts) -> dict[str, int]:
    return {name: value for name, value in counted._asdict().items() if name != "name"}


class FeedbackDeleted(BaseModel):
    id: str
    object: Literal["feedback"] = "feedback"
    deleted: bool = True


class FeedbackDatasetDeleted(BaseModel):
    dataset: str
    object: Literal["feedback.dataset"] = "feedback.dataset"
    rows: int = Field(description="rows that were removed")
    deleted: bool = True
