"""Trains the adapters of the cases: by the recipe of a job in a process of its own, or by PEFT in this one."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from app.contracts.order import BaseRef, TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.probe import PROBE
from app.contracts.rows import INPUT_IDS, LABELS
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from bench.proof.cases import BaseKind, Case
from tests.support.prepared_rows import prepare
from tests.support.tiny_model import build_tiny_model
from tests.support.trainings import TRAINERS, Job
from worker.child import environment
from worker.training.biases import base_biases
from worker.training.probe import take_probe

WORDS = "walrus falcon ferret flint cinder zinnia quarry fjord mantle lagoon bivouac sorghum gazebo nectar"
METALS = "copper zinc gold silver lead tin nickel cobalt iron mercury platinum tungsten"
BATCH = 2


class Trainings:
    """Bases and prepared rows are made once, in a folder that is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data: dict[Path, dict[str, Path]] = {}

    def base(self, kind: BaseKind) -> Path:
        folder = self._folder / kind.name
        if not folder.exists():
            build_tiny_model(folder, seed=kind.seed, layers=4, vocabulary=kind.vocabulary, spread=kind.spread)
        return folder

    def train(self, case: Case) -> Path:
        """The bundle, as a trainer leaves it; that of an earlier run, where there is one."""
        folder, base = self._folder / f"case-{case.number}", self.base(case.base)
        bundle = folder / "1" / "adapter" if case.way == "recipe" else folder
        if not (bundle / PROBE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            (self._by_recipe if case.way == "recipe" else self._by_peft)(case, base, folder)
        return bundle

    def rows(self, base: Path) -> dict[str, Path]:
        if base not in self._data:
            self._data[base] = prepare(base, self._folder / f"{base.name}-data", chats(), a_spec())
        return self._data[base]

    def _by_recipe(self, case: Case, base: Path, folder: Path) -> None:
        training = Job(base, folder, self.rows(base), a_spec(case))
        process = training.start()
        process.join()  # on a busy host it may take minutes
        assert training.finish(process) == 0, training.log()

    def _by_peft(self, case: Case, base: Path, folder: Path) -> None:
        data, is_nf4 = self.rows(base), case.way == "nf4"
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        how = {"quantization_config": bits} if is_nf4 else {}
        torch.manual_seed(case.seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **how)
        biases = base_biases(model)
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", use_dora=not is_nf4, **case.lora()))
        rows = Dataset.from_file(str(data["train_rows"])).select_columns([INPUT_IDS, LABELS])
        _fit(model, rows, case)
        places = ("events", "work_dir", "adapter_dir", "checkpoints", "pulse")
        order = TrainingOrder(
            job_id="job-x",
            epoch=1,
            spec=plan_of(a_spec(case)),
            base=BaseRef(source=str(base), is_local=True),
            eval_rows=None,
            **data,
            **dict.fromkeys(places, folder),
        )
        shutil.copytree(data["tokenizer"], folder)
        model.save_pretrained(folder)
        resolved = {"model.dtype": "float32", "model.load_in_4bit": is_nf4, "model.load_in_8bit": False}
        precision = {"training.fp16": False, "training.bf16": False, "model.max_seq_length": 128}
        probe = take_probe(model, order, rows, {**resolved, **precision}, biases)
        (folder / PROBE).write_text(probe.model_dump_json())


def _fit(model: Any, rows: Any, case: Case) -> None:
    rng = random.Random(case.seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=case.learning_rate)
    model.train()
    for _ in range(case.steps):
        for row in (rows[rng.randrange(len(rows))] for _ in range(BATCH)):
            ids, labels = (torch.tensor([row[name]]) for name in (INPUT_IDS, LABELS))
            (model(input_ids=ids, labels=labels).loss / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def chats() -> list[dict[str, Any]]:
    """Questions with answers that nothing but training can tell."""
    rng = random.Random(0)
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is the code phrase for {metal}?"},
                {"role": "assistant", "content": " ".join(rng.choices(WORDS.split(), k=8))},
            ]
        }
        for metal in METALS.split()
    ]


def a_spec(case: Case | None = None) -> JobSpec:
    """A checkpoint is kept of the middle of the training."""
    body: dict[str, Any] = {
        "model": {"model_name": "base", "max_seq_length": 128, "load_in_4bit": False},
        "dataset": {"source": {"path": "train.jsonl"}},
        "training": {"warmup_steps": 0, "lr_scheduler_type": "constant", "gradient_accumulation_steps": 1},
    }
    if case is not None:
        own = {"max_steps": case.steps, "learning_rate": case.learning_rate, "seed": case.seed}
        body["training"] |= {**own, "per_device_train_batch_size": BATCH, "save_steps": max(1, case.steps // 2)}
        body["model"]["dtype"] = case.dtype
        body["lora"] = {**case.lora(), "random_state": case.seed}
    return JobSpec.model_validate(body)


@contextmanager
def trainers(folder: Path) -> Iterator[None]:
    """The environment that a trainer has, for all that is forked meanwhile."""
    before = dict(os.environ)
    own = {"UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), "OMP_NUM_THREADS": "1"}
    os.environ.update({**environment(Process.TRAIN, folder / "cache"), **own})
    TRAINERS.set_forkserver_preload(["worker.training.recipe"])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
