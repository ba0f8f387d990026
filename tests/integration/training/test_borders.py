"""Rows that share a sequence are proved not to see each other, on a real model, with what keeps them apart or not."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer
from trl import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.support.tiny_model import build_tiny_model
from worker.failures import UserError
from worker.training.packing_boundaries import check_packing_boundaries

Collator = Callable[[list[dict[str, list[int]]]], dict[str, Any]]
ROWS = [[5, 6, 7, 8], [20, 21, 22], [9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def run_together(examples: list[dict[str, list[int]]]) -> dict[str, Any]:
    """One sequence with nothing that tells where a row begins."""
    return {name: torch.tensor([[*chain(*(row[name] for row in examples))]]) for name in ("input_ids", "labels")}


APART = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)


def a_trainer(base: Path, folder: Path, columns: dict[str, Any], collator: Collator, **arguments: Any) -> Trainer:
    args = SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **arguments)
    model = AutoModelForCausalLM.from_pretrained(base)
    return Trainer(model=model, args=args, train_dataset=Dataset.from_dict(columns), data_collator=collator)


def packed(base: Path, folder: Path, collator: Collator) -> Trainer:
    ids = [*chain(*ROWS)]
    columns = {"input_ids": [ids], "labels": [ids], "seq_lengths": [[len(row) for row in ROWS]]}
    return a_trainer(base, folder, columns, collator, packing=True)


def padding_free(base: Path, folder: Path, collator: Collator) -> Trainer:
    return a_trainer(base, folder, {"input_ids": ROWS, "labels": ROWS}, collator, padding_free=True)


@pytest.mark.parametrize("make", [packed, padding_free])
def test_rows_that_are_kept_apart_pass(base: Path, tmp_path: Path, make: Callable[..., Trainer]) -> None:
    check_packing_boundaries(make(base, tmp_path, APART))


@pytest.mark.parametrize("make", [packed, padding_free])
def test_rows_that_see_each_other_are_refused(base: Path, tmp_path: Path, make: Callable[..., Trainer]) -> None:
    with pytest.raises(UserError, match="attend to each other") as refused:
        check_packing_boundaries(make(base, tmp_path, run_together))

    assert (refused.value.failure.code, refused.value.failure.param) == ("rows_leak", "training.packing")


def test_rows_with_a_sequence_of_their_own_are_not_looked_at(base: Path, tmp_path: Path) -> None:
    check_packing_boundaries(a_trainer(base, tmp_path, {"input_ids": ROWS, "labels": ROWS}, run_together))
