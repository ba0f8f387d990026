"""However the rows of a step are laid out, the gradient is the same: of one step in float64, and over a training."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from app.contracts.events import AdapterSaved, LayoutChosen, StepLogged
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, attempt_main
from worker.failures import UserError
from worker.training.micro_batches.layout import StepLayout
from worker.training.micro_batches.memory_ladder import CODE, MemoryLadder
from worker.training.micro_batches.planned_steps import PlannedTrainer
from worker.training.micro_batches.tensors import StepRows

LENGTHS = (3, 40, 17, 17, 9, 64, 5, 28)
TOKENS = sum(LENGTHS)
LAYOUTS = {
    "one by one": StepLayout(1, packs=False),
    "packed": StepLayout(TOKENS, packs=True),
    "packed in parts": StepLayout(70, packs=True),
    "packed in buckets": StepLayout(TOKENS, packs=True, lengths_an_octave=8),
    "rectangles": StepLayout(4 * 64, packs=False, pass_tokens=20),
    "one rectangle": StepLayout(8 * 64, packs=False, pass_tokens=10_000),
    "a rectangle in buckets": StepLayout(8 * 64, packs=False, lengths_an_octave=8, pass_tokens=10_000),
}


class RecordedEvents:
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, code: str, message: str, **_: Any) -> None:
        self.notices.append(f"{code}: {message}")


def loss_in_float64(logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor, **_: Any) -> Any:
    shifted = functional.pad(labels, (0, 1), value=-100)[..., 1:]
    return functional.cross_entropy(logits.flatten(0, 1), shifted.flatten(), reduction="sum") / num_items_in_batch


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, initializer_range=0.2, **sizes)).double()
    model.loss_function = loss_in_float64
    for layer in model.modules():  # transformers' norm computes in float32
        for name, child in [*layer.named_children()]:
            if isinstance(child, LlamaRMSNorm):
                setattr(layer, name, torch.nn.RMSNorm(32, eps=child.variance_epsilon, dtype=torch.float64))
    return model


@pytest.fixture(scope="module")
def step() -> StepRows:
    """In each row another third of the tokens is not trained."""
    numbers = torch.Generator().manual_seed(1)
    examples = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(1, 100, (length,), generator=numbers).tolist()
        labels = [-100 if place % 3 == number % 3 else token for place, token in enumerate(ids)]
        examples.append({"input_ids": ids, "labels": labels})
    return StepRows.collate(examples)


def a_trainer(model: Any, folder: Path, layout: StepLayout) -> PlannedTrainer:
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    trainer = PlannedTrainer(model=model, args=args, train_dataset=Dataset.from_dict({"input_ids": [[1]]}))
    trainer.layout = layout
    return trainer


def gradient(trainer: PlannedTrainer, model: Any, step: StepRows) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = trainer.training_step(model, step)
    return loss.item(), torch.cat([one.grad.flatten() for one in model.parameters()]).clone()


@pytest.fixture(scope="module")
def expected(model: Any, step: StepRows) -> tuple[float, torch.Tensor]:
    """The mean loss of all trained tokens, and its gradient, computed without the trainer."""
    model.zero_grad()
    losses = []
    for row in step.rows:
        logits = model(input_ids=torch.from_numpy(row.ids)[None]).logits[0, :-1]
        losses.append(functional.cross_entropy(logits, torch.from_numpy(row.labels)[1:], reduction="sum"))
    loss = torch.stack(losses).sum() / step.targets
    loss.backward()
    return loss.item(), torch.cat([one.grad.flatten() for one in model.parameters()]).clone()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_has_the_gradient_of_rows_one_by_one(
    model: Any, step: StepRows, expected: tuple[float, torch.Tensor], tmp_path: Path, layout: StepLayout
) -> None:
    loss, found = gradient(a_trainer(model, tmp_path, layout), model, step)

    assert loss == pytest.approx(expected[0], rel=1e-6)  # the reported loss is a float32
    assert float((found - expected[1]).norm() / expected[1].norm()) < 1e-9


@pytest.fixture
def most_tokens(model: Any) -> Iterator[list[int]]:
    """Once a number is appended, a pass of more tokens runs out of memory, as on a GPU."""
    most: list[int] = []

    def refuse(_: Any, __: Any, arguments: dict[str, torch.Tensor]) -> None:
        if most and arguments["input_ids"].numel() > most[0]:
            raise torch.OutOfMemoryError("injected")

    hook = model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield most
    hook.remove()


def test_a_step_that_runs_out_of_memory_is_repeated_in_smaller_micro_batches(
    model: Any, step: StepRows, expected: tuple[float, torch.Tensor], tmp_path: Path, most_tokens: list[int]
) -> None:
    events = RecordedEvents()
    trainer = a_trainer(model, tmp_path, StepLayout(TOKENS, packs=True))
    trainer.make_room = MemoryLadder(events, None)  # type: ignore[arg-type]
    most_tokens.append(100)

    _, found = gradient(trainer, model, step)

    assert trainer.layout.tokens == 91
    assert [notice.partition(" ")[0] for notice in events.notices] == [f"{CODE}:"]
    assert "step 1 with 183 tokens in micro-batches of at most 183 ran out" in events.notices[0]
    assert float((found - expected[1]).norm() / expected[1].norm()) < 1e-9


def test_a_row_that_never_fits_is_an_error_that_says_what_would(
    model: Any, step: StepRows, tmp_path: Path, most_tokens: list[int]
) -> None:
    trainer = a_trainer(model, tmp_path, StepLayout(64, packs=True))
    trainer.recomputation = "unsloth"
    trainer.make_room = MemoryLadder(RecordedEvents(), "64 tokens take 9.9 GiB")  # type: ignore[arg-type]
    most_tokens.append(10)

    with pytest.raises(UserError, match="one row at a time and all activations recomputed") as refused:
        trainer.training_step(model, step)

    assert refused.value.failure.code == "out_of_gpu_memory"
    assert "64 tokens take 9.9 GiB" in str(refused.value.failure.hint)


STEPS = 30
CHATS = [
    [
        {"role": "user", "content": f"how much is {n} and {n * 7 % 11}? " * (n % 6 + 1)},
        {"role": "assistant", "content": f"it is {n + n * 7 % 11}, " * (n * 5 % 9 + 1)},
    ]
    for n in range(40)
]


def a_spec(train_on: str, **training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "model": {"model_name": "tiny", "max_seq_length": 512, "dtype": "float32", "load_in_4bit": False},
            "dataset": {"source": {"path": "train.jsonl"}, "train_on": train_on},
            "training": {
                "max_steps": STEPS,
                "learning_rate": 5e-3,
                "fp16": False,
                "bf16": False,
                "save_steps": None,
                **training,
            },
        }
    )


def losses(job: Job) -> list[float]:
    return [event.loss or math.nan for event in job.attempts[-1] if isinstance(event, StepLogged)]


def adapter(job: Job) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(Path(job.last(AdapterSaved).path) / "adapter_model.safetensors")
    return weights


@pytest.mark.parametrize("train_on", ["responses", "all"])
def test_both_layouts_of_a_job_learn_the_same(base: Path, tmp_path: Path, train_on: str) -> None:
    (tmp_path / "data").mkdir()
    data = prepare(base, tmp_path / "data", [{"messages": chat} for chat in CHATS], a_spec(train_on))
    jobs = [Job(base, tmp_path / one, data, a_spec(train_on, layout=one)) for one in ("auto", "as_given")]

    assert [job.run() for job in jobs] == [0, 0], jobs[0].log() + jobs[1].log()

    planned, given = jobs
    assert planned.last(LayoutChosen).micro_batch_tokens > given.last(LayoutChosen).micro_batch_tokens
    assert len(losses(planned)) == STEPS
    assert losses(planned) == pytest.approx(losses(given), rel=1e-3)
    assert losses(planned)[-1] < losses(planned)[0] - 0.5
    for name, weights in adapter(planned).items():
        torch.testing.assert_close(weights, adapter(given)[name], rtol=0, atol=2e-3)


def attempt_short_of_memory(folder: Path) -> None:
    """In the forked process: an attempt on a device that has room for 600 tokens at once."""

    def refuse(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        is_embedding = isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled()
        if is_embedding and inputs[0].numel() > 600:
            raise torch.OutOfMemoryError("injected")

    register_module_forward_pre_hook(refuse)
    attempt_main(folder)


def test_a_job_that_runs_out_of_memory_ends_with_the_losses_of_one_that_does_not(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = prepare(base, tmp_path / "data", [{"messages": chat} for chat in CHATS], a_spec("all"))
    quiet = Job(base, tmp_path / "quiet", data, a_spec("all"))
    short = Job(base, tmp_path / "short", data, a_spec("all"), program=attempt_short_of_memory)

    assert [quiet.run(), short.run()] == [0, 0], quiet.log() + short.log()

    assert short.notices().count(CODE) >= 1
    assert losses(short) == pytest.approx(losses(quiet), rel=1e-3)
