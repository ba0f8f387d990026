"""The commands that list and show, against the real API with rows that a test has stored."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from app import __version__
from app.config import Settings
from app.database.connection import Database
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.states import JobStatus
from tests.integration.cli.conftest import Command
from tests.support.cli_answers import Json, figures
from tests.support.jobs import NOW, add_job, add_worker
from tests.support.jobs_api import an_app
from tests.support.scripted_engine import add_adapter
from tests.support.serving import serving
from tests.support.specs import a_body

EXAMPLE = Path(__file__).parents[3] / "examples" / "fibonacci" / "fibonacci_train.jsonl"
TRAINING = {"percent": 25.0, "eta_seconds": 9.0, "gpu_memory_bytes": None, **figures(3, 12)}


@pytest.fixture
def database(migrated: Settings) -> Iterator[Database]:
    with closing(Database.open(migrated.database)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _service(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serving(an_app(migrated, migrated.database)) as url:
        monkeypatch.setenv("TUNESMITH_URL", url)
        yield


def add_steps(database: Database, job_id: str, *losses: float) -> None:
    with database.writer() as session:
        for step, loss in enumerate(losses, 1):
            job = session.get_one(Job, job_id)
            job.last_seq += 1
            repository.append_event(session, job, "step", {**figures(step, len(losses)), "loss": loss}, NOW)
        session.commit()


@pytest.mark.parametrize("command", ["jobs", "adapters", "models", "workers", "files list", "secrets list"])
def test_every_list_has_the_four_forms(tunesmith: Command, command: str) -> None:
    documents = [read(tunesmith(*command.split(), "-o", form).out) for form, read in FORMS.items()]

    assert documents[0] == documents[1]
    assert documents[0]["object"] == "list"
    assert tunesmith(*command.split(), "-o", "name") == (0, "", "")
    assert len(tunesmith(*command.split(), "-o", "wide").out) >= len(tunesmith(*command.split()).out)


FORMS: dict[str, Callable[[str], Json]] = {"json": json.loads, "yaml": yaml.safe_load}


def test_a_job_is_named_by_the_beginning_of_its_id_or_by_its_name(tunesmith: Command, database: Database) -> None:
    job_id = add_job(database, name="fib")
    add_job(database, name="fib-2")

    for text in (job_id, job_id[:12], job_id.removeprefix("job-")[:10], "fib"):
        assert tunesmith("job", text, "-o", "name") == (0, f"{job_id}\n", "")


def test_a_name_of_several_jobs_changes_none_of_them(tunesmith: Command, database: Database) -> None:
    ids = [add_job(database, name="fib", age=age) for age in (1, 2)]

    code, out, err = tunesmith("cancel", "fib")

    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "'fib' means 2 jobs; give the id of one:"
    assert [line.split()[:3] for line in err.splitlines()[1:]] == [[job_id, "fib", "queued,"] for job_id in ids]
    assert {json.loads(tunesmith("job", job_id).out)["status"] for job_id in ids} == {"queued"}


def test_what_is_deleted_is_said(tunesmith: Command, database: Database) -> None:
    job_id = add_job(database, JobStatus.FAILED, name="fib")

    assert tunesmith("delete", "fib") == (0, f"{job_id} is deleted\n", "")
    assert tunesmith("delete", "fib").err.startswith("there is no job with the id or the name 'fib'")


def test_a_job_is_described_for_a_person(tunesmith: Command, database: Database) -> None:
    error = {"category": "user_error", "code": "out_of_memory", "message": "40 GB\x1b needed", "hint": "load_in_4bit"}
    body = a_body(lora={"r": 8})
    job_id = add_job(database, JobStatus.FAILED, body=body, progress=TRAINING, error=error, created_by="jane")

    lines = tunesmith("describe", job_id).out.splitlines()

    assert lines[0].split() == ["job", job_id]
    for line in ("  lora.r: 8", "  out_of_memory (user_error): 40 GB\\x1b needed", "  load_in_4bit"):
        assert line in lines
    assert "step        3 of 12, epoch 0.25" in lines


def test_metrics_are_curves_or_a_table(tunesmith: Command, database: Database) -> None:
    job_id = add_job(database)
    add_steps(database, job_id, 4.0, 2.0)

    drawn = tunesmith("metrics", job_id).out.splitlines()
    assert (drawn[0], drawn[1][:3], drawn[10][:3]) == ("loss: 2 at step 2", "4 ┤", "2 ┤")
    assert tunesmith("metrics", job_id, "loss", "--csv").out == "step,loss\n1,4.0\n2,2.0\n"
    assert "grad" not in tunesmith("metrics", job_id, "--csv").out  # a series without a value has no column
    assert tunesmith("metrics", job_id, "los").err.startswith("there is no metric 'los'; there are epoch, loss")
    assert json.loads(tunesmith("metrics", job_id, "-o", "json").out)["steps"][1]["loss"] == 2.0


def test_a_job_without_steps_has_no_metrics_yet(tunesmith: Command, database: Database) -> None:
    assert tunesmith("metrics", add_job(database)).err == (
        "there are no metrics yet: the training has not logged a step\n"
    )


def test_jobs_are_compared_by_what_differs_and_what_came_of_it(tunesmith: Command, database: Database) -> None:
    ids = [add_job(database, body=a_body(lora={"r": rank}), name=f"rank-{rank}") for rank in (8, 16)]
    add_steps(database, ids[0], 4.0, 2.0)

    rows = {line.split()[0]: line.split()[1:] for line in tunesmith("compare", "rank-8", ids[1]).out.splitlines()}
    answer = json.loads(tunesmith("compare", *ids, "-o", "json").out)

    assert (rows["JOB"], rows["name"], rows["lora.r"], rows["loss"]) == (
        ids,
        ["rank-8", "rank-16"],
        ["8", "16"],
        ["2", "-"],
    )
    assert list(answer["settings"]) == ["lora.r"]
    assert tunesmith("compare", ids[0]).err == "give at least two jobs to compare\n"


def test_an_upload_is_shown_downloaded_and_deleted(
    tunesmith: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    monkeypatch.chdir(folder)
    name, file_id = EXAMPLE.name, tunesmith("upload", str(EXAMPLE)).out.strip()

    assert tunesmith("files", "get", name).out.splitlines()[1].split()[:3] == [file_id, name, "sharegpt"]
    assert tunesmith("files", "download", file_id[:12]).code == 0
    assert (folder / name).read_bytes() == EXAMPLE.read_bytes()
    assert tunesmith("files", "download", name).err == f"{name} is there already: choose another file with --to\n"
    assert tunesmith("files", "delete", file_id).out == f"{file_id} is deleted\n"
    assert tunesmith("files", "list", "-o", "name").out == ""
    assert list(folder.iterdir()) == [folder / name]


def test_an_adapter_is_removed_by_the_beginning_of_its_id(
    tunesmith: Command, database: Database, migrated: Settings
) -> None:
    kept, other = (add_adapter(database, migrated.root / "adapters", age=age).id for age in (1, 2))

    assert tunesmith("adapters", "--delete", other[:20]).out == f"{other} is deleted\n"
    assert tunesmith("adapters", "-o", "name").out == f"{kept}\n"


def test_workers_are_listed_with_what_they_do(tunesmith: Command, database: Database) -> None:
    add_worker(database, name="w1", problem="no\nGPU")

    assert tunesmith("workers").out.splitlines()[1].split() == ["w1", "train", "cpu", "0s", "ago", "-", "no\\nGPU"]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--for", "paused"], 0, " is paused\n"),
        (["--for", "step=3"], 0, " is step=3\n"),
        (["--for", "running", "--timeout", "0s"], 124, " is paused and not yet running: 0s are over\n"),
    ],
)
def test_waiting_ends_when_the_job_is_so_or_the_time_is_over(
    tunesmith: Command, database: Database, options: list[str], code: int, text: str
) -> None:
    job_id = add_job(database, JobStatus.PAUSED, progress=TRAINING)

    result = tunesmith("wait", job_id, *options)

    assert (result.code, result.out + result.err) == (code, f"{job_id}{text}")


def test_waiting_ends_when_the_job_has_ended_otherwise(tunesmith: Command, database: Database) -> None:
    job_id = add_job(database, JobStatus.CANCELLED)

    assert tunesmith("wait", job_id) == (1, "", f"{job_id} is cancelled and will not be succeeded\n")


def test_the_shell_completes_ids_and_names_nothing_without_a_service(
    tunesmith: Command, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(database)
    monkeypatch.setenv("_TUNESMITH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tunesmith describe job-")
    monkeypatch.setenv("COMP_CWORD", "2")

    assert tunesmith().out.split() == [job_id]
    monkeypatch.setenv("TUNESMITH_URL", "http://127.0.0.1:1")
    assert tunesmith() == (0, "\n", "")


def test_the_version_and_every_command_with_its_group_are_shown(tunesmith: Command) -> None:
    assert tunesmith("--version") == (0, f"tunesmith {__version__}\n", "")
    assert re.findall(r"^╭─ ([A-Z].*?) ─", tunesmith("-h").out, re.MULTILINE) == [
        "Options",
        "Train",
        "Look at jobs",
        "Results",
        "Control a job",
        "Ask",
        "Service",
        "Stored beside jobs",
    ]
