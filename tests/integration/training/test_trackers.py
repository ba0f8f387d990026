"""Trackers get the points of the metrics as the events have them: each of the four for real, as files, confined."""

import importlib
import json
import signal
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import ArtifactSaved, Evaluated, StepLogged
from app.contracts.spec import JobSpec
from app.hashing import hash_folder
from tests.support.prepared_rows import prepare
from tests.support.trainings import Job, a_trainers_base, reached

ROWS = 12
RUN = "x"  # the job's id is job-x
Points = dict[int, float]
# Of the files of W&B: https://github.com/google/leveldb/blob/main/doc/log_format.md
BLOCK_BYTES, HEAD_BYTES = 32768, 7
WHOLE, LAST = 1, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with a_trainers_base(tmp_path_factory.mktemp("model")) as folder:
        yield folder


@pytest.fixture(scope="module")
def data(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rows = ({"text": f"row {n} of the data" * (n + 1)} for n in range(ROWS))
    return prepare(base, tmp_path_factory.mktemp("data"), rows, a_spec())


def a_spec(**training: Any) -> JobSpec:
    plain = {"fp16": False, "bf16": False, "gradient_accumulation_steps": 1, "save_steps": None, "max_steps": 4}
    model = {"model_name": "tiny", "max_seq_length": 256, "dtype": "float32", "load_in_4bit": False}
    body = {"model": model, "dataset": {"source": {"path": "train.jsonl"}}, "training": {**plain, **training}}
    return JobSpec.model_validate(body)


def losses_of(job: Job) -> Points:
    events = [event for attempt in job.attempts for event in attempt]
    return {event.step: event.loss for event in events if isinstance(event, StepLogged) and event.loss is not None}


def of_tensorboard(folder: Path, tag: str = "train/loss") -> Points:
    reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {point.step: point.value for point in found.Scalars(tag)}


def of_wandb(folder: Path, key: str = "train/loss") -> Points:
    """All records of the files that `wandb sync` sends."""
    internal: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found: Points = {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        for record in map(internal.Record.FromString, wandb_records(file.read_bytes())):
            items = {(one.key or "/".join(one.nested_key)): json.loads(one.value_json) for one in record.history.item}
            if key in items:
                found[items["train/global_step"]] = items[key]
    return found


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes it: pieces with a head of checksum, length and place, in blocks."""
    at, record = 7, b""
    while at + HEAD_BYTES <= len(content):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEAD_BYTES:
            at += left
            continue
        _, length, place = struct.unpack_from("<IHB", content, at)
        record += content[at + HEAD_BYTES : at + HEAD_BYTES + length]
        at += HEAD_BYTES + length
        if place in (WHOLE, LAST):
            yield record
            record = b""


def of_mlflow(folder: Path, name: str = "loss") -> Points:
    (file,) = folder.glob(f"mlruns/*/*/metrics/{name}")
    return {int(step): float(value) for _, value, step in (line.split()[:3] for line in file.read_text().splitlines())}


def query(file: Path, statement: str) -> list[tuple[str]]:
    """Read a database without a change to its file."""
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as database:
        return database.execute(statement).fetchall()


def of_trackio(folder: Path, key: str = "train/loss") -> Points:
    (file,) = folder.glob("trackio/*.db")
    rows = [json.loads(text) for (text,) in query(file, "SELECT metrics FROM metrics")]
    return {row["train/global_step"]: row[key] for row in rows if key in row}


READ = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio}


@pytest.fixture(scope="module")
def tracked(base: Path, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A training that reports to all four, stopped after its second step and gone on with."""
    spec = a_spec(report_to=[*READ], run_name="my run", eval_steps=None)
    job = Job(base, tmp_path_factory.mktemp("job"), data, spec)
    job.run(signal.SIGTERM, reached(2))
    assert job.run() == 0, job.log()
    return job


def artifact(job: Job) -> ArtifactSaved:
    saved = job.last(ArtifactSaved)
    assert isinstance(saved, ArtifactSaved)
    return saved


@pytest.mark.parametrize("tracker", READ)
def test_a_tracker_has_the_losses_of_the_events(tracked: Job, tracker: str) -> None:
    found = READ[tracker](Path(artifact(tracked).path))

    assert sorted(found) == [1, 2, 3, 4]
    assert found == pytest.approx(losses_of(tracked), rel=1e-6)
    assert "tracker_failed" not in tracked.notices()


def test_an_attempt_goes_on_with_the_run_of_the_one_before(tracked: Job) -> None:
    folder = Path(artifact(tracked).path)

    assert len(tracked.attempts) == 2
    assert len([*folder.glob("mlruns/*/*/meta.yaml")]) == 1
    assert {file.name for file in folder.glob("wandb/*/*.wandb")} == {f"run-{RUN}.wandb"}
    assert query(next(folder.glob("trackio/*.db")), "SELECT DISTINCT run_name FROM metrics") == [("my run",)]


def test_the_artifact_is_whole_and_shows_the_spec_without_folders_of_this_host(tracked: Job, base: Path) -> None:
    saved = artifact(tracked)
    folder = Path(saved.path)

    assert (saved.artifact_kind, saved.sha256) == ("tracking", hash_folder(folder))
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.suffix == ".log"]
    told = b"".join(path.read_bytes() for path in folder.glob("wandb/*/*.wandb"))
    assert b"lora_alpha" in told
    assert str(base).encode() not in told


def test_an_evaluation_is_told_too(base: Path, data: dict[str, Path], tmp_path: Path) -> None:
    spec = a_spec(report_to="tensorboard")
    job = Job(base, tmp_path, data, spec, eval_rows=data["train_rows"])

    assert job.run() == 0, job.log()

    evaluated = job.last(Evaluated)
    assert of_tensorboard(Path(artifact(job).path), "eval/loss") == {4: pytest.approx(evaluated.eval_loss, rel=1e-6)}


def test_a_server_that_is_away_costs_a_notice_and_nothing_of_the_training(
    base: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    nobody = {"mlflow": "http://127.0.0.1:9"}
    job = Job(base, tmp_path, data, a_spec(report_to=["mlflow", "tensorboard"], tracker_urls=nobody))

    assert job.run() == 0, job.log()

    assert job.notices().count("tracker_failed") == 1
    assert of_tensorboard(Path(artifact(job).path)) == pytest.approx(losses_of(job), rel=1e-6)
