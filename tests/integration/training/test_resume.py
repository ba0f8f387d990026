"""Trainings that are stopped and killed at any step, and go on: what they do is what a quiet run does.

The real trainer, a process an attempt, on a tiny model.
"""

import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from app.contracts.events import (
    AdapterSaved,
    AttemptInterrupted,
    Blame,
    CheckpointRemoved,
    CheckpointSaved,
    Evaluated,
    Failed,
    Finished,
    Phase,
    Resumed,
    StepLogged,
)
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, in_phase, reached
from worker.checkpoints import newest, verify
from worker.failures import UserError
from worker.inference.engine import ModelFolder
from worker.inference.models.bases import Placement, load_base
from worker.stopping import INTERRUPTED
from worker.training.adapters import begin_with

ROWS = 22
CHATS = [
    [{"role": "user", "content": f"hello {n}" * (n % 5 + 1)}, {"role": "assistant", "content": f"good day {n} to you"}]
    for n in range(ROWS)
]
FP32 = {"model_name": "tiny", "max_seq_length": 128, "dtype": "float32", "load_in_4bit": False}
# Eleven batches an epoch: a fourth one is begun.
STEPS = 40


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(base, tmp_path_factory.mktemp("data"), [{"messages": chat} for chat in CHATS], a_spec())


def a_spec(**groups: Any) -> JobSpec:
    training = {
        "max_steps": STEPS,
        "learning_rate": 5e-3,
        "warmup_steps": 3,
        "gradient_accumulation_steps": 1,
        "fp16": False,
        "bf16": False,
        "save_steps": 2,
        **groups.pop("training", {}),
    }
    body = {"model": {**FP32, **groups.pop("model", {})}, "dataset": {"source": {"path": "train.jsonl"}}, **groups}
    return JobSpec.model_validate({**body, "training": training})


PLAIN: dict[str, Any] = {}
INSIDE_WINDOWS: dict[str, Any] = {
    "lora": {
        "lora_dropout": 0.1,
        "r": 4,
        "target_modules": ["q_proj", "down_proj"],
        "modules_to_save": ["lm_head"],
        "init_lora_weights": "orthogonal",
    },
    "training": {
        "gradient_accumulation_steps": 2,
        "logging_steps": 3,
        "save_steps": 1,
        "lr_scheduler_type": "cosine_with_restarts",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "neftune_noise_alpha": 5,
        "label_smoothing_factor": 0.1,
        "adam_beta1": 0.8,
    },
}
PLANNED_WINDOWS: dict[str, Any] = {
    "training": {
        "gradient_accumulation_steps": 3,
        "logging_steps": 4,
        "save_steps": 3,
        "label_smoothing_factor": 0.1,
        "train_sampling_strategy": "group_by_length",
    },
}
ALL_WEIGHTS: dict[str, Any] = {"model": {"full_finetuning": True}, "training": {"learning_rate": 1e-3}}


@pytest.mark.parametrize(
    "groups",
    [PLAIN, INSIDE_WINDOWS, PLANNED_WINDOWS, ALL_WEIGHTS],
    ids=["plain", "inside-windows", "planned-windows", "all-weights"],
)
def test_stopped_and_killed_at_random_steps_a_job_ends_as_a_quiet_one(
    base: Path, data: dict[str, Path], tmp_path: Path, groups: dict[str, Any]
) -> None:
    quiet, broken = (Job(base, tmp_path / name, data, a_spec(**groups)) for name in ("quiet", "broken"))
    steps = [random.randint(first, first + 7) for first in (1, 11, 21)]

    assert quiet.run() == 0, quiet.log()
    signals = [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]
    codes = [broken.run(number, reached(step)) for number, step in zip(signals, steps, strict=True)]

    assert codes == [INTERRUPTED, -signal.SIGKILL, INTERRUPTED], (steps, broken.log())
    assert isinstance(broken.attempts[0][-1], AttemptInterrupted)
    assert broken.run() == 0, broken.log()
    assert broken.steps() == quiet.steps()
    assert broken.weights() == quiet.weights()
    ends = [job.last(Finished) for job in (broken, quiet)]
    assert (ends[0].steps, ends[0].tokens, ends[0].final_loss) == (ends[1].steps, ends[1].tokens, ends[1].final_loss)


