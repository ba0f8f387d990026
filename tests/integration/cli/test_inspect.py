"""`tunesmith validate`, `inspect` and `estimate` against the real API, with a checker that a test plays."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.config import Settings
from app.contracts.events import DataPrepared, Noticed
from app.database.connection import Database
from app.jobs.models import Job
from app.main import create_app
from tests.integration.cli.conftest import Command
from tests.support.checks import Checker, Findings, a_checker, a_failure
from tests.support.jobs import add_job
from tests.support.learned_text import a_token_report, chat_parts, write_data
from tests.support.serving import serving
from tests.support.waiting import wait_for

ROWS = {number: chat_parts(f"q{number}", f"a{number}") for number in range(1, 6)}
REPORT = DataPrepared(report={"train": a_token_report(rows=5).model_dump(mode="json")})
NOTICE = Noticed(code="c", message="the model knows\x1b[2J 64 tokens")


@pytest.fixture
def database(migrated: Settings) -> Iterator[Database]:
    with closing(Database.open(migrated.database)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def checker(settings: Settings, database: Database) -> Iterator[Checker]:
    """One that finds every job valid, but one with another template. It takes its time for that of a slow model."""

    def check(job: Job) -> Findings:
        is_bad = job.plan["model"]["chat_template"] == "zephyr"
        if job.plan["model"]["model_name"] == "org/slow":
            found.stopping.wait(20)
        return a_failure("bad", "no\x1b good") if is_bad else Findings([REPORT, NOTICE], ROWS)

    with a_checker(settings, database, check) as found:
        yield found


@pytest.fixture(autouse=True)
def _service(settings: Settings, checker: Checker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    app = create_app(settings)
    app.state.notifier = checker.notifier
    with serving(app) as url:
        monkeypatch.setenv("TUNESMITH_URL", url)
        yield


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n')
    return path


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"model": {"model_name": "org/model"}, "dataset": {"source": {"hub": "org/chats"}}}))
    return path


def uploads(settings: Settings) -> list[Path]:
    return list((settings.root / "files").glob("*"))


def test_a_valid_job_is_reported(tunesmith: Command, spec: Path) -> None:
    code, out, _ = tunesmith("validate", str(spec))
    lines = out.splitlines()

    assert code == 0
    assert lines[0].startswith("train: 5 rows, 30 tokens")
    assert lines[-2:] == ["notice: the model knows\\x1b[2J 64 tokens", "valid"]


def test_a_job_that_is_not_valid_ends_with_1(tunesmith: Command, spec: Path) -> None:
    body = json.loads(spec.read_text())
    spec.write_text(json.dumps({**body, "model": {**body["model"], "chat_template": "zephyr"}}))
    code, out, _ = tunesmith("validate", str(spec))

    assert (code, out) == (1, "bad (user_error): no\\x1b good\nnot valid\n")


def test_a_file_is_lent_for_the_check(tunesmith: Command, spec: Path, dataset: Path, settings: Settings) -> None:
    code, _, err = tunesmith("validate", str(spec), "--file", str(dataset))

    assert (code, err) == (0, "rows.jsonl: records 1, layout text\n")
    assert uploads(settings) == []


def test_an_estimate_is_printed(tunesmith: Command, spec: Path, dataset: Path, settings: Settings) -> None:
    code, out, err = tunesmith("estimate", str(spec), "--file", str(dataset))

    assert (code, err) == (0, "rows.jsonl: records 1, layout text\n")
    assert out.splitlines() == [
        "1 steps of 30 tokens, 30 tokens in all; 5 rows of at most 14 tokens",
        "no training worker is known",
    ]
    assert uploads(settings) == []


def test_an_estimate_of_a_job_that_is_not_valid_ends_with_1(tunesmith: Command, spec: Path) -> None:
    body = json.loads(spec.read_text())
    spec.write_text(json.dumps({**body, "model": {**body["model"], "chat_template": "zephyr"}}))

    code, out, _ = tunesmith("estimate", str(spec))
    assert (code, out) == (1, "bad (user_error): no\x1b good\n".replace("\x1b", "\\x1b"))


@pytest.mark.parametrize("command", ["validate", "estimate"])
@pytest.mark.parametrize(("template", "code"), [("chatml", 0), ("zephyr", 1)])
def test_a_program_gets_the_answer_as_json(
    tunesmith: Command, spec: Path, command: str, template: str, code: int
) -> None:
    body = json.loads(spec.read_text())
    spec.write_text(json.dumps({**body, "model": {**body["model"], "chat_template": template}}))

    result = tunesmith(command, str(spec), "-o", "json")

    assert (result.code, json.loads(result.out)["valid"], result.err) == (code, not code, "")


def test_a_wrong_spec_is_refused_as_by_submit(tunesmith: Command, spec: Path) -> None:
    spec.write_text('{"lora": {"lora_r": 4}}')

    code, out, err = tunesmith("validate", str(spec))
    assert (code, out) == (1, "")
    assert err == tunesmith("submit", str(spec))[2]


def test_a_record_of_a_job_is_shown(tunesmith: Command, database: Database, settings: Settings) -> None:
    job_id = add_job(database)
    write_data(settings.job_dir(job_id) / "data", train={1: chat_parts("\x1b[2Jhi", "yes")})

    assert tunesmith("inspect", job_id)[:2] == (
        0,
        "record 1 of train: 30 tokens, [[4 trained]], 26 not trained, 0 cut off\n"
        "<|im_start|>user\n\\x1b[2Jhi<|im_end|>\n<|im_start|>assistant\n[[yes<|im_end|>]]\n\n",
    )


def test_another_record_and_its_tokens_are_shown(tunesmith: Command, database: Database, settings: Settings) -> None:
    job_id = add_job(database)
    write_data(settings.job_dir(job_id) / "data", train=ROWS, eval={9: chat_parts("q", "b")})
    out = tunesmith("inspect", job_id, "--record", "9", "--split", "eval", "--tokens")[1]

    assert "[[b<|im_end|>]]" in out
    assert "trained, 2 tokens: 65 257" in out.splitlines()


def test_a_record_that_is_not_there_is_said(tunesmith: Command, database: Database, settings: Settings) -> None:
    job_id = add_job(database)
    write_data(settings.job_dir(job_id) / "data", train=ROWS)

    code, _, err = tunesmith("inspect", job_id, "--record", "77")
    assert (code, err.split(":")[0]) == (1, "unknown_record")


def test_a_file_is_previewed_and_taken_away_again(tunesmith: Command, dataset: Path, settings: Settings) -> None:
    code, out, _ = tunesmith("inspect", str(dataset), "--model", "org/model", "--max-seq-length", "64")

    assert code == 0
    assert [number for number in range(1, 6) if f"[[a{number}<|im_end|>]]" in out] == [1, 2, 3]
    assert out.endswith("valid\n")
    assert uploads(settings) == []


def test_one_row_of_a_file_is_shown(tunesmith: Command, dataset: Path) -> None:
    out = tunesmith("inspect", str(dataset), "--model", "org/model", "--record", "5")[1]

    assert [number for number in range(1, 6) if f"[[a{number}<|im_end|>]]" in out] == [5]


def test_a_file_that_cannot_be_trained_on_ends_with_1(tunesmith: Command, dataset: Path, settings: Settings) -> None:
    code, out, _ = tunesmith("inspect", str(dataset), "--model", "org/model", "--template", "zephyr")

    assert (code, out.splitlines()[-1]) == (1, "not valid")
    assert uploads(settings) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rows.jsonl"], "it takes --model"),
        (["rows.jsonl", "--model", "m", "--split", "eval"], "rows are all of the train split"),
        (["rows.jsonl", "--model", "m", "--record", "21"], "the first 20 rows"),
        (["nothing.jsonl", "--model", "m"], "there is no file nothing.jsonl"),
    ],
)
def test_what_does_not_go_together_is_said(
    tunesmith: Command, dataset: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(dataset.parent)
    code, _, err = tunesmith("inspect", *arguments)

    assert code == 1
    assert reason in err


def test_ctrl_c_takes_the_file_away_too(dataset: Path, settings: Settings, checker: Checker) -> None:
    command = [sys.executable, "-m", "app.cli", "inspect", str(dataset), "--model", "org/slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as inspecting:
        wait_for("it is checked", lambda: checker.checked)
        inspecting.send_signal(signal.SIGINT)
        _, err = inspecting.communicate(timeout=20)

    assert inspecting.returncode == 130, err
    assert uploads(settings) == []
