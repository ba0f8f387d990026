"""Shows the rows that the checker wrote for the trainer: pages of counts, or rows split into trained parts."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from app.config import Settings
from app.contracts.rows import EVAL_ROWS, TOKENIZER, TRAIN_ROWS
from app.errors import Conflict, NotFound
from app.jobs.models import Job
from app.jobs.states import JobStatus
from app.jobs.views import dropped_rows
from app.jobs.views.data_schemas import RowPage, RowSummary, RowView, SpanView, Split
from app.jobs.views.rows import RowCounts, RowFile, StoredRow
from app.jobs.views.spans import TOKENIZERS, Decode, split

FILES: dict[Split, str] = {"train": TRAIN_ROWS, "eval": EVAL_ROWS}
TOKENIZER_FILE = f"{TOKENIZER}/tokenizer.json"


def page(settings: Settings, job: Job, name: Split, *, after: int, limit: int) -> RowPage:
    """Return up to `limit` rows with record numbers above `after`.

    Raises Conflict if the job has no rows (yet), and NotFound if it has no such split.
    """
    rows = _opened(_folder(settings, job), job, name)
    found = [_summary(counts) for counts in islice(rows.after(after), limit + 1)]
    shown, last = found[:limit], next((row.record for row in reversed(found[:limit])), None)
    return RowPage(split=name, data=shown, rows=len(rows), last_record=last, has_more=len(found) > limit)


def row(settings: Settings, job: Job, record: int, name: Split | None) -> RowView:
    """Return a record by its number in its source. Without a split, all rows of the training source are searched.

    Raises Conflict if the job has no rows (yet), and NotFound, with the reason, if the record became no row.
    """
    folder = _folder(settings, job)
    if name is not None:
        _opened(folder, job, name)
    searched = [name] if name is not None else dropped_rows.sets_of_source(job)
    for known in searched:
        if found := _found(folder, known, record):
            return _view(found, known, _decoder(folder))
    others = dropped_rows.sets_beside(job, name)
    elsewhere = next((known for known in others if _found(folder, known, record)), None)
    raise NotFound(dropped_rows.explain(job, folder, record, name, elsewhere), param="record", code="unknown_record")


def page_of_rows(settings: Settings, job: Job, name: Split, *, after: int, limit: int) -> tuple[RowPage, list[RowView]]:
    """Return the same page with each of its rows. Raises the same."""
    found = page(settings, job, name, after=after, limit=limit)
    folder = _folder(settings, job)
    return found, _views(_opened(folder, job, name), name, _decoder(folder), [counts.record for counts in found.data])


def preview(settings: Settings, job: Job, count: int) -> list[RowView]:
    """Return the first rows of the training set, or none if the check ended before it wrote them."""
    if not count:
        return []
    folder = rows_of(settings, job.id)
    path = folder / TRAIN_ROWS
    if not path.exists() or not (folder / TOKENIZER_FILE).exists():
        return []
    rows = RowFile(path)
    return _views(rows, "train", _decoder(folder), [counts.record for counts in islice(rows.after(0), count)])


def _views(rows: RowFile, name: Split, decode: Decode, numbers: Sequence[int]) -> list[RowView]:
    found = [rows.find(number) for number in numbers]
    return [_view(each, name, decode) for each in found if each is not None]


def _found(folder: Path, name: Split, record: int) -> StoredRow | None:
    path = folder / FILES[name]
    return RowFile(path).find(record) if path.exists() else None


def rows_of(settings: Settings, job_id: str) -> Path:
    """Return the folder of a job's rows, which may come from the store. Raises StoreAway."""
    return settings.files.bring(settings.data_dir(job_id), is_replaced=True)


def _folder(settings: Settings, job: Job) -> Path:
    is_checked = job.status is not JobStatus.VALIDATING
    folder = rows_of(settings, job.id) if is_checked else settings.data_dir(job.id)
    if not (is_checked and (folder / TRAIN_ROWS).exists()):
        message = f"{job.id} is {job.status.value} and has no rows to show: they exist once its check has succeeded"
        raise Conflict(message, param="job_id", code="data_not_ready")
    return folder


def _opened(folder: Path, job: Job, name: Split) -> RowFile:
    path = folder / FILES[name]
    if not path.exists():
        message = f"{job.id} has no {name} rows: its spec has no eval_source, and no eval_fraction that takes a row"
        raise NotFound(message, param="split", code="unknown_split")
    return RowFile(path)


def _decoder(folder: Path) -> Decode:
    return TOKENIZERS.decoder(folder / TOKENIZER_FILE)


def _summary(row: RowCounts) -> RowSummary:
    return RowSummary(record=row.record, tokens=row.tokens, supervised_tokens=row.supervised, cut_tokens=row.cut)


def _view(row: StoredRow, name: Split, decode: Decode) -> RowView:
    spans = split(decode, row.ids, row.labels)
    return RowView(
        record=row.record,
        split=name,
        tokens=len(row.ids),
        supervised_tokens=sum(len(span.token_ids) for span in spans if span.is_trained),
        cut_tokens=row.cut,
        text="".join(span.text for span in spans),
        columns=row.columns,
        spans=[SpanView(text=span.text, trained=span.is_trained, token_ids=span.token_ids) for span in spans],
    )
