"""The trainer trains on the weights and the positions that the check has found, or it says why not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.contracts.events import AdapterSaved, Failed
from app.contracts.spec import JobSpec
from app.processes.environments import Process
from tests.integration.engine.conftest import ON_CPU
from tests.integration.engine.probes import an_order, proof_of
from tests.support.prepared_rows import prepare
from tests.support.serial_engine import SerialEngine
from tests.support.tiny_model import build_tiny_model
from tests.support.trainings import TRAINERS, Job
from worker.child import environment

OWN, SCALED = 64, 256
CHATS = [
    [{"role": "user", "content": f"hello {n} " * 20}, {"role": "assistant", "content": f"good day {n}"}]
    for n in range(4)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 64 positions, which the rows are longer than."""
    folder = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": OWN}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def trainer_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(Process.TRAIN, folder / "cache").items():
            patch.setenv(name, value)
        patch.setenv("UNSLOTH_COMPILE_LOCATION", str(folder / "compiled"))
        patch.setenv("OMP_NUM_THREADS", "1")
        TRAINERS.set_forkserver_preload(["worker.training.recipe"])
        yield


@pytest.fixture
def job(base: Path, tmp_path: Path) -> Job:
    spec = JobSpec.model_validate(
        {
            "model": {"model_name": "tiny", "max_seq_length": SCALED, "dtype": "float32", "load_in_4bit": False},
            "dataset": {"source": {"path": "train.jsonl"}},
            "training": {"max_steps": 2, "learning_rate": 0.01, "save_steps": None},
        }
    )
    return Job(base, tmp_path, prepare(base, tmp_path / "data", [{"messages": chat} for chat in CHATS], spec), spec)


def test_what_is_trained_on_scaled_positions_is_proved_on_them_alone(base: Path, job: Job) -> None:
    job.scaled_to = SCALED
    assert job.run() == 0, job.log()
    order, engine = an_order(Path(job.last(AdapterSaved).path), base), SerialEngine(ON_CPU)

    scaled = order.model_copy(update={"base": order.base.model_copy(update={"scaled_to": SCALED})})
    proofs = [proof_of(engine, one).proved for one in (scaled, order)]
    engine.close()

    assert proofs == [True, False]


def test_a_base_that_was_replaced_since_the_check_is_not_trained_on(job: Job) -> None:
    job.revision = "sha256-" + "0" * 64

    assert job.run() == 1
    failed = job.last(Failed)

    assert (failed.code, failed.blame.value, failed.param) == ("base_replaced", "user_error", "model.model_name")
