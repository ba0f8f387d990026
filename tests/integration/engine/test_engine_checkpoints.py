"""Answers of a job's checkpoint: those of plain PEFT on its weights, or the word that it is gone; nothing else."""

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from app.contracts.checkpoints import Manifest
from app.contracts.generation import AdapterRef, EngineError, EngineEvent, Finish
from tests.integration.engine.model_caches import ADAPTERS, ServedModel, build_tiny_adapter, reference
from tests.integration.engine.requests import PROMPT, an_order, answers_of, error_of, text_of
from worker.checkpoints import drafting, prune, publish
from worker.inference.engine import AdapterFolder, Engine
from worker.inference.text.language import load_language

GREEDY: dict[str, Any] = {"prompt": None, "prompt_token_ids": list(PROMPT)}


def save(folder: Path, source: Path, step: int) -> Manifest:
    """A checkpoint with the weights of a bundle or model, a trainer's pickles beside them, and no tokenizer."""
    with drafting(folder, step=step, attempt=1) as draft:
        for path in source.iterdir():
            if "token" not in path.name and path.suffix != ".jinja":
                shutil.copy(path, draft)
        torch.save({"state": {}}, draft / "optimizer.pt")
        return publish(draft, folder, step=step, attempt=1)


def ref_of(served_model: ServedModel, found: Manifest, kind: Any = "lora") -> AdapterRef:
    """As the API names it; the tokenizer of the base stands for the job's."""
    language = str(served_model.base.folder)
    return AdapterRef(adapter_id="job-x", version=found.version, path=str(found.path), kind=kind, language=language)


def ask(engine: Engine, served_model: ServedModel, ref: AdapterRef) -> list[EngineEvent]:
    return answers_of(engine, an_order(served_model, adapter=ref, **GREEDY))


def said(served_model: ServedModel, adapter: str) -> str:
    """What plain PEFT says, as text."""
    return load_language(served_model.base.folder).write(
        reference(served_model.base, served_model.adapter(adapter), PROMPT, 12)
    )


def whole_text_of(events: list[EngineEvent]) -> str:
    assert isinstance(events[-1], Finish), events[-1]
    return text_of(events)


@pytest.mark.parametrize("adapter", ["small", "wide", "headed"])
def test_a_checkpoint_says_what_peft_says_with_its_weights(
    engine: Engine, served_model: ServedModel, tmp_path: Path, adapter: str
) -> None:
    found = save(tmp_path, served_model.adapters[adapter].folder, 1)

    assert (
        whole_text_of(ask(engine, served_model, ref_of(served_model, found)))
        == said(served_model, adapter)
        != said(served_model, "base")
    )


def test_two_steps_of_a_job_are_never_mixed_up(engine: Engine, served_model: ServedModel, tmp_path: Path) -> None:
    refs = [
        ref_of(served_model, save(tmp_path, served_model.adapters[name].folder, 1 + n)) for n, name in enumerate(TWO)
    ]

    answers = [whole_text_of(ask(engine, served_model, ref)) for ref in (*refs, *refs)]

    assert answers == [said(served_model, name) for name in (*TWO, *TWO)]


TWO = ("small", "wide")


def test_the_same_step_of_another_attempt_is_another_content(
    engine: Engine, served_model: ServedModel, tmp_path: Path
) -> None:
    """A job that went on behind an earlier checkpoint comes by the same step once more."""
    refs = [ref_of(served_model, save(tmp_path / name, served_model.adapters[name].folder, 7)) for name in TWO]

    assert [whole_text_of(ask(engine, served_model, ref)) for ref in refs] == [said(served_model, name) for name in TWO]


def test_a_whole_model_answers_without_its_base(engine: Engine, served_model: ServedModel, tmp_path: Path) -> None:
    found = save(tmp_path, served_model.other_base.folder, 1)

    answer = whole_text_of(ask(engine, served_model, ref_of(served_model, found, "full")))

    expected = reference(served_model.other_base, None, PROMPT, 12)
    assert answer == load_language(served_model.base.folder).write(expected)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_checkpoint_that_made_room_is_gone(
    engine: Engine, served_model: ServedModel, tmp_path: Path, kind: str
) -> None:
    source = served_model.other_base.folder if kind == "full" else served_model.adapters["small"].folder
    found = save(tmp_path, source, 1)
    prune(tmp_path, 0)

    assert is_gone(ask(engine, served_model, ref_of(served_model, found, kind)))


def test_another_content_than_was_asked_for_is_gone(engine: Engine, served_model: ServedModel, tmp_path: Path) -> None:
    found = save(tmp_path / "a", served_model.adapters["small"].folder, 1)
    other = save(tmp_path / "b", served_model.adapters["wide"].folder, 1)
    ref = ref_of(served_model, found).model_copy(update={"path": str(other.path)})

    assert is_gone(ask(engine, served_model, ref))


def test_a_bundle_with_pickles_is_still_refused(engine: Engine, served_model: ServedModel, tmp_path: Path) -> None:
    found = save(tmp_path, served_model.adapters["small"].folder, 1)
    error = error_of(ask(engine, served_model, ref_of(served_model, found).model_copy(update={"language": None})))

    assert (error.status, error.code) == (409, "adapter_rejected")


def test_while_checkpoints_make_room_every_answer_is_right_or_none(
    engine: Engine, served_model: ServedModel, tmp_path: Path
) -> None:
    """Each is asked once, for the first time, at the moment at which it is removed."""
    adapter = AdapterFolder(
        "weights", build_tiny_adapter(tmp_path / "weights", served_model.base.folder, **ADAPTERS["wide"])
    )
    expected = load_language(served_model.base.folder).write(reference(served_model.base, adapter, PROMPT, 12))
    for step in range(1, 25):
        found = save(tmp_path / "kept", adapter.folder, step)
        removing = threading.Timer(random.uniform(0, 0.05), prune, (tmp_path / "kept", 0))
        removing.start()
        events = ask(engine, served_model, ref_of(served_model, found))
        removing.join()

        assert is_gone(events) or whole_text_of(events) == expected


def is_gone(events: list[EngineEvent]) -> bool:
    last = events[-1]
    return isinstance(last, EngineError) and (last.status, last.code) == (404, "checkpoint_gone")
