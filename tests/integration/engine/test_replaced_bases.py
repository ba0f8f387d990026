"""A base whose files are replaced under its name: it answers with the new ones, adapters of the old ones say so."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from app.contracts.generation import AdapterRef, EngineError, EngineEvent, Finish
from app.contracts.model_card import SINGLE
from app.contracts.order import BaseRef
from tests.integration.engine.conftest import ON_CPU
from tests.integration.engine.model_caches import ServedModel
from tests.integration.engine.probes import a_bundle, proof_of
from tests.integration.engine.probes import an_order as a_proof_order
from tests.integration.engine.requests import PROMPT, an_order, answers_of, in_one_piece
from worker.base_files import BaseFiles, stamps
from worker.inference.engine import Engine, ModelFolder, Refusal
from worker.inference.models.bases import load_base


@pytest.fixture
def base(served_model: ServedModel, tmp_path: Path) -> Path:
    return shutil.copytree(served_model.base.folder, tmp_path / tmp_path.name)


def replace(base: Path, other: Path) -> None:
    shutil.copy(other / SINGLE, base / "new")
    os.replace(base / "new", base / SINGLE)


def ask(engine: Engine, served_model: ServedModel, base: Path, adapter: AdapterRef | None = None) -> list[EngineEvent]:
    revision = BaseFiles().revision(served_model.base.folder) if adapter is not None else None
    ref = BaseRef(source=str(base), is_local=True, revision=revision)
    return in_one_piece(answers_of(engine, an_order(served_model, base=ref, adapter=adapter)))


@pytest.mark.parametrize("adapter", ["small", "directed"])
def test_the_new_files_answer_and_the_old_adapter_says_so_until_the_old_ones_are_back(
    engine: Engine, served_model: ServedModel, base: Path, adapter: str
) -> None:
    ref = served_model.ref(adapter)
    before = [ask(engine, served_model, base), ask(engine, served_model, base, ref)]

    replace(base, served_model.other_base.folder)
    after, refused = ask(engine, served_model, base), ask(engine, served_model, base, ref)[-1]
    others = [name for name in engine.health().in_memory if name.startswith(base.name)]
    replace(base, served_model.base.folder)

    assert after == ask(engine, served_model, served_model.other_base.folder) != before[0]
    assert isinstance(refused, EngineError)
    assert (refused.status, refused.code, refused.param) == (409, "base_replaced", "adapter")
    assert f"{base.name!r} has other files than the adapter was trained on" in refused.message
    assert len(others) <= 1
    assert [ask(engine, served_model, base), ask(engine, served_model, base, ref)] == before


def test_an_adapter_whose_base_had_no_revision_noted_answers_on_what_is_there(
    engine: Engine, served_model: ServedModel, base: Path
) -> None:
    order = an_order(served_model, base=BaseRef(source=str(base), is_local=True), adapter=served_model.ref("small"))
    replace(base, served_model.other_base.folder)

    assert isinstance(answers_of(engine, order)[-1], Finish)


def test_a_scaled_base_is_one_of_its_own_and_reads_more(engine: Engine, served_model: ServedModel, base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    config.max_position_embeddings = 64
    config.save_pretrained(base)
    config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": 2.0}
    theirs = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32)
    plain, scaled = (BaseRef(source=str(base), is_local=True, scaled_to=one) for one in (None, 128))
    long = {"prompt_token_ids": [*PROMPT] * 8, "max_new_tokens": 1}

    ours = load_base(ModelFolder("base", base, scaled_to=128), ON_CPU)
    refused, taken = (answers_of(engine, an_order(served_model, base=each, **long))[-1] for each in (plain, scaled))

    ids = torch.tensor([PROMPT])
    assert torch.allclose(ours(ids).logits, theirs(ids).logits)
    assert not torch.allclose(ours(ids).logits, load_base(ModelFolder("base", base), ON_CPU)(ids).logits)
    assert (refused.kind, taken.kind) == ("error", "finish")


def test_a_proof_on_a_replaced_base_is_no_verdict_on_the_adapter(
    engine: Engine, served_model: ServedModel, base: Path, tmp_path: Path
) -> None:
    order = a_proof_order(a_bundle(served_model, "small", tmp_path / "bundle"), base)
    was = order.base.model_copy(update={"revision": BaseFiles().revision(base)})
    replace(base, served_model.other_base.folder)

    with pytest.raises(Refusal) as refused:
        proof_of(engine, order.model_copy(update={"base": was}))

    assert refused.value.error.code == "base_replaced"


def test_a_model_in_memory_is_not_changed_by_its_file(base: Path) -> None:
    """On a CPU, weights of the file's own type are a view of it: overwritten in place they change, cut short they
    kill."""
    model = load_base(ModelFolder("base", base), ON_CPU)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}

    with (base / SINGLE).open("r+b") as file:
        file.write(b"\0" * (base / SINGLE).stat().st_size)
        file.truncate(0)

    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_a_model_whose_files_change_while_it_is_loaded_does_not_answer(served_model: ServedModel, base: Path) -> None:
    seen = ModelFolder("base", base, files=stamps(base))
    replace(base, served_model.other_base.folder)

    with pytest.raises(Refusal, match="was replaced while it was loaded; try again"):
        load_base(seen, ON_CPU)
