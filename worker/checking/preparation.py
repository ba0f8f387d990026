"""Builds the data folder of a job: reads, checks and tokenises each source, splits the rows and writes reports."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.contracts.events import RowsChecked
from app.contracts.order import CheckOrder, SourceFile
from app.contracts.records import ChatRecord, Record
from app.contracts.rows import EVAL_ROWS, TOKENIZER, TRAIN_ROWS
from app.contracts.spec import HubSource, Source
from app.datasets.check import DataReport, Place, Sink, check_kind, normalise_file, normalise_parts
from app.datasets.problems import Problems
from app.errors import InvalidDataset
from worker.checking.hub_dataset import HubDataset, HubLimits, fetch
from worker.checking.model import ModelFacts
from worker.checking.pipeline import Outcome, Pipeline, template_too_expensive, useful_processes
from worker.checking.prepared import link_folder
from worker.checking.row_policy import check_row_policy
from worker.checking.rows import Tokeniser
from worker.checking.split import split
from worker.checking.tokenizer import JobTokenizer
from worker.checking.tokens import overlap, token_report
from worker.events import EventWriter
from worker.failures import SystemFault, UserError
from worker.rendering.renderer import Renderer
from worker.rendering.rows import Learned

SOURCES = "sources.json"
# A smaller source is tokenised by one process, because starting more would take longer.
PARALLEL_FROM_BYTES = 4 * 2**20
SECONDS_BETWEEN_EVENTS = 2.0
SourceName = Literal["source", "eval_source"]


@dataclass(frozen=True)
class IdentifiedSource:
    """One source of a spec. `identity` is the hash of the file, or the hub source with its pinned revision as JSON."""

    name: SourceName
    source: Source
    file: SourceFile | None
    identity: str

    @property
    def key(self) -> str:
        """Identifies the rows of the source: its content, and the file name, which can decide the format."""
        return f"{self.identity} {self.file.filename if self.file is not None else ''}"

    @property
    def param(self) -> str:
        return f"dataset.{self.name}"

    @property
    def size(self) -> int:
        """The size of a file in bytes, or 0 for a hub source, which is not downloaded yet."""
        return self.file.path.stat().st_size if self.file is not None else 0

    @property
    def sha256(self) -> str | None:
        return self.identity if self.file is not None else None


@dataclass(frozen=True)
class Builder:
    """Builds the data folder of one spec."""

    order: CheckOrder
    model: ModelFacts
    renderer: Renderer
    events: EventWriter

    def build(self, sources: list[IdentifiedSource], tokenizer: JobTokenizer, folder: Path) -> None:
        """Fills `folder`. Raises InvalidDataset and UserError for records that the job may not drop."""
        link_folder(tokenizer.folder, folder / TOKENIZER)
        train, evaluation = folder / TRAIN_ROWS, folder / EVAL_ROWS
        reports: dict[str, Any] = {}
        outcomes = []
        for source, target in zip(sources, (train, evaluation), strict=False):
            report, outcome = self._read(source, target)
            reports[source.name] = report.model_dump(mode="json")
            outcomes.append(outcome)
        fraction = self.order.spec.dataset.eval_fraction
        if fraction > 0:
            split_report = split(train, evaluation, fraction, self.order.spec.training.seed)
            reports["split"] = split_report.model_dump(mode="json", exclude_none=True)
        self._report(train, outcomes[0], has_dropped=True)
        if evaluation.exists():
            self._report(evaluation, outcomes[-1], has_dropped=len(outcomes) > 1)
            reports["overlap"] = overlap(train, evaluation).model_dump(mode="json")
        (folder / SOURCES).write_text(json.dumps(reports))

    def _report(self, rows: Path, outcome: Outcome, *, has_dropped: bool) -> None:
        report = token_report(rows, outcome, self.order.spec.model.max_seq_length, has_dropped=has_dropped)
        rows.with_suffix(".json").write_text(report.model_dump_json(indent=1))

    def _read(self, source: IdentifiedSource, target: Path) -> tuple[DataReport, Outcome]:
        dataset, progress = self.order.spec.dataset_in_force, SourceProgress(source, self.events)
        hub = self._fetch(source)
        size = hub.size if hub is not None else source.size
        with Pipeline(self._tokeniser(), target, processes=self._processes(size)) as pipeline:

            def add_record(record: Record, place: Place) -> None:
                check_kind(record, place, self.order.spec.method)
                self._check_template(record)
                progress.records = place.number
                pipeline.add(record, place)

            try:
                report = self._normalise(source, hub, add_record, progress)
            except InvalidDataset as error:
                error.param = error.param or source.param
                error.details = Problems([*error.details, *pipeline.finish().problems]).named
                raise
            outcome = pipeline.finish()
        self._check_content(source, report)
        check_row_policy(report, outcome, dataset, source.param)
        self._check_vocabulary(outcome)
        return report, outcome

    def _fetch(self, source: IdentifiedSource) -> HubDataset | None:
        if not isinstance(source.source, HubSource):
            return None
        limits = HubLimits(self.order.max_hub_bytes, self.order.max_unpacked_bytes)
        return fetch(source.source, source.param, limits)

    def _normalise(
        self, source: IdentifiedSource, hub: HubDataset | None, add_record: Sink, progress: "SourceProgress"
    ) -> DataReport:
        dataset, limit = self.order.spec.dataset_in_force, self.order.max_unpacked_bytes
        if hub is not None:
            report = normalise_parts(hub.parts, dataset, max_unpacked_bytes=limit, sink=add_record)
            return report.model_copy(update={"unread_files": hub.unread})
        assert source.file is not None, "a source that is not on the hub is a file"
        return normalise_file(
            source.file.path,
            dataset,
            filename=source.file.filename,
            max_unpacked_bytes=limit,
            sink=add_record,
            progress=progress,
        )

    def _tokeniser(self) -> Tokeniser:
        spec = self.order.spec
        dataset = spec.dataset_in_force
        learned = Learned(dataset.train_on, dataset.instruction_part, dataset.response_part)
        return Tokeniser(self.renderer, learned, spec.model.max_seq_length, dataset.on_long_row, spec.method)

    def _processes(self, size: int) -> int:
        is_large = size >= PARALLEL_FROM_BYTES
        return useful_processes(self.order.spec.dataset.dataset_num_proc) if is_large else 1

    def _check_template(self, record: Record) -> None:
        if not isinstance(record, ChatRecord):
            return
        if self.renderer.traits.is_too_expensive:
            raise template_too_expensive("even for a question and an answer of one word")
        if not self.renderer.templates:
            raise UserError(
                "no_chat_template",
                f"{self.order.spec.model.model_name} has no chat template and the dataset contains chats",
                hint='set one, such as "chatml" or "llama-3.1"; it is stored with the adapter',
                param="model.chat_template",
            )

    def _check_content(self, source: IdentifiedSource, report: DataReport) -> None:
        """Raises SystemFault (the job is retried) if the file changed after its hash was computed."""
        if report.sha256 is not None and report.sha256 != source.identity:
            raise SystemFault("source_changed", "the dataset file changed while it was read", param=source.param)

    def _check_vocabulary(self, outcome: Outcome) -> None:
        size = self.model.card.vocabulary
        if size is not None and outcome.largest_id >= size:
            raise UserError(
                "token_outside_vocabulary",
                f"the tokenizer produces the token id {outcome.largest_id}, but the model has only {size} tokens",
                hint="use the model's own tokenizer, or another chat_template",
                param="model.chat_template" if self.order.spec.model.chat_template else "model.model_name",
            )


class SourceProgress:
    """Writes an event with the progress of a source every few seconds."""

    def __init__(self, source: IdentifiedSource, events: EventWriter) -> None:
        self.records = 0
        self._source, self._events = source, events
        self._total = source.size or None
        self._started_at = self._reported_at = time.monotonic()

    def __call__(self, bytes_read: int) -> None:
        now = time.monotonic()
        if now - self._reported_at < SECONDS_BETWEEN_EVENTS:
            return
        self._reported_at = now
        self._events.write(
            RowsChecked(
                source=self._source.name,
                records=self.records,
                bytes_read=bytes_read,
                total_bytes=self._total,
                seconds=round(now - self._started_at, 1),
            )
        )