def many_rows(path: Path, folder: Path) -> Path:
    """The same rows over and over, so that an evaluation takes seconds."""
    with pa.ipc.open_stream(str(path)) as stream:
        table = stream.read_all()
    with pa.ipc.new_stream(str(folder / "eval.arrow"), table.schema) as copy:
        for _ in range(8):
            copy.write_table(table)
    return folder / "eval.arrow"


def test_stopped_and_killed_in_evaluations_a_job_ends_as_a_quiet_one(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """Stopped in that of step 11, an epoch's last; killed in that of the end, when all steps are taken and saved."""
    spec = a_spec(
        lora={"lora_dropout": 0.1},
        dataset={"source": {"path": "train.jsonl"}, "eval_fraction": 0.1},
        training={"max_steps": 16, "eval_steps": 11, "per_device_eval_batch_size": 1},
    )
    rows = many_rows(data["train_rows"], tmp_path)
    quiet, broken = (Job(base, tmp_path / name, data, spec, rows) for name in ("quiet", "broken"))

    assert quiet.run() == 0, quiet.log()
    stopped = broken.run(signal.SIGTERM, in_phase(Phase.EVAL))
    evaluated = broken.last(Evaluated)
    killed = broken.run(signal.SIGKILL, lambda text: '"kind":"checkpoint","step":16,' in text)

    assert (stopped, evaluated, killed) == (INTERRUPTED, None, -signal.SIGKILL), broken.log()
    assert broken.run() == 0, broken.log()
    assert [event.step for event in broken.attempts[2] if isinstance(event, Resumed | StepLogged)] == [16]
    assert (broken.steps(), broken.evaluations()) == (quiet.steps(), quiet.evaluations())
    assert [step for step, _ in quiet.evaluations()] == [11, 16]
    assert broken.weights() == quiet.weights()


def test_a_checkpoint_that_is_asked_for_is_written_and_the_training_goes_on(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"save_steps": None}))

    code = job.run(signal.SIGUSR1, reached(3))

    saved = [event for event in job.attempts[0] if isinstance(event, CheckpointSaved)]
    assert (code, len(saved), saved[-1].step) == (0, 2, STEPS), job.log()
    found = verify(Path(saved[0].path))
    assert found is not None
    assert (found.step, found.bytes, found.sha256) == (saved[0].step, saved[0].bytes, saved[0].sha256)
    assert job.last(Finished).steps == STEPS


def test_a_stop_is_answered_by_a_checkpoint_where_none_is_ever_due(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"save_steps": None}))

    code = job.run(signal.SIGTERM, reached(3))

    assert code == INTERRUPTED, job.log()
    assert newest(job.checkpoints).step == job.last(AttemptInterrupted).step
    assert job.last(AdapterSaved) is None


def test_before_the_first_step_a_stop_ends_the_process(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    job = Job(base, tmp_path, data, a_spec())

    assert job.run(signal.SIGTERM, in_phase(Phase.LOAD)) == -signal.SIGTERM
    assert newest(job.checkpoints).path is None


def test_only_the_newest_checkpoints_are_kept(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"max_steps": 4, "save_steps": 1, "save_total_limit": 2}))

    job.run()

    removed = [event.step for event in job.attempts[0] if isinstance(event, CheckpointRemoved)]
    kept = sorted(path.name for path in job.checkpoints.iterdir())
    assert (removed, kept) == ([1, 2], ["step-00000003-attempt-1", "step-00000004-attempt-1"])
    assert (tmp_path / "1" / "pulse").exists()


