"""Two GPUs learn what one learns, also in a confined process, and end together when one of them is lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.contracts.spec import JobSpec
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, a_trainers_base, ranks_of, reached
from worker.hardware import find_slots

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices"),
]

CHATS = [
    [{"role": "user", "content": f"hello {n}" * (n % 5 + 1)}, {"role": "assistant", "content": "good day to you"}]
    for n in range(64)
]
TRAINING = {"max_steps": 20, "learning_rate": 1e-3, "gradient_accumulation_steps": 8, "save_steps": 5}


def a_spec() -> JobSpec:
    model = {"model_name": "tiny", "max_seq_length": 256, "load_in_4bit": False}
    return JobSpec.model_validate({"model": model, "dataset": {"source": {"path": "x.jsonl"}}, "training": TRAINING})


@pytest.fixture(scope="module")
def devices() -> tuple[str, ...]:
    """Read before the environment is that of a trainer, which sees one GPU."""
    return tuple(find_slots())[:2]


@pytest.fixture(scope="module")
def base(devices: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    assert len(devices) == 2
    with a_trainers_base(tmp_path_factory.mktemp("model")) as folder:
        yield folder


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(base, tmp_path_factory.mktemp("data"), [{"messages": chat} for chat in CHATS], a_spec())


def test_two_gpus_learn_what_one_learns(
    base: Path, devices: tuple[str, ...], data: dict[str, Path], tmp_path: Path
) -> None:
    alone = Job(base, tmp_path / "alone", data, a_spec())
    both = Job(base, tmp_path / "both", data, a_spec(), ranks=2, devices=devices)

    assert alone.run() == 0, alone.log()
    assert both.run() == 0, both.log()

    losses, expected = ([step[1] for step in job.steps()] for job in (both, alone))
    assert losses == pytest.approx(expected, rel=5e-3)


def test_a_gpu_that_is_lost_ends_the_attempt_and_the_next_one_resumes(
    base: Path, devices: tuple[str, ...], data: dict[str, Path], tmp_path: Path
) -> None:
    job = Job(base, tmp_path, data, a_spec(), ranks=2, devices=devices)

    process = job.start_until(reached(7))
    assert process.pid is not None
    os.kill(ranks_of(process.pid)[0], signal.SIGKILL)

    assert job.finish(process) == -signal.SIGKILL, job.log()
    assert job.run() == 0, job.log()
