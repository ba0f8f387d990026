"""The end of a training, by the real trainer: what fails there is repeated alone, or found out before step 1."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.contracts.events import AdapterSaved, Blame, Failed, Noticed, Phase, StepLogged
from app.contracts.rows import PREPARED
from tests.integration.training.test_resume import ALL_WEIGHTS, PLAIN, a_spec, data
from tests.support.trainings import Job, in_phase
from worker.checkpoints import newest

__all__ = ["data"]


@pytest.mark.parametrize("groups", [PLAIN, ALL_WEIGHTS], ids=["lora", "all-weights"])
def test_a_training_that_is_whole_is_saved_again_and_no_step_of_it_is_trained_again(
    base: Path, data: dict[str, Path], tmp_path: Path, groups: dict[str, Any]
) -> None:
    """Its save fails, it is killed in the next one, and the third goes well."""
    training = {**groups.get("training", {}), "max_steps": 6, "save_steps": None}
    job = Job(base, tmp_path, data, a_spec(**{**groups, "training": training}))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "adapter").write_text("in the way")

    codes = [job.run()]
    failed = job.last(Failed)
    codes += [job.run(signal.SIGKILL, in_phase(Phase.SAVE)), job.run()]

    assert codes == [1, -signal.SIGKILL, 0], job.log()
    assert (failed.blame, failed.code) == (Blame.SYSTEM, "save_failed")
    assert "FileExistsError" in failed.message
    assert "step 6 (GET /jobs/job-x/checkpoints)" in failed.hint
    steps = [event.step for attempt in job.attempts for event in attempt if isinstance(event, StepLogged)]
    assert steps == [1, 2, 3, 4, 5, 6]
    checkpoint = newest(job.checkpoints).path
    assert checkpoint is not None
    name = "model.safetensors" if groups else "adapter_model.safetensors"
    saved, final = (load_file(folder / name) for folder in (checkpoint, Path(job.last(AdapterSaved).path)))
    assert all(torch.equal(saved[name], final[name]) for name in final)
    texts = [path for path in Path(job.last(AdapterSaved).path).iterdir() if path.suffix in (".json", ".md")]
    assert not any(str(base) in path.read_text() for path in texts)  # users of the adapter do not have this folder


def test_a_generation_config_that_cannot_be_saved_is_mended_before_the_training(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / "base")
    config = {"do_sample": False, "temperature": 0.6, "eos_token_id": 2, "max_new_tokens": 7}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(config))
    training = {"max_steps": 2, "save_steps": 1}
    job = Job(tmp_path / "base", tmp_path, data, a_spec(model={"full_finetuning": True}, training=training))

    assert job.run() == 0, job.log()

    notice = next(event for event in job.attempts[0] if isinstance(event, Noticed))
    assert (notice.code, notice.requested) == ("generation_config_mended", {"temperature": 0.6})
    assert newest(job.checkpoints).step == 2


def test_what_cannot_be_saved_is_found_out_before_the_training(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    prepared = data["train_rows"].parent
    shutil.copytree(prepared, tmp_path / "data")
    (tmp_path / "data" / PREPARED).write_text("{")
    lacking = {name: tmp_path / "data" / path.relative_to(prepared) for name, path in data.items()}
    job = Job(base, tmp_path, lacking, a_spec())

    assert job.run() == 1

    assert (job.last(Failed).code, job.last(StepLogged)) == ("save_failed", None), job.log()
