"""Prepares the rows of a job before it gets a GPU: every record is checked, rendered, masked and tokenised once.

The files are those of `app.contracts.rows`, and `sources.json` with the reports on the sources. All of them are built
in the cache of prepared data and linked into the job's folder.
"""

import json
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from app.contracts import no_effect
from app.contracts.events import DataPrepared, SpecPinned
from app.contracts.order import CheckOrder
from app.contracts.rows import BASE_CARD, EVAL_REPORT, PREPARED, TRAIN_REPORT, TRAIN_ROWS
from app.contracts.spec import HubSource
from app.contracts.tokens import Prepared
from app.datasets.layouts import Layout
from app.hashing import hash_file
from worker.checking.computing import computing_at_most
from worker.checking.hub_dataset import pinned
from worker.checking.model import ModelFacts
from worker.checking.notices import notices_of
from worker.checking.preparation import SOURCES, Builder, IdentifiedSource, SourceName
from worker.checking.prepared import FolderCache, RowInputs, key_of, link_folder
from worker.checking.tokenizer import JobTokenizer, make_tokenizer
from worker.checking.vectors import weights_of
from worker.events import EventWriter
from worker.failures import UserError
from worker.rendering.refusal import TemplateRefused
from worker.rendering.renderer import NoTokenizer, Renderer, load_renderer
from worker.untrained import find_untrained


def prepare_data(order: CheckOrder, model: ModelFacts, events: EventWriter) -> None:
    """Fills the job's data folder and writes events with the reports. Raises InvalidDataset and UserError."""
    with tempfile.TemporaryDirectory(prefix="check-", dir=_created(order.data_dir.parent)) as scratch:
        with computing_at_most():
            tokenizer = make_tokenizer(order, None if order.base.is_local else model.revision, Path(scratch))
            renderer = _renderer(tokenizer)
        sources = identify_sources(order, events)
        day = datetime.now(UTC).date().isoformat() if renderer.templates.uses_date else None
        keys: dict[str, str] = {source.name: source.key for source in sources}
        key = key_of(order.spec, RowInputs(keys, tokenizer.sha256, model.card.vocabulary, day))
        cache = FolderCache(order.cache_dir / "prepared", order.max_cache_bytes)
        builder = Builder(order, model, renderer, events)
        folder, was_there = cache.fetch(key, partial(builder.build, sources, tokenizer))
    link_folder(folder, order.data_dir)
    cache.trim(retained=folder)
    prepared = Prepared(
        key=key,
        from_cache=was_there,
        source_sha256=sources[0].sha256,
        eval_source_sha256=sources[1].sha256 if len(sources) > 1 else None,
        tokenizer_sha256=tokenizer.sha256,
        chat_template_sha256=renderer.templates.sha256,
        max_seq_length=order.spec.model.max_seq_length,
    )
    (order.data_dir / PREPARED).write_text(prepared.model_dump_json(indent=1))
    (order.data_dir / BASE_CARD).write_text(model.card.model_dump_json(indent=1))
    reports = _reports(order.data_dir)
    events.write(DataPrepared(report={**reports, "prepared": prepared.model_dump(mode="json")}))
    notices = notices_of(reports)
    for notice in (*notices, *no_effect.by_spec(order.spec), *no_effect.by_rows(order.spec, _rows(reports))):
        events.write(notice)
    _notice_untrained(order, renderer, events)


def _rows(reports: dict[str, Any]) -> no_effect.RowTotals:
    evaluation = reports["eval"]["rows"] if "eval" in reports else 0
    is_text = reports["source"]["layout"] == Layout.TEXT
    return no_effect.RowTotals(train=reports["train"]["rows"], evaluation=evaluation, is_text=is_text)


def _notice_untrained(order: CheckOrder, renderer: Renderer, events: EventWriter) -> None:
    """Checks a local base only: the weights of a hub model are not downloaded yet, so the trainer checks them."""
    weights = weights_of(Path(order.base.source)) if order.base.is_local else None
    if weights is not None:
        notice = find_untrained(order.data_dir / TRAIN_ROWS, order.spec, renderer.added_tokens, weights)
        if notice is not None:
            events.write(notice)


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _renderer(tokenizer: JobTokenizer) -> Renderer:
    try:
        return load_renderer(tokenizer.folder)
    except NoTokenizer as error:
        raise UserError(
            "no_tokenizer", f"the model's tokenizer cannot be used: {error}", param="model.model_name"
        ) from error
    except TemplateRefused as error:
        raise UserError(
            "template_refused", f"the chat template cannot be used: {error}", param="model.chat_template"
        ) from error


def identify_sources(order: CheckOrder, events: EventWriter) -> list[IdentifiedSource]:
    """Returns the training source and, if there is one, the evaluation source, each with its identity."""
    dataset = order.spec.dataset
    named: list[SourceName] = ["source", "eval_source"] if dataset.eval_source is not None else ["source"]
    return [_identify(order, name, events) for name in named]


def _identify(order: CheckOrder, name: SourceName, events: EventWriter) -> IdentifiedSource:
    source = getattr(order.spec.dataset, name)
    file = order.train_file if name == "source" else order.eval_file
    if file is not None:
        return IdentifiedSource(name, source, file, hash_file(file.path))
    assert isinstance(source, HubSource), "a source is a file or a hub dataset"
    source = pinned(source, f"dataset.{name}")
    events.write(SpecPinned(values={f"dataset.{name}": source.model_dump(mode="json")}))
    return IdentifiedSource(name, source, None, source.model_dump_json())


def _reports(folder: Path) -> dict[str, Any]:
    reports = json.loads((folder / SOURCES).read_text())
    for name, file in (("train", TRAIN_REPORT), ("eval", EVAL_REPORT)):
        if (folder / file).exists():
            reports[name] = json.loads((folder / file).read_text())
    return dict(reports)
