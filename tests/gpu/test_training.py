"""The trainer on a GPU, started as the worker starts it, on a tiny model.

Needs neither database nor broker, so that it runs on a host that has only what training needs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, Evaluated, Failed, Finished, Noticed, StepLogged
from app.contracts.order import BaseRef
from app.contracts.rows import EVAL_ROWS
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from app.processes.guardian import spawn
from tests.support.prepared_rows import a_training, prepare
from worker.child import TRAINER, command, environment

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CHATS = [
    [{"role": "user", "content": f"hello {n}" * (n % 5 + 1)}, {"role": "assistant", "content": "good day to you"}]
    for n in range(32)
]


@dataclass(frozen=True)
class Run:
    events: list[AttemptEvent]
    adapter: Path
    log: str

    @property
    def losses(self) -> list[float | None]:
        return [event.loss for event in self.events if isinstance(event, StepLogged)]

    @property
    def failure(self) -> Failed | None:
        return next((event for event in self.events if isinstance(event, Failed)), None)


def train(base: Path, folder: Path, *, scaled_to: int | None = None, **groups: Any) -> Run:
    """One attempt; groups are merged over 20 steps of the page's arguments."""
    (folder / "work").mkdir(parents=True)
    spec = JobSpec.model_validate(
        {
            "model": {"model_name": "tiny", "max_seq_length": 256, **groups.pop("model", {})},
            "dataset": {"source": {"path": "train.jsonl"}, **groups.pop("dataset", {})},
            "training": {"max_steps": 20, "learning_rate": 5e-3, "warmup_steps": 2, **groups.pop("training", {})},
            **groups,
        }
    )
    ref = BaseRef(source=str(base), is_local=True, scaled_to=scaled_to)
    rows: dict[str, Path | None] = {**prepare(base, folder, [{"messages": chat} for chat in CHATS], spec)}
    evaluation = folder / "data" / EVAL_ROWS
    rows["eval_rows"] = evaluation if evaluation.exists() else None
    order = a_training(folder, spec, ref, **rows, checkpoints=folder / "checkpoints")
    (folder / "order.json").write_text(order.model_dump_json())
    env = environment(Process.TRAIN, folder.parent / "cache")
    argv = command(TRAINER, folder / "order.json")
    with spawn(argv, env=env, cwd=folder, output=folder / "output.log") as child:
        child.wait(400)
    events = [ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()]
    return Run(events, order.adapter_dir, (folder / "output.log").read_text())


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"model": {"load_in_4bit": False}},
        {"model": {"load_in_8bit": True}},
        {"model": {"full_finetuning": True}, "training": {"learning_rate": 1e-3}},
        {"model": {"load_in_4bit": False}, "lora": {"loftq_config": {"loftq_bits": 4}}},
        {"lora": {"use_rslora": True, "bias": "all", "lora_dropout": 0.1}},
        {"training": {"packing": True}},
        {
            "lora": {"target_modules": ["q_proj", "v_proj", "embed_tokens", "lm_head"]},
            "training": {"method": "cpt", "embedding_learning_rate": 5e-3},
        },
        {"lora": {"use_dora": True, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 32}}},
        {"lora": {"layers_to_transform": [0], "init_lora_weights": "gaussian"}},
        {
            "training": {
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr_rate": 0.5},
                "neftune_noise_alpha": 1.0,
                "train_sampling_strategy": "group_by_length",
            }
        },
        {"training": {"label_smoothing_factor": 0.05, "packing": True, "adam_beta2": 0.95}},
    ],
    ids=[
        *("page", "16bit", "8bit", "full", "loftq", "rslora-bias-dropout", "packing", "cpt-embeddings"),
        *("dora-patterns", "one-layer-gaussian", "schedule-neftune-lengths", "smoothing-packing"),
    ],
)
def test_each_way_to_train_runs_and_the_loss_falls(base: Path, tmp_path: Path, groups: dict[str, Any]) -> None:
    run = train(base, tmp_path / "run", **groups)
    losses = [loss for loss in run.losses if loss is not None]

    assert run.failure is None, run.log[-3000:]
    assert isinstance(run.events[-1], Finished)
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_the_adapter_of_the_best_evaluation_is_saved(base: Path, tmp_path: Path) -> None:
    evaluated = {"eval_steps": 4, "load_best_model_at_end": True, "learning_rate": 2e-2, "max_steps": 16}
    run = train(base, tmp_path / "run", dataset={"eval_fraction": 0.25}, training=evaluated)

    assert run.failure is None, run.log[-3000:]
    losses = {event.step: event.eval_loss for event in run.events if isinstance(event, Evaluated)}
    best = min(losses, key=lambda step: losses[step] or float("inf"))
    finished = run.events[-1]
    assert isinstance(finished, Finished)
    assert finished.best is not None
    assert (finished.adapter_step, finished.best.step) == (best, best)


def test_four_bits_and_the_eight_bit_optimizer_are_really_used(base: Path, tmp_path: Path) -> None:
    run = train(base, tmp_path / "run", training={"max_steps": 1})

    assert [event for event in run.events if isinstance(event, Noticed)] == []


def test_one_seed_gives_the_same_losses(base: Path, tmp_path: Path) -> None:
    first, second = (train(base, tmp_path / name, training={"max_steps": 5}).losses for name in ("a", "b"))

    assert first == pytest.approx(second, rel=1e-3)


def test_rows_of_one_micro_batch_do_not_see_each_other(base: Path, tmp_path: Path) -> None:
    """Padding-free batches lay rows end to end: their losses must be those of the rows one by one."""
    sizes = {"together": (8, 1), "alone": (1, 8)}
    losses = {
        name: train(
            base,
            tmp_path / name,
            training={"max_steps": 3, "per_device_train_batch_size": micro, "gradient_accumulation_steps": steps},
        ).losses
        for name, (micro, steps) in sizes.items()
    }

    assert losses["together"] == pytest.approx(losses["alone"], rel=2e-3)


def test_the_adapter_reads_back_outside_of_unsloth_and_changes_the_answer(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(base, tmp_path / "run", model={"load_in_4bit": False})
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base).cuda(), run.adapter)
    ids = AutoTokenizer.from_pretrained(run.adapter)("hello", return_tensors="pt").input_ids.cuda()
    with model.disable_adapter():
        plain = model(input_ids=ids).logits

    assert not torch.allclose(plain, model(input_ids=ids).logits, atol=1e-2)
