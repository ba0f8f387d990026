"""From the end of a training to its success: an engine process proves the adapter, or nothing is published.

The adapter is one that the real trainer has trained, the engine is the real process.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.contracts.events import AdapterSaved
from app.contracts.probe import Proof
from app.contracts.spec import JobSpec
from app.database.connection import Database
from app.errors import Conflict
from app.jobs import lineage as adapters
from app.jobs import repository
from app.jobs.states import JobStatus
from app.scope import EVERY_PROJECT
from tests.integration.engine.probes import an_order
from tests.integration.engine.processes import HEADERS, KEY, EngineProcess, free_port
from tests.integration.engine.test_proving import WRONG
from tests.support.jobs import read
from tests.support.prepared_rows import prepare
from tests.support.published_bundles import BRINGING, bring, children, placed
from tests.support.trainings import Job, a_trainers_base
from tests.support.workers import add_training, outcomes, settings_of, skip_pause, work

CHATS = [
    [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": f"good day {n} to you"}]
    for n in range(16)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with a_trainers_base(tmp_path_factory.mktemp("model")) as folder:
        yield folder


def train(base: Path, folder: Path, dtype: str, **groups: Any) -> Path:
    """The bundle of a real training on the CPU."""
    model = {"model_name": "tiny", "max_seq_length": 128, "dtype": dtype, "load_in_4bit": False}
    body = {
        "model": {**model, **groups.pop("model", {})},
        "dataset": {"source": {"path": "train.jsonl"}},
        "training": {"max_steps": 12, "learning_rate": 0.01, "warmup_steps": 1, "save_steps": None},
    }
    spec = JobSpec.model_validate({**body, **groups})
    data = prepare(base, folder / "data", [{"messages": chat} for chat in CHATS], spec)
    training = Job(base, folder, data, spec)
    assert training.run() == 0, training.log()
    return Path(training.last(AdapterSaved).path)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(base, tmp_path_factory.mktemp("trained"), "float32")


def asked(url: str, bundle: Path, base: Path, *, kind: str = "lora") -> httpx.Response:
    content = an_order(bundle, base, kind=kind).model_dump_json()
    return httpx.post(f"{url}/prove", content=content, headers=HEADERS, timeout=60, trust_env=False)


def test_what_the_trainer_saw_the_engine_sees_again(
    engine_process: EngineProcess, trained: Path, base: Path, record_property: Callable[[str, object], None]
) -> None:
    proof = Proof.model_validate_json(asked(engine_process.url, trained, base).content)

    record_property("float32", proof.model_dump_json())
    assert proof.proved, proof
    assert proof.largest_difference is not None
    assert proof.largest_difference < 1e-3
    assert proof.base_difference is not None
    assert proof.base_difference > 0.1


PATTERNS = {"r": 4, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}, "layers_to_transform": [1]}


@pytest.mark.parametrize(
    ("name", "dtype", "kind", "groups"),
    [
        ("bfloat16", "bfloat16", "lora", {}),
        ("rank-stabilised", "float32", "lora", {"lora": {"r": 4, "use_rslora": True, "lora_dropout": 0.1}}),
        ("embeddings", "float32", "lora", {"lora": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}}),
        ("magnitudes", "float32", "lora", {"lora": {"use_dora": True}}),
        ("patterns", "float32", "lora", {"lora": PATTERNS}),
        ("all weights", "float32", "full", {"model": {"full_finetuning": True}}),
    ],
)
def test_each_way_to_train_leaves_an_adapter_that_is_proved(
    engine_process: EngineProcess,
    base: Path,
    tmp_path: Path,
    name: str,
    dtype: str,
    kind: str,
    groups: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    bundle = train(base, tmp_path, dtype, **groups)

    proof = Proof.model_validate_json(asked(engine_process.url, bundle, base, kind=kind).content)

    record_property(name, proof.model_dump_json())
    assert proof.proved, proof
    assert proof.base_gap is None or kind == "lora"


def test_a_job_succeeds_with_the_proof_of_its_adapter(
    database: Database,
    home: Path,
    engine_process: EngineProcess,
    trained: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bring(monkeypatch, trained, base)
    job_id = add_training(database)

    work(database, home, engine_url=engine_process.url, engine_key=KEY, **BRINGING)

    job = read(database, job_id)
    assert (job.status, job.error) == (JobStatus.SUCCEEDED, None)
    assert job.result is not None
    assert job.result["verification"]["proved"] is True
    assert job.result["verification"]["difference"] < 1e-4
    with database.reader() as session:
        kinds = [event.kind for event in repository.events(session, EVERY_PROJECT, job_id, after=0, limit=100)]
        assert home / adapters.find(session, EVERY_PROJECT, job_id).path == placed(home)[0]
    assert kinds == ["status", "status", "adapter", "finished", "phase", "verified", "status"]


@pytest.mark.parametrize("damage", ["scrambled", "zeroed", "truncated", "no probe"])
def test_a_job_whose_adapter_is_another_fails_and_nothing_of_it_can_be_asked(
    database: Database,
    home: Path,
    tmp_path: Path,
    engine_process: EngineProcess,
    trained: Path,
    base: Path,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained, tmp_path / "bundle")
    WRONG[damage][0](tmp_path / "bundle")
    bring(monkeypatch, tmp_path / "bundle", base)
    job_id = add_training(database)

    work(database, home, engine_url=engine_process.url, engine_key=KEY, **BRINGING)

    job = read(database, job_id)
    assert (job.status, job.adapter_id, job.result) == (JobStatus.FAILED, None, None)
    assert job.error is not None
    assert (job.error["category"], job.error["code"]) == ("system_error", "adapter_not_proved")
    assert job.error["details"][0]["proved"] is False
    with database.reader() as session, pytest.raises(Conflict, match="only a job that has succeeded"):
        adapters.find(session, EVERY_PROJECT, job_id)
    assert placed(home) == []
    assert (settings_of(home).job_dir(job_id) / "attempts" / "1" / "adapter" / "adapter_config.json").exists()


def test_an_engine_that_is_away_is_waited_for_and_nothing_is_trained_again(
    database: Database,
    home: Path,
    engine_process: EngineProcess,
    trained: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bring(monkeypatch, trained, base)
    job_id = add_training(database)
    nobody = f"http://127.0.0.1:{free_port()}"

    for _ in range(3):  # more often than a job may fail
        work(database, home, engine_url=nobody, **BRINGING)
        waiting = read(database, job_id)
        assert (waiting.status, waiting.error) == (JobStatus.QUEUED, None)
        assert waiting.run_after is not None
        assert placed(home) == []
        skip_pause(database, job_id)
    work(database, home, engine_url=engine_process.url, engine_key=KEY, **BRINGING)

    assert read(database, job_id).status is JobStatus.SUCCEEDED
    assert outcomes(database, job_id) == [*["engine_unavailable"] * 3, "finished"]
    assert children(database, home, job_id) == 1
