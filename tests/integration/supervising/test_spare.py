"""A warm spare, in real processes: it is used for one training, and never in a way that a cold process would not be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.contracts.events import ATTEMPT_EVENT, AttemptEvent, Failed, Finished, TrainingStarted
from app.contracts.order import BaseRef
from app.contracts.spec import JobSpec
from app.database.connection import Database
from app.processes.environments import Process
from tests.support.hub import SHA
from tests.support.jobs import read
from tests.support.prepared_rows import a_training, prepare
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from tests.support.waiting import wait_for
from tests.support.workers import add_training, settings_of, slot_acquired
from worker.child import environment
from worker.confinement import landlock
from worker.supervising.lifecycle import run_until_idle
from worker.supervising.slots import Slot
from worker.supervising.spare import Spare, WarmSpare, is_wanted

SECONDS = 120
CHATS = [
    {"messages": [{"role": "user", "content": f"hello {n}"}, {"role": "assistant", "content": "hi"}]} for n in range(8)
]
SPEC = JobSpec.model_validate(
    a_body(model={"model_name": "tiny", "max_seq_length": 128, "load_in_4bit": False}, training={"max_steps": 4})
)
WORKER = """
import os, sys, time
from app.config import Settings
from worker.supervising.slots import Slot
from worker.supervising.spare import Spare

