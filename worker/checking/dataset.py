"""Every row of the job's datasets, normalised and written down for the trainer; bad ones are named.

data/train.jsonl, data/eval.jsonl    one `app.contracts.records.Record` a line, complete or absent
"""

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from app.contracts.events import DataPrepared
from app.contracts.order import CheckOrder, SourceFile
from app.contracts.records import ChatRecord, Record
from app.contracts.spec import HubSource, Source
from app.errors import InvalidDataset
from app.files.check import DataReport, normalise_file, normalise_rows
from worker.checking.hub import hub_errors
from worker.checking.model import ModelFacts
from worker.events import EventWriter
from worker.failures import UserError

Sink = Callable[[Record], None]


def write_records(order: CheckOrder, model: ModelFacts, events: EventWriter) -> None:
    """Write the record files and report on them. Raises InvalidDataset and UserError."""
    order.data_dir.mkdir(parents=True, exist_ok=True)
    train, evaluation = order.data_dir / "train.jsonl", order.data_dir / "eval.jsonl"
    dataset = order.spec.dataset
    report = _write(order, dataset.source, order.train_file, train, model, "dataset.source")
    sources = {"source": report.model_dump(mode="json")}
    if dataset.eval_source is not None:
        eval_report = _write(order, dataset.eval_source, order.eval_file, evaluation, model, "dataset.eval_source")
        sources["eval_source"] = eval_report.model_dump(mode="json")
    elif dataset.eval_fraction > 0:
        sources["split"] = split(train, evaluation, dataset.eval_fraction, order.spec.training.seed)
    events.write(DataPrepared(report=sources))


def _write(
    order: CheckOrder, source: Source, file: SourceFile | None, target: Path, model: ModelFacts, param: str
) -> DataReport:
    partial = target.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as out:
        sink = _sink(order, model, out)
        try:
            if file is not None:
                report = normalise_file(
                    file.path,
                    order.spec.dataset,
                    filename=file.filename,
                    max_unpacked_bytes=order.max_unpacked_bytes,
                    sink=sink,
                )
            else:
                assert isinstance(source, HubSource), "a source is a file or of the hub"
                report = normalise_rows(hub_rows(source, param), order.spec.dataset, sink=sink)
        except InvalidDataset as error:
            error.param = error.param or param
            raise
        out.flush()
        os.fsync(out.fileno())
    partial.rename(target)
    return report


def _sink(order: CheckOrder, model: ModelFacts, out: TextIO) -> Sink:
    needs_template = order.spec.model.chat_template is None and not model.has_chat_template

    def write(record: Record) -> None:
        if needs_template and isinstance(record, ChatRecord):
            raise UserError(
                "no_chat_template",
                f"{order.spec.model.model_name} has no chat template and the dataset holds chats",
                hint='name one, such as "chatml" or "llama-3.1"; it is stored with the adapter',
                param="model.chat_template",
            )
        out.write(record.model_dump_json(exclude_none=True) + "\n")

    return write


def hub_rows(source: HubSource, param: str) -> Iterable[dict[str, Any]]:
    """The rows of a hub dataset, by `datasets` itself. Dataset scripts are never run."""
    from datasets import load_dataset  # takes seconds, and most jobs bring a file
    from datasets.exceptions import DatasetsError

    with hub_errors(source.hub, param):
        try:
            rows = load_dataset(source.hub, source.subset, split=source.split, revision=source.revision)
        except (ValueError, FileNotFoundError, RuntimeError, DatasetsError) as error:  # no split, a script
            message = f"{source.hub} cannot be read: {str(error)[:300]}"
            raise UserError("unreadable_hub_dataset", message, param=param) from error
    return rows  # type: ignore[no-any-return]


def split(train: Path, evaluation: Path, fraction: float, seed: int) -> dict[str, Any]:
    """Move a random share of the training records to the evaluation file; at least one each, or none is moved."""
    with train.open(encoding="utf-8", newline="\n") as file:
        lines = list(file)
    count = round(len(lines) * fraction)
    if count == 0 or count == len(lines):
        return {"eval_fraction": fraction, "eval_rows": 0, "reason": f"{len(lines)} records are too few to split"}
    chosen = set(random.Random(seed).sample(range(len(lines)), count))
    evaluation.write_text("".join(line for index, line in enumerate(lines) if index in chosen), encoding="utf-8")
    rest = train.with_suffix(".partial")
    rest.write_text("".join(line for index, line in enumerate(lines) if index not in chosen), encoding="utf-8")
    rest.rename(train)
    return {"eval_fraction": fraction, "eval_rows": count, "train_rows": len(lines) - count, "seed": seed}
