"""Trainings by two processes that compute each step together: what they learn is what one process learns.

The real trainer and its follower, on the CPU, on a tiny model.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.contracts.events import AdapterSaved, AttemptInterrupted, Failed, Finished, Resumed
from app.contracts.order import BaseRef
from app.contracts.rows import EVAL_ROWS
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import a_training, prepare
from tests.support.trainings import LONGEST_SECONDS, POLL_SECONDS, Job, ranks_of, reached
from worker.failures import SystemFault
from worker.stopping import INTERRUPTED
from worker.supervising.lock_holders import holders
from worker.supervising.slots import Slot
from worker.training.ranks.followers import ON_THIS_HOST, Followers, folder_of
from worker.training.ranks.group import Ranks

CHATS = [
    [{"role": "user", "content": f"hello {n}" * (n % 5 + 1)}, {"role": "assistant", "content": f"good day {n} to you"}]
    for n in range(22)
]
STEPS = 20


def a_spec() -> JobSpec:
    training = {
        "max_steps": STEPS,
        "learning_rate": 5e-3,
        "warmup_steps": 3,
        "gradient_accumulation_steps": 2,
        "fp16": False,
        "bf16": False,
        "save_steps": 5,
        "eval_steps": 8,
    }
    model = {"model_name": "tiny", "max_seq_length": 128, "dtype": "float32", "load_in_4bit": False}
    dataset = {"source": {"path": "x.jsonl"}, "eval_fraction": 0.2}
    return JobSpec.model_validate({"model": model, "dataset": dataset, "training": training})


def a_job(base: Path, folder: Path, data: dict[str, Path], ranks: int) -> Job:
    return Job(base, folder, data, a_spec(), eval_rows=data["train_rows"].with_name(EVAL_ROWS), ranks=ranks)


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(base, tmp_path_factory.mktemp("data"), [{"messages": chat} for chat in CHATS], a_spec())


@pytest.fixture(scope="module")
def alone(base: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = a_job(base, tmp_path_factory.mktemp("alone"), data, 1)
    assert job.run() == 0, job.log()
    return job


def weights_of(job: Job) -> dict[str, torch.Tensor]:
    return load_file(Path(job.last(AdapterSaved).path, "adapter_model.safetensors"))


def assert_learned_the_same(job: Job, alone: Job) -> None:
    """To the rounding of the sums, which are added up in another order."""
    for mine, theirs in zip(job.steps(), alone.steps(), strict=True):
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], rel=1e-5)
        assert mine[2:] == pytest.approx(theirs[2:], rel=1e-4)
    weights, expected = weights_of(job), weights_of(alone)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)
    for (step, loss), (same_step, same_loss) in zip(job.evaluations(), alone.evaluations(), strict=True):
        assert step == same_step
        assert loss == pytest.approx(same_loss, rel=1e-5)


def is_dead(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_two_ranks_learn_what_one_learns(base: Path, data: dict[str, Path], tmp_path: Path, alone: Job) -> None:
    job = a_job(base, tmp_path, data, 2)

    assert job.run() == 0, job.log()

    assert_learned_the_same(job, alone)
    assert job.last(Finished).tokens == alone.last(Finished).tokens


def test_a_stop_leaves_a_checkpoint_of_a_whole_step_and_a_lost_rank_ends_its_attempt(
    base: Path, data: dict[str, Path], tmp_path: Path, alone: Job
) -> None:
    job = a_job(base, tmp_path, data, 2)

    assert job.run(signal.SIGTERM, reached(4)) == INTERRUPTED, job.log()
    assert isinstance(job.attempts[0][-1], AttemptInterrupted)
    assert lose_rank_1(job, at_step=12) == -signal.SIGKILL, job.log()
    assert job.run() == 0, job.log()

    assert job.last(Resumed).step >= 10
    assert not [event for attempt in job.attempts for event in attempt if isinstance(event, Failed)]
    assert_learned_the_same(job, alone)


def lose_rank_1(job: Job, at_step: int) -> int | None:
    process = job.start_until(reached(at_step))
    assert process.pid is not None
    [rank] = ranks_of(process.pid)
    os.kill(rank, signal.SIGKILL)
    return job.finish(process)


def test_a_trainer_that_is_killed_takes_its_ranks_with_it(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    job = a_job(base, tmp_path, data, 2)
    process = job.start()
    assert process.pid is not None
    deadline = time.monotonic() + LONGEST_SECONDS
    while not ranks_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
    [rank] = ranks_of(process.pid)

    os.kill(process.pid, signal.SIGKILL)
    job.finish(process)

    while not is_dead(rank):
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def add_up_in_threads(folder: Path, *, drift: float) -> list[Ranks]:
    """Two ranks of this process take one step. The weights of the second one then differ by `drift` before another."""
    nothing = BaseRef(source="none", is_local=False)
    order = a_training(folder, a_spec(), nothing, train_rows=folder, tokenizer=folder, ranks=2)
    folder_of(order).mkdir(parents=True)

    def take_steps(rank: int) -> Ranks:
        ranks = Ranks(order, rank)
        weight = torch.nn.Parameter(torch.full((3,), float(rank + 1)))
        unused = torch.nn.Parameter(torch.zeros(2, 2))
        ranks.join([weight, unused])
        assert weight.tolist() == [1.0, 1.0, 1.0]
        weight.grad = torch.full((3,), rank + 0.5)
        assert float(ranks.add_up(torch.tensor(rank + 0.25))) == 1.5
        assert weight.grad.tolist() == [2.0, 2.0, 2.0]
        assert unused.grad is not None
        assert not unused.grad.any()
        weight.data += rank * drift
        ranks.add_up(torch.tensor(0.0))
        return ranks

    with ThreadPoolExecutor(2) as threads:
        return [*threads.map(take_steps, range(2))]


def test_losses_and_gradients_are_added_up_and_the_first_rank_has_the_first_weights(tmp_path: Path) -> None:
    for ranks in add_up_in_threads(tmp_path, drift=0.0):
        ranks.check()


def test_weights_that_drift_apart_by_the_last_bit_end_the_attempt(tmp_path: Path) -> None:
    for ranks in add_up_in_threads(tmp_path, drift=1e-6):
        with pytest.raises(SystemFault, match="diverged"):
            ranks.check()


def test_followers_hold_the_slots_of_their_training_and_end_when_they_are_dismissed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ON_THIS_HOST.items():
        monkeypatch.setenv(name, value)
    nothing = BaseRef(source="none", is_local=False)
    order = a_training(tmp_path / "1", a_spec(), nothing, train_rows=tmp_path, tokenizer=tmp_path, ranks=2)
    order.events.parent.mkdir()
    (tmp_path / "order.json").write_text(order.model_dump_json())
    with Slot.open(tmp_path / "slots", "gpu0") as slot:
        assert slot.try_lock()
        os.set_inheritable(slot.fd, True)

        followers = Followers.start(order, tmp_path / "order.json")

        [process] = followers.processes
        assert process.pid in {holder.pid for holder in holders(slot.fd)}
    followers.dismiss()
    assert process.wait(LONGEST_SECONDS) == 0
