"""Control tokens that a base was never trained on are named before a training that leaves them so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from app.contracts.events import Noticed
from app.contracts.order import BaseRef
from app.contracts.rows import INPUT_IDS
from app.contracts.spec import JobSpec
from tests.support.learned_text import byte_tokenizer, chat_parts, write_rows
from tests.support.prepared_rows import a_check, run
from tests.support.specs import a_body
from tests.support.tiny_model import END, PAD, START, build_tiny_model
from worker.checking.vectors import weights_of
from worker.training.vectors import loaded_weights
from worker.untrained import Weights, find_untrained, ids_in, untrained_among

# Read and written in the rows of `tests.support.learned_text`.
IN_ROWS = byte_tokenizer().get_vocab()[END]
ADDED = {0: PAD, 1: START, 2: END}
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def a_base(folder: Path, dtype: torch.dtype = torch.float32, **changed: list[int]) -> Path:
    """A tiny model, in whose matrices of these names the vectors of some tokens are zero."""
    weights = load_file(build_tiny_model(folder) / "model.safetensors")
    for name, tokens in changed.items():
        weights[f"{name}.weight".replace("embed", "model.embed")][tokens] = 0
    save_file(
        {name: tensor.to(dtype) for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def untrained(weights: Weights | None) -> tuple[set[int], set[int]]:
    """Of the embeddings, and of the head."""
    assert weights is not None
    assert weights.head is not None
    return untrained_among(weights.embeddings(ADDED)), untrained_among(weights.head(ADDED))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_files_and_loaded_weights_have_the_same_untrained_tokens(tmp_path: Path, dtype: torch.dtype) -> None:
    base = a_base(tmp_path, dtype, embed_tokens=[1, 2], lm_head=[2])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)

    # torch sets the vector of what pads to zero
    assert untrained(weights_of(base)) == untrained(loaded_weights(model)) == ({0, 1, 2}, {2})


def test_vectors_that_several_tokens_share_were_never_trained(tmp_path: Path) -> None:
    vectors = {token: torch.tensor(vector).numpy() for token, vector in ((0, [1.0, 2.0]), (5, [3.0]), (9, [1.0, 2.0]))}

    assert untrained_among(vectors) == {0, 9}


def test_only_tokens_that_stand_in_the_rows_are_looked_for(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", {1: chat_parts("q", "a")})

    assert ids_in(tmp_path / "rows", INPUT_IDS, {IN_ROWS, IN_ROWS + 50, 7_000}) == {IN_ROWS}


def notices(base: Path, folder: Path, **groups: Any) -> list[Noticed]:
    (folder / "train.jsonl").write_text(ROW)
    body = a_body(model={"max_seq_length": 128}, dataset={"source": {"path": "train.jsonl"}}, **groups)
    ref = BaseRef(source=str(base), is_local=True)
    events = run(a_check(folder, JobSpec.model_validate(body), ref, folder / "train.jsonl"))
    return [event for event in events if isinstance(event, Noticed) and event.code == "untrained_tokens"]


def test_the_check_names_untrained_tokens_and_the_two_ways_out(tmp_path: Path) -> None:
    (notice,) = notices(a_base(tmp_path / "base", torch.bfloat16, embed_tokens=[1], lm_head=[2]), tmp_path)

    assert f"never trained on {START}, {END}:" in notice.message
    assert notice.field == "model.chat_template"
    assert all(way in notice.message for way in ("chat_template", "embed_tokens", "lm_head", "lora.modules_to_save"))


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_tokens_whose_vectors_are_trained_are_not_named(tmp_path: Path, module: str) -> None:
    weights = weights_of(a_base(tmp_path / "base", **{module: [IN_ROWS]}))
    write_rows(tmp_path / "rows", {1: chat_parts("q", "a")})
    specs = [JobSpec.model_validate(a_body(lora=lora)) for lora in ({}, {"modules_to_save": [module]})]
    assert weights is not None

    found = [find_untrained(tmp_path / "rows", spec, {IN_ROWS: END}, weights) for spec in specs]

    assert [notice is not None for notice in found] == [True, False]