@pytest.mark.parametrize(
    ("groups", "weights"),
    [({}, "adapter_model.safetensors"), ({"model": {"full_finetuning": True}}, "model.safetensors")],
    ids=["lora", "all-weights"],
)
def test_the_last_checkpoint_has_what_the_bundle_has_to_answer_with(
    base: Path, data: dict[str, Path], tmp_path: Path, groups: dict[str, Any], weights: str
) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"max_steps": 3, "save_steps": 3}, **groups))

    job.run()

    checkpoint, bundle = newest(job.checkpoints).path, Path(job.last(AdapterSaved).path)
    assert checkpoint is not None
    saved, final = (load_file(folder / weights) for folder in (checkpoint, bundle))
    assert saved.keys() == final.keys()
    assert all(torch.equal(saved[name], final[name]) for name in final)
    if groups:
        load_base(ModelFolder("checkpoint", checkpoint), Placement("cpu", torch.float32))


def test_a_full_disk_ends_the_attempt_and_leaves_the_last_checkpoint(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(base, tmp_path, data, a_spec(training={"save_steps": 1, "save_total_limit": 1000}))
    job.checkpoints.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(job.checkpoints)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        code, found = job.run(), newest(job.checkpoints)
        names = [path.name for path in job.checkpoints.iterdir() if path.name.startswith(".")]
    finally:
        subprocess.run(["umount", str(job.checkpoints)], check=True)

    failed, saved = job.last(Failed), job.last(CheckpointSaved)
    assert (code, failed.blame, failed.code) == (1, Blame.SYSTEM, "disk_full"), job.log()
    assert (found.step, names) == (saved.step, [])


def test_a_job_begins_with_the_weights_of_an_adapter(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    first = Job(base, tmp_path / "first", data, a_spec())
    first.run()

    start = Path(first.last(AdapterSaved).path)
    spec = a_spec(training={"max_steps": 1, "learning_rate": 1e-30})
    second = Job(base, tmp_path / "second", data, spec, start_from=start)
    other = Job(base, tmp_path / "other", data, a_spec(lora={"r": 8}), start_from=start)

    assert second.run() == 0, second.log()
    assert second.weights() == first.weights()
    assert second.steps()[0][1] != first.steps()[0][1]
    assert other.run() == 1
    assert other.last(Failed).code == "continue_from"
    assert "r is 16 there and 8 here" in other.last(Failed).message


def a_lora(base: Path, **changes: Any) -> PeftModel:
    usual = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**usual, **changes}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"r": 8}, "r is 4 there and 8 here"),
        ({"lora_alpha": 8}, "lora_alpha is 4 there and 8 here"),
        ({"target_modules": ["v_proj"]}, "target_modules is q_proj, v_proj there and v_proj here"),
        ({"modules_to_save": ["lm_head"]}, "target_modules is .* there and lm_head, .* here"),
        ({"layers_to_transform": [0]}, "layers_to_transform is None there and .*0.* here"),
        ({"exclude_modules": ["layers.1.self_attn.q_proj"]}, "other weights than .*layers.1.self_attn.q_proj"),
    ],
)
def test_an_adapter_of_another_lora_is_refused_with_what_differs(
    base: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    a_lora(base).save_pretrained(tmp_path)

    with pytest.raises(UserError, match=named) as refused:
        begin_with(a_lora(base, **changes), tmp_path)

    assert (refused.value.failure.code, refused.value.failure.param) == ("continue_from", "continue_from")


def test_a_whole_model_is_no_adapter_to_begin_with(base: Path) -> None:
    with pytest.raises(UserError, match="whole model"):
        begin_with(a_lora(base), base)


def test_a_training_of_all_weights_cannot_begin_with_a_lora(base: Path, tmp_path: Path) -> None:
    a_lora(base).save_pretrained(tmp_path)

    with pytest.raises(UserError, match="all weights"):
        begin_with(AutoModelForCausalLM.from_pretrained(base), tmp_path)
