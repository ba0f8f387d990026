"""Builds the data folder of one spec: reads each source, tokenises it, judges what is left, splits and counts."""

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
from app.datasets.check import DataReport, Place, Sink, normalise_file, normalise_parts
from app.datasets.problems import Problems
from app.errors import InvalidDataset
from worker.checking.hub_dataset import HubDataset, HubLimits, fetch
from worker.checking.model import ModelFacts
from worker.checking.pipeline import Outcome, Pipeline, template_too_expensive, useful_processes
from worker.checking.prepared import link_folder
from worker.checking.row_policy import judge
from worker.checking.rows import Tokeniser
from worker.checking.split import split
from worker.checking.tokenizer import JobTokenizer
from worker.checking.tokens import overlap, token_report
from worker.events import EventWriter
from worker.failures import SystemFault, UserError
from worker.rendering.renderer import Renderer
from worker.rendering.rows import Learned

SOURCES = "sources.json"
# A smaller source is tokenised sooner by one process than others could start.
PARALLEL_FROM_BYTES = 4 * 2**20
SECONDS_BETWEEN_EVENTS = 2.0
SourceName = Literal["source", "eval_source"]


@dataclass(frozen=True)
class Given:
    """One source of a spec. `identity` names its content: a hash of its bytes, or a pinned revision of the hub."""

    name: SourceName
    source: Source
    file: SourceFile | None
    identity: str

    @property
    def key(self) -> str:
        """What decides the rows of the source: its content, and its name where the content has no structure."""
        return f"{self.identity} {self.file.filename if self.file is not None else ''}"

    @property
    def param(self) -> str:
        return f"dataset.{self.name}"

    @property
    def size(self) -> int:
        """The bytes of a file; 0 for what is not downloaded yet."""
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

    def build(self, given: list[Given], tokenizer: JobTokenizer, folder: Path) -> None:
        """Raises InvalidDataset and UserError for records that the job may not lose."""
        link_folder(tokenizer.folder, folder / TOKENIZER)
        train, evaluation = folder / TRAIN_ROWS, folder / EVAL_ROWS
        reports: dict[str, Any] = {}
        outcomes = []
        for one, target in zip(given, (train, evaluation), strict=False):
            form, outcome = self._read(one, target)
            reports[one.name] = form.model_dump(mode="json")
            outcomes.append(outcome)
        fraction = self.order.spec.dataset.eval_fraction
        if fraction > 0:
            parted = split(train, evaluation, fraction, self.order.spec.training.seed)
            reports["split"] = parted.model_dump(mode="json", exclude_none=True)
        self._report(train, outcomes[0], has_left_out=True)
        if evaluation.exists():
            self._report(evaluation, outcomes[-1], has_left_out=len(outcomes) > 1)
            reports["overlap"] = overlap(train, evaluation).model_dump(mode="json")
        (folder / SOURCES).write_text(json.dumps(reports))

    def _report(self, rows: Path, outcome: Outcome, *, has_left_out: bool) -> None:
        report = token_report(rows, outcome, self.order.spec.model.max_seq_length, has_left_out=has_left_out)
        rows.with_suffix(".json").write_text(report.model_dump_json(indent=1))

    def _read(self, given: Given, target: Path) -> tuple[DataReport, Outcome]:
        dataset, watch = self.order.spec.dataset_in_force, SourceProgress(given, self.events)
        hub = self._fetched(given)
        size = hub.size if hub is not None else given.size
        with Pipeline(self._tokeniser(), target, processes=self._processes(size)) as pipeline:

            def take(record: Record, place: Place) -> None:
                self._check_template(record)
                watch.records = place.number
                pipeline.add(record, place)

            try:
                form = self._normalise(given, hub, take, watch)
            except InvalidDataset as error:
                error.param = error.param or given.param
                error.details = Problems([*error.details, *pipeline.finish().problems]).named
                raise
            outcome = pipeline.finish()
        self._check_content(given, form)
        judge(form, outcome, dataset, given.param)
        self._check_vocabulary(outcome)
        return form, outcome

    def _fetched(self, given: Given) -> HubDataset | None:
        if not isinstance(given.source, HubSource):
            return None
        limits = HubLimits(self.order.max_hub_bytes, self.order.max_unpacked_bytes)
        return fetch(given.source, given.param, limits)

    def _normalise(self, given: Given, hub: HubDataset | None, take: Sink, watch: "SourceProgress") -> DataReport:
        dataset, limit = self.order.spec.dataset_in_force, self.order.max_unpacked_bytes
        if hub is not None:
            form = normalise_parts(hub.parts, dataset, max_unpacked_bytes=limit, sink=take)
            return form.model_copy(update={"unread_files": hub.unread})
        assert given.file is not None, "what is not of the hub is a file"
        return normalise_file(
            given.file.path,
            dataset,
            filename=given.file.filename,
            max_unpacked_bytes=limit,
            sink=take,
            progress=watch,
        )

    def _tokeniser(self) -> Tokeniser:
        spec = self.order.spec
        dataset = spec.dataset_in_force
        learned = Learned(dataset.train_on, dataset.instruction_part, dataset.response_part)
        return Tokeniser(self.renderer, learned, spec.model.max_seq_length, dataset.on_long_row)

    def _processes(self, size: int) -> int:
        is_large = size >= PARALLEL_FROM_BYTES
        return useful_processes(self.order.spec.dataset.dataset_num_proc) if is_large else 1

    def _check_template(self, record: Record) -> None:
        if not isinstance(record, ChatRecord):
            return
        if self.renderer.traits.is_too_expensive:
            raise template_too_expensive("a question and an answer of one word take it")
        if not self.renderer.templates:
            raise UserError(
                "no_chat_template",
                f"{self.order.spec.model.model_name} has no chat template and the dataset holds chats",
                hint='name one, such as "chatml" or "llama-3.1"; it is stored with the adapter',
                param="model.chat_template",
            )

    def _check_content(self, given: Given, form: DataReport) -> None:
        """What was read is what was hashed: a file that changes meanwhile is read again."""
        if form.sha256 is not None and form.sha256 != given.identity:
            raise SystemFault("source_changed", "the dataset file changed while it was read", param=given.param)

    def _check_vocabulary(self, outcome: Outcome) -> None:
        size = self.model.card.vocabulary
        if size is not None and outcome.largest_id >= size:
            raise UserError(
                "token_outside_vocabulary",
                f"the tokenizer makes the token {outcome.largest_id} and the model knows {size} tokens",
                hint="take the model's own tokenizer, or another chat_template",
                param="model.chat_template" if self.order.spec.model.chat_template else "model.model_name",
            )


class SourceProgress:
    """Tells how far a source is, every few seconds."""

    def __init__(self, given: Given, events: EventWriter) -> None:
        self.records = 0
        self._given, self._events = given, events
        self._total = given.size or None
        self._began = self._told = time.monotonic()

    def __call__(self, bytes_read: int) -> None:
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_EVENTS:
            return
        self._told = now
        self._events.write(
            RowsChecked(
                source=self._given.name,
                records=self.records,
                bytes_read=bytes_read,
                total_bytes=self._total,
                seconds=round(now - self._began, 1),
            )
        )
