"""How a step is computed on a GPU changes nothing of what is learned: graphs, packed rows, and too little memory."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import ATTEMPT_EVENT, LayoutChosen, MemoryMeasured, Noticed, StepLogged
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from app.processes.guardian import spawn
from tests.support.prepared_rows import a_training, prepare
from tests.support.tiny_model import build_tiny_model
from worker.child import TRAINER, command, environment

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

# As two trainings of the same seed differ, whose atomic additions are in another order.
TOLERANCE = 2e-2
STEPS = 24
CHATS = [
    [
        {"role": "user", "content": f"how much is {n} and {n * 7 % 11}? " * (n % 40 + 1)},
        {"role": "assistant", "content": f"it is {n + n * 7 % 11}, " * (n * 5 % 30 + 1)},
    ]
    for n in range(64)
]
# The trainer with a share of the GPU as its last argument. Torch starts threads, so it is loaded after the confinement.
CAPPED = """
import sys
from worker.training import __main__ as trainer
confine, share = trainer.confine, float(sys.argv.pop())
def confine_and_cap(allowed):
    confine(allowed)
    import torch
    torch.cuda.set_per_process_memory_fraction(share)
trainer.confine = confine_and_cap
sys.exit(trainer.main())
"""


def train(base: Path, folder: Path, share_of_memory: float | None = None, **training: Any) -> list[Any]:
    """The events of one attempt, whose allocator may have only a share of the GPU."""
    (folder / "work").mkdir(parents=True)
    arguments = {"max_steps": STEPS, "learning_rate": 5e-3, "warmup_steps": 2, "save_steps": None, **training}
    spec = JobSpec.model_validate(
        {
            "model": {"model_name": "tiny", "max_seq_length": 2048, "load_in_4bit": False},
            "dataset": {"source": {"path": "train.jsonl"}, "train_on": "all"},
            "training": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, **arguments},
        }
    )
    rows = prepare(base, folder, [{"messages": chat} for chat in CHATS], spec)
    ref = BaseRef(source=str(base), is_local=True)
    order = a_training(folder, spec, ref, **rows, checkpoints=folder / "checkpoints")
    (folder / "order.json").write_text(order.model_dump_json())
    argv = command(TRAINER, folder / "order.json")
    if share_of_memory is not None:
        program = CAPPED + "from worker.training.__main__ import main; sys.exit(main())"
        argv = [sys.executable, "-c", program, str(folder / "order.json"), str(share_of_memory)]
    env = environment(Process.TRAIN, folder.parent / "cache")
    with spawn(argv, env=env, cwd=folder, output=folder / "output.log") as child:
        assert child.wait(400) == 0, (folder / "output.log").read_text()[-3000:]
    return [ATTEMPT_EVENT.validate_json(line) for line in order.events.read_text().splitlines()]


def losses(events: list[Any]) -> list[float]:
    return [event.loss or math.nan for event in events if isinstance(event, StepLogged)]


def test_planned_and_given_layouts_learn_the_same(base: Path, tmp_path: Path) -> None:
    planned, given = (train(base, tmp_path / layout, layout=layout) for layout in ("auto", "as_given"))

    layouts = [next(event for event in run if isinstance(event, LayoutChosen)) for run in (planned, given)]
    assert layouts[0].micro_batch_tokens > layouts[1].micro_batch_tokens
    assert (layouts[0].recomputation, layouts[1].recomputation) == (False, "unsloth")
    assert losses(planned) == pytest.approx(losses(given), rel=TOLERANCE)
    measured = next(event for event in planned if isinstance(event, MemoryMeasured))
    assert measured.measured_bytes


def test_a_training_on_too_small_a_gpu_ends_with_the_same_losses(tmp_path: Path) -> None:
    """It has room for the model and the kernels' workspaces, and for half of what the largest micro-batch takes."""
    base = build_tiny_model(tmp_path / "deep", layers=16)  # two layers keep less than the workspaces take
    quiet = train(base, tmp_path / "quiet", per_device_train_batch_size=16)
    trial = next(event for event in quiet if isinstance(event, MemoryMeasured) and event.measured_bytes)
    of_tokens = (trial.measured_bytes or 0) - trial.held_bytes
    assert of_tokens > 2**27, "the activations are so few that half of them is nothing"
    _, total = torch.cuda.mem_get_info()

    room = trial.held_bytes + of_tokens // 2 + 2**26
    short = train(base, tmp_path / "short", share_of_memory=room / total, per_device_train_batch_size=16)

    notices = [event.code for event in short if isinstance(event, Noticed)]
    assert "gpu_memory_short" in notices
    assert losses(short) == pytest.approx(losses(quiet), rel=TOLERANCE)