settings = Settings()
slot = Slot.open(settings.slots, "gpu0")
assert slot.try_lock()
spare = Spare(settings, slot, dict(os.environ))
print(spare.child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With a long lease, since nobody renews it."""
    return settings_of(tmp_path / "home", lease_seconds=600)


@pytest.fixture
def slot(settings: Settings) -> Iterator[Slot]:
    with Slot.open(settings.slots, "gpu0") as slot:
        assert slot.try_lock()
        yield slot


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def rows(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(tiny, tmp_path_factory.mktemp("rows"), CHATS, SPEC)


def an_env(settings: Settings) -> dict[str, str]:
    return environment(Process.TRAIN, settings.root / "cache")


def an_order(folder: Path, base: BaseRef, rows: dict[str, Path], **fields: Any) -> Path:
    (folder / "work").mkdir(parents=True)
    (folder.parent / "checkpoints").mkdir()
    order = a_training(folder, SPEC, base, **rows, **fields)
    path = folder / "order.json"
    path.write_text(order.model_dump_json())
    return path


def events_of(order: Path) -> list[AttemptEvent]:
    file = order.with_name("events.jsonl")
    return [ATTEMPT_EVENT.validate_json(line) for line in file.read_text().splitlines()]


def in_hub_cache(home: Path, model: Path) -> None:
    """Put a model into a hub cache, as a download leaves it."""
    snapshot = home / "hub" / "models--org--tiny" / "snapshots" / SHA
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(model)
    (home / "hub" / "models--org--tiny" / "refs").mkdir()


def test_a_spare_that_still_imports_trains_a_model_of_the_hosts_hub_cache(
    settings: Settings, slot: Slot, tiny: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    in_hub_cache(tmp_path / "hf", tiny)
    base = BaseRef(source="org/tiny", is_local=False, revision=SHA)
    order = an_order(tmp_path / "attempt" / "1", base, rows, is_confined=False)
    with Spare(settings, slot, {**an_env(settings), "HF_HOME": str(tmp_path / "hf")}) as spare:
        assert spare.give(order)
        code = spare.child.wait(SECONDS)
        refusal = spare.refusal()
    events, output = events_of(order), order.with_name("output.log").read_text()

    assert (code, refusal) == (0, None), output[-2000:]
    assert isinstance(events[-1], Finished), output[-2000:]
    assert [event.is_warm for event in events if isinstance(event, TrainingStarted)] == [True]
    assert "Unsloth" in output  # what the imports have printed
    assert "train_runtime" in output
    assert not order.with_name("hf").exists()


@pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
def test_a_spare_opens_nothing_but_what_is_its_orders(
    settings: Settings, slot: Slot, tiny: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    """It has one thread after all imports, or it could not be confined. A link leads to rows that are not its own."""
    link = tmp_path / "data" / "train.arrow"
    link.parent.mkdir()
    link.symlink_to(rows["train_rows"])
    base = BaseRef(source=str(tiny), is_local=True)
    order = an_order(tmp_path / "attempt" / "1", base, {**rows, "train_rows": link})
    with Spare(settings, slot, an_env(settings)) as spare:
        held = wait_for("the spare has its imports", spare.listen, SECONDS)
        assert spare.give(order)
        spare.child.wait(SECONDS)
        refusal = spare.refusal()
    failed = events_of(order)[-1]

    assert len(held.threads) == 1
    assert refusal is None
    assert isinstance(failed, Failed)
    assert failed.code == "kept_out"


def test_a_cold_process_trains_where_code_has_changed_since_the_spare_was_started(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = tmp_path / "an_operators_plugin.py"
    plugin.write_text("")
    monkeypatch.setenv("TUNESMITH_PLUGINS", plugin.stem)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ['PYTHONPATH']}")
    caplog.set_level("INFO")
    job_id = add_training(database, steps=2)
    with slot_acquired(settings_of(tmp_path / "home"), database) as context:
        warm = WarmSpare(context.settings, context.slot)
        object.__setattr__(context, "spare", warm)

        def is_ready() -> bool:
            warm.keep()
            return "a warm spare is ready" in caplog.text

        wait_for("the spare is ready", is_ready, SECONDS)
        plugin.write_text("CHANGED = True")
        run_until_idle(context)
        warm.close()

    assert f"because the warm spare did not: {plugin} has changed since" in caplog.text
    assert read(database, job_id).status == "succeeded"


def test_a_spare_dies_with_its_worker(tmp_path: Path) -> None:
    env = {**an_env(settings_of(tmp_path / "home")), "TUNESMITH_HOME": str(tmp_path / "home")}
    worker = subprocess.Popen([sys.executable, "-c", WORKER], env=env, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    guardian = int(worker.stdout.readline())
    child = wait_for("the spare runs", lambda: children_of(guardian))[0]

    worker.send_signal(signal.SIGKILL)
    worker.communicate()

    wait_for("guardian and spare are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in (guardian, child)))
    with Slot.open(tmp_path / "home" / "run" / "slots", "gpu0") as slot:
        assert slot.try_lock()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_spare_is_started_again_only_when_the_training_has_ended(settings: Settings, slot: Slot) -> None:
    order = settings.root / "order.json"
    warm = WarmSpare(settings, slot)
    warm.keep()
    with warm.training(order, an_env(settings)) as taken:
        assert taken is not None
        assert taken.is_alive
        warm.keep()
        with warm.training(order, an_env(settings)) as second:
            assert second is None
    assert not taken.is_alive

    warm.close()
    warm.keep()
    with warm.training(order, an_env(settings)) as after_the_end:
        assert after_the_end is None


def test_a_spare_with_another_environment_is_not_used(settings: Settings, slot: Slot) -> None:
    warm = WarmSpare(settings, slot)
    warm.keep()

    with warm.training(settings.root / "order.json", {**an_env(settings), "OMP_NUM_THREADS": "7"}) as taken:
        assert taken is None


def test_a_spare_that_ends_by_itself_is_replaced_after_a_while(
    settings: Settings, slot: Slot, caplog: pytest.LogCaptureFixture
) -> None:
    warm = WarmSpare(settings, slot)
    warm.keep()
    assert warm._spare is not None
    first = warm._spare.child
    os.kill(wait_for("the spare runs", lambda: children_of(first.pid))[0], signal.SIGKILL)
    wait_for("it is gone", lambda: first.poll() is not None)

    def has_another() -> bool:
        warm.keep()
        return warm._spare is not None and warm._spare.child is not first

    wait_for("another one is started", has_another)
    warm.close()

    assert "the warm spare has ended by itself" in caplog.text


@pytest.mark.parametrize(
    ("device", "warm_spare", "trainer", "expected"),
    [
        ("NVIDIA H200, 143771 MiB", None, "worker.training", True),
        ("NVIDIA H200, 143771 MiB", False, "worker.training", False),
        ("cpu (x86_64)", True, "worker.training", True),
        ("NVIDIA H200, 143771 MiB", True, "tests.support.stand_in_trainer", False),
    ],
)
def test_a_worker_keeps_a_spare_where_it_pays(
    settings: Settings, device: str, warm_spare: bool | None, trainer: str, expected: bool
) -> None:
    chosen = settings.model_copy(update={"warm_spare": warm_spare, "trainer_module": trainer})

    assert is_wanted(chosen, device) is expected


def test_a_spare_that_could_not_be_confined_is_not_kept(
    settings: Settings, slot: Slot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.child.ONE_THREAD", {"OPENBLAS_NUM_THREADS": "2"})
    warm = WarmSpare(settings, slot)

    def is_told() -> bool:
        warm.keep()
        return "one with several threads cannot be confined" in caplog.text

    wait_for("it is told", is_told, SECONDS)
    warm.keep()

    assert warm._spare is None
