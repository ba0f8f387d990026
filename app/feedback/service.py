"""The rules for feedback: which rows are kept, and what of them a job learns."""

import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.access import audit
from app.database.connection import utc_now
from app.errors import LONGEST_QUOTE, Conflict, InvalidRequest, NotFound
from app.feedback import repository
from app.feedback.models import Feedback
from app.feedback.schemas import FeedbackCreate, FeedbackView
from app.files.storage import Sink
from app.ids import new_id
from app.scope import Scope

# A list of datasets counts all rows of a project.
MOST_OF_A_PROJECT = 20_000
# Ids are checked before a query, because PostgreSQL rejects a NUL in a text.
FEEDBACK_ID = re.compile(r"feedback-[a-z2-7]{24}")


def create(session: Session, scope: Scope, wanted: FeedbackCreate) -> Feedback:
    """Store a row. Raises InvalidRequest for a project that is not in the scope, Conflict if it has too many rows."""
    project = wanted.project or scope.usual_project
    scope.check(project)
    if repository.count(session, scope, project) >= MOST_OF_A_PROJECT:
        most = f"the project {project} has {MOST_OF_A_PROJECT:,} rows of feedback, which is the most"
        raise Conflict(f"{most}: delete a dataset", param="project", code="too_many_rows")
    fields = wanted.model_dump(exclude={"project"})
    row = Feedback(id=new_id("feedback"), project=project, created_at=utc_now(), **fields)
    repository.add(session, scope, row)
    audit.record(session, "feedback.create", row.id, project, dataset=row.dataset)
    session.commit()
    return row


def page(
    session: Session, scope: Scope, project: str, dataset: str, after: str | None, limit: int
) -> tuple[Sequence[Feedback], bool]:
    """Return the rows of a dataset after the one with the id `after`, newest first, and whether there are more.

    Raises NotFound, and InvalidRequest if there is no row `after`.
    """
    last = _get(session, scope, project, dataset, after) if after is not None else None
    if after is not None and last is None:
        raise InvalidRequest(f"after: there is no feedback {after[:LONGEST_QUOTE]!r}", param="after")
    found = repository.page(session, scope, project, dataset, after=last, limit=limit + 1)
    if not found and last is None:
        raise _unknown(project, dataset)
    return found[:limit], len(found) > limit


def write_rows(session: Session, scope: Scope, project: str, dataset: str, sink: Sink) -> None:
    """Write what a job learns of a dataset as JSON Lines of chats, oldest first: the same rows are the same bytes.

    Raises NotFound, Conflict if there is nothing to learn or a row cannot be read, TooLarge, and DiskFull.
    """
    written = 0
    for row in repository.learned(session, scope, project, dataset):
        sink.write(json.dumps({"messages": _chat_of(row)}, ensure_ascii=False).encode() + b"\n")
        written += 1
    if not written:
        page(session, scope, project, dataset, None, 1)  # raises NotFound for a dataset without any row
        message = f"no answer in {dataset} is rated up or corrected, so there is nothing to learn"
        raise Conflict(message, param="dataset", code="nothing_to_learn")


def _chat_of(row: Feedback) -> list[dict[str, Any]]:
    """Return the messages with the answer to learn. Answers of earlier turns carry no loss: nobody rated them."""
    shown = FeedbackView.of(row)
    if "messages" in shown.unreadable:
        message = f"the messages of {row.id} are stored in a form that this version cannot read: delete it"
        raise Conflict(message, param="dataset", code="feedback_unreadable")
    unrated = {"weight": 0}
    earlier = [each.model_dump() | (unrated if each.role == "assistant" else {}) for each in shown.messages]
    return [*earlier, {"role": "assistant", "content": shown.learned}]


def delete(session: Session, scope: Scope, project: str, dataset: str, row_id: str) -> None:
    """Remove a row. Files that were written before keep it. Raises NotFound."""
    if _get(session, scope, project, dataset, row_id) is None:
        message = f"{dataset} of the project {project} has no feedback {row_id[:LONGEST_QUOTE]!r}"
        raise NotFound(message, param="feedback_id", code="unknown_feedback")
    repository.remove(session, scope, project, dataset, row_id)
    audit.record(session, "feedback.delete", row_id, project, dataset=dataset)
    session.commit()


def delete_dataset(session: Session, scope: Scope, project: str, dataset: str) -> int:
    """Remove all rows of a dataset, and return how many. Files that were written before stay. Raises NotFound."""
    removed = repository.remove(session, scope, project, dataset)
    if not removed:
        raise _unknown(project, dataset)
    audit.record(session, "feedback.delete_dataset", dataset, project, rows=removed)
    session.commit()
    return removed


def _get(session: Session, scope: Scope, project: str, dataset: str, row_id: str) -> Feedback | None:
    is_id = FEEDBACK_ID.fullmatch(row_id) is not None
    return repository.get(session, scope, project, dataset, row_id) if is_id else None


def _unknown(project: str, dataset: str) -> NotFound:
    message = f"the project {project} has no feedback in a dataset {dataset!r}"
    return NotFound(message, param="dataset", code="unknown_dataset")
