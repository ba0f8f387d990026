"""What a worker does about the engine before it trains, while it trains and afterwards.

Trainings are played by a process that only steps; engines by the real one on the CPU, or by a server that answers by
script where a GPU is needed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.contracts.generation import EngineHealth
from app.contracts.memory_lease import this_cpu
from app.contracts.order import TrainingOrder
from app.contracts.plan import plan_of
from app.contracts.rows import BASE_CARD
from app.database.connection import Database
from app.jobs.queue import termination
from app.jobs.states import JobStatus
from tests.support.jobs import add_job, read
from tests.support.published_bundles import children
from tests.support.scripted_gpu import GPU, Script, give_gpu
from tests.support.serving import serving
from tests.support.specs import a_body, a_spec
from tests.support.waiting import wait_for
from tests.support.workers import (
    a_context,
    add_training,
    at_work,
    outcomes,
    reached_step,
    settings_of,
    slot_acquired,
    tell,
    work,
)
from worker.inference.batching.engine import BatchingEngine
from worker.inference.models.bases import Placement
from worker.inference.server.app import create_app
from worker.inference.server.memory_lease import MemoryLeases
from worker.inference.server.roots import Roots
from worker.model_card import card_of
from worker.supervising import gpu_sharing
from worker.supervising.gpu_sharing import measured_bytes, training_of

GB = 10**9


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpu(tmp_path, monkeypatch)


@pytest.fixture
def engine() -> Iterator[BatchingEngine]:
    engine = BatchingEngine(Placement("cpu", torch.float32))
    yield engine
    engine.close()
    assert engine.join(30)


def reason_of(url: str) -> str | None:
    health = EngineHealth.model_validate_json(httpx.get(f"{url}/health", trust_env=False).content)
    assert health.place == this_cpu()
    return health.stepped_aside


def test_the_engine_is_away_while_a_job_trains_and_back_when_it_has(
    database: Database, home: Path, engine: BatchingEngine
) -> None:
    job_id = add_training(database, steps=60, step_seconds=0.02)

    with serving(create_app(engine, Roots.of(home), MemoryLeases(engine))) as url:
        settings = settings_of(home, engine_url=url, gpu_sharing="never")
        with slot_acquired(settings, database) as context, at_work(context):
            reached_step(database, job_id, 2)
            meanwhile = reason_of(url)
            wait_for("it has trained", lambda: read(database, job_id).status is JobStatus.SUCCEEDED)
            wait_for("it is back", lambda: reason_of(url) is None)

    assert meanwhile is not None
    assert job_id in meanwhile


def test_on_a_cpu_both_are_at_work(database: Database, home: Path, engine: BatchingEngine) -> None:
    job_id = add_training(database, steps=20, step_seconds=0.02)

    with (
        serving(create_app(engine, Roots.of(home), MemoryLeases(engine))) as url,
        slot_acquired(settings_of(home, engine_url=url), database) as context,
        at_work(context),
    ):
        reached_step(database, job_id, 2)
        meanwhile = reason_of(url)

    assert meanwhile is None


def add_local_training(database: Database, home: Path, **labels: str) -> str:
    """Of a small model in the models folder."""
    settings = settings_of(home)
    folder = settings.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    body = a_body(model={"model_name": "tiny", "revision": None})
    job_id = add_job(database, body={**body, "labels": labels})
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 600}
    settings.data_dir(job_id).mkdir(parents=True)
    (settings.data_dir(job_id) / BASE_CARD).write_text(card_of(sizes, 1000).model_dump_json())
    return job_id


@pytest.mark.usefixtures("gpu")
def test_a_training_without_room_beside_the_engine_has_the_gpu_alone_the_next_time(
    database: Database, home: Path
) -> None:
    script = Script()
    job_id = add_local_training(database, home, at="3", does="fills the GPU")

    with serving(script.app()) as url:
        work(database, home, engine_url=url, max_attempts=1)

    assert outcomes(database, job_id) == ["no_room_beside_engine", "out_of_gpu_memory"]
    assert len(script.released) == 1
    assert read(database, job_id).error["category"] == "user_error"  # type: ignore[index]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("place", "policy"), [(GPU, "always"), ("GPU-2", "auto"), (None, "auto")])
def test_too_little_memory_is_the_spec_s_where_the_engine_takes_none_or_always_stays(
    database: Database, home: Path, place: str | None, policy: str
) -> None:
    job_id = add_local_training(database, home, at="3", does="fills the GPU")

    with serving(Script(place=place).app()) as url:
        work(database, home, engine_url=url, gpu_sharing=policy)

    assert (read(database, job_id).status, outcomes(database, job_id)) == (JobStatus.FAILED, ["out_of_gpu_memory"])


@pytest.mark.usefixtures("gpu")
def test_too_little_memory_is_not_the_spec_s_where_the_engine_does_not_let_go(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_sharing, "PATIENCE_SECONDS", 0.5)
    job_id = add_training(database, at="3", does="fills the GPU")

    with serving(Script(goes_away=False).app()) as url:
        work(database, home, engine_url=url)

    assert (read(database, job_id).status, outcomes(database, job_id)) == (JobStatus.QUEUED, ["out_of_gpu_memory"])


@pytest.mark.usefixtures("gpu")
def test_an_engine_that_does_not_let_go_is_told_on_the_job(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_sharing, "PATIENCE_SECONDS", 0.5)
    job_id = add_training(database)

    with serving(Script(goes_away=False).app()) as url:
        work(database, home, engine_url=url)

    job = read(database, job_id)
    assert job.status is JobStatus.SUCCEEDED
    assert [notice["code"] for notice in job.notices] == ["engine_stayed"]


@pytest.mark.usefixtures("gpu")
def test_a_job_that_is_cancelled_while_the_engine_steps_aside_starts_nothing(database: Database, home: Path) -> None:
    script, job_id = Script(goes_away=False), add_training(database)

    with (
        serving(script.app()) as url,
        slot_acquired(settings_of(home, engine_url=url), database) as context,
        at_work(context),
    ):
        wait_for("it is asked", lambda: script.asked)
        tell(database, termination.end, job_id)
        wait_for("it is cancelled", lambda: read(database, job_id).status is JobStatus.CANCELLED)

    assert (children(database, home, job_id), len(script.released)) == (1, 1)
    assert not list(home.glob("jobs/*/attempts/*/events.jsonl"))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("place", "policy", "limit"),
    [
        (GPU, "auto", 60_000 * 2**20 - 750),  # the engine takes a quarter of what the base leaves
        (GPU, "always", 60_000 * 2**20 - 750),
        (GPU, "never", None),
        ("GPU-2", "auto", None),
    ],
)
def test_a_training_beside_the_engine_is_told_how_much_it_may_take(
    database: Database, home: Path, place: str, policy: str, limit: int | None
) -> None:
    job_id = add_local_training(database, home)

    with serving(Script(place=place).app()) as url:
        work(database, home, engine_url=url, gpu_sharing=policy)

    order = (settings_of(home).job_dir(job_id) / "attempts" / "1" / "order.json").read_bytes()
    assert TrainingOrder.model_validate_json(order).memory_limit_bytes == limit


def a_peak(bytes_seen: int | None) -> dict[str, Any]:
    return {"step": 1, "total_steps": 2, "gpu_memory_bytes": bytes_seen}


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (a_peak(7 * GB), lambda needed: needed == measured_bytes(7 * GB)),
        (a_peak(None), lambda needed: needed > GB),
        (None, lambda needed: needed > GB),
    ],
)
def test_what_was_measured_counts_more_than_what_is_estimated(
    database: Database, home: Path, progress: dict[str, Any] | None, expected: Callable[[int], bool]
) -> None:
    job_id = add_local_training(database, home)
    job = read(database, job_id)
    job.progress = progress
    context = a_context(settings_of(home), database)

    training = training_of(context, job, plan_of(a_spec()))

    assert training.holder == context.slot.key
    assert training.base_bytes == 1000
    assert training.training_bytes is not None
    assert expected(training.training_bytes)
