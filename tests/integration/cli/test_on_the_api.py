"""The command against the real API, with nobody there to work."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from tests.integration.cli.conftest import Command
from tests.support.jobs_api import an_app
from tests.support.serving import serving

EXAMPLE = Path(__file__).parents[3] / "examples" / "fibonacci"


@pytest.fixture(autouse=True)
def _service(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    model = migrated.models / "smollm2-135m-instruct"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with serving(an_app(migrated, migrated.database)) as url:
        monkeypatch.setenv("TUNESMITH_URL", url)
        yield


def submit(tunesmith: Command) -> str:
    file = EXAMPLE / "fibonacci_train.jsonl"
    code, out, err = tunesmith("submit", str(EXAMPLE / "job.json"), "--file", str(file))
    assert code == 0, err
    return out.strip()


def test_the_example_is_taken(tunesmith: Command) -> None:
    job_id = submit(tunesmith)

    job = json.loads(tunesmith("job", job_id)[1])
    assert job["name"] == "fibonacci"
    assert job["status"] == "validating"


def test_a_job_is_listed(tunesmith: Command) -> None:
    job_id = submit(tunesmith)

    found = tunesmith("jobs")[1].splitlines()[1].split()
    assert [*found[:5], *found[6:]] == [job_id, "fibonacci", "validating", "-", "-", "smollm2-135m-instruct", "local"]


def test_jobs_are_listed_by_label_and_text(tunesmith: Command, tmp_path: Path) -> None:
    job = {**json.loads((EXAMPLE / "job.json").read_text()), "name": "other", "labels": {"team": "a", "run": "7"}}
    (tmp_path / "job.json").write_text(json.dumps(job))
    example, file = submit(tunesmith), EXAMPLE / "fibonacci_train.jsonl"
    other = tunesmith("submit", str(tmp_path / "job.json"), "--file", str(file)).out.strip()

    assert listed(tunesmith, "--label", "team=a", "--label", "run=7") == listed(tunesmith, "--text", "OTH") == [other]
    assert listed(tunesmith, "--text", "fib") == [example]
    assert listed(tunesmith, "--label", "team=b") == []
    assert tunesmith("jobs", "--label", "team").err.startswith(
        "invalid_request: label.0: found 'team', expected name=value"
    )


def listed(tunesmith: Command, *options: str) -> list[str]:
    return [line.split()[0] for line in tunesmith("jobs", *options).out.splitlines()[1:]]


def test_a_cancelled_job_ends_its_watch_and_can_be_deleted(tunesmith: Command) -> None:
    job_id = submit(tunesmith)
    tunesmith("cancel", job_id)

    assert tunesmith("watch", job_id)[:2] == (
        2,
        f"status: validating\nstatus: cancelled\njob {job_id} cancelled\n",
    )
    assert tunesmith("delete", job_id)[0] == 0
    assert tunesmith("job", job_id)[2].startswith("unknown_job: ")


def test_a_wrong_field_is_named_with_the_nearest_known_one(tunesmith: Command, tmp_path: Path) -> None:
    spec = json.loads((EXAMPLE / "job.json").read_text())
    spec["lora"]["lora_r"] = spec["lora"].pop("r")
    (tmp_path / "job.json").write_text(json.dumps(spec))

    code, _, err = tunesmith("submit", str(tmp_path / "job.json"))

    message = "invalid_request: lora.lora_r: found the key 'lora_r', expected no such field; did you mean lora.r?\n"
    assert (code, err) == (1, message)


def test_a_bad_row_is_placed(tunesmith: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\n{"text": 12}\n')

    code, _, err = tunesmith("submit", str(EXAMPLE / "job.json"), "--file", str(tmp_path / "rows.jsonl"))

    assert code == 1
    assert "record 2" in err.splitlines()[-1]


def test_an_engine_that_is_away_is_said(tunesmith: Command) -> None:
    code, _, err = tunesmith("generate", "--model", "smollm2-135m-instruct", "after 89?")

    assert (code, err) == (1, "engine_unavailable: the engine is not running\n")


def test_nothing_was_trained_yet(tunesmith: Command) -> None:
    assert tunesmith("adapters")[1].split() == ["ADAPTER", "BASE", "KIND", "RANK", "SIZE", "AGE"]


def test_secrets_are_set_from_stdin_listed_and_deleted(
    tunesmith: Command, migrated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hf_CANARY-of-this-test\n"))
    commands = (["set", "hf"], ["list"], ["reencrypt", "--home", str(migrated.root)], ["delete", "hf"])
    outputs = [tunesmith("secrets", *command) for command in commands]
    again = tunesmith("secrets", "delete", "hf")

    assert [each.code for each in outputs] == [0, 0, 0, 0]
    assert outputs[2].out == "1 secrets are encrypted with the newest key\n"
    assert outputs[1].out.splitlines()[1].split()[0] == "hf"
    assert not any("CANARY" in each.out + each.err for each in outputs)
    assert (again.code, "has no secret hf" in again.err) == (1, True)


@pytest.mark.parametrize("value", ["", "CANARY with spaces"])
def test_a_secret_that_cannot_be_kept_is_refused_without_repeating_it(
    tunesmith: Command, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(value))

    result = tunesmith("secrets", "set", "hf")

    assert result.code == 1
    assert "CANARY" not in result.out + result.err
