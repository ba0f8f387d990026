"""The command, against a small HTTP server that answers in the service's shapes."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from app.cli.amounts import age
from tests.integration.cli.conftest import Command
from tests.support.cli_answers import NOW, Json, figures
from tests.support.rest_service import RestService
from tests.support.serving import serving
from tests.support.waiting import wait_for

REFUSAL = {
    "code": "invalid_dataset",
    "message": "2 records are wrong",
    "param": "file",
    "details": [
        {"record": 3, "line": 7, "field": "conversations.0", "code": "x", "found": "12", "expected": "an object"}
    ],
}


def step(number: int) -> Json:
    return {"kind": "step", **figures(number)}


def test_a_submitted_job_is_named(service: RestService, tunesmith: Command, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"name": "fib"}')

    result = tunesmith("submit", str(tmp_path / "job.json"))

    assert (result.code, result.out) == (0, "job-1\n")
    assert service.bodies == [{"name": "fib"}]


def test_a_job_can_come_from_stdin(service: RestService, tunesmith: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "piped"}'))

    tunesmith("submit", "-")

    assert service.bodies == [{"name": "piped"}]


def test_a_file_is_uploaded_and_named_in_the_job(service: RestService, tunesmith: Command, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"dataset": {"train_on": "all", "source": {"path": "x"}}}')
    (tmp_path / "rows.jsonl").write_text("{}\n")

    result = tunesmith("submit", str(tmp_path / "job.json"), "--file", str(tmp_path / "rows.jsonl"))

    assert result.code == 0
    assert 'filename="rows.jsonl"' in service.bodies[0]["multipart"]
    assert service.bodies[1] == {"dataset": {"train_on": "all", "source": {"file": "file-1"}}}


@pytest.mark.parametrize(("text", "reason"), [("{", "is no JSON file"), ("[]", "should hold a JSON object")])
def test_what_is_no_job_is_not_sent(
    service: RestService, tunesmith: Command, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "job.json").write_text(text)

    result = tunesmith("submit", str(tmp_path / "job.json"))

    assert result.code == 1
    assert reason in result.err
    assert service.requests == []


def test_a_spec_that_is_not_there_is_said_in_one_line(tunesmith: Command) -> None:
    result = tunesmith("submit", "/no/such/job.json")

    assert result.err == (
        "/no/such/job.json is no JSON file that can be read: [Errno 2] No such file or directory: '/no/such/job.json'\n"
    )


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 2)])
def test_the_exit_code_of_a_watched_job_is_its_end(
    service: RestService, tunesmith: Command, tmp_path: Path, status: str, code: int
) -> None:
    service.job["status"] = status
    (tmp_path / "job.json").write_text("{}")

    result = tunesmith("submit", str(tmp_path / "job.json"), "--watch")

    assert result.code == code
    assert f"job job-1 {status}" in result.out


def test_watching_shows_where_the_job_is(service: RestService, tunesmith: Command) -> None:
    service.events = [{"kind": "status", "status": "running"}, step(1), step(2), step(4)]

    result = tunesmith("watch", "job-1")

    assert result.out.splitlines() == [
        "status: running",
        "step 1/4  loss 1.0000  lr 1.00e-03  50 tokens/s  ETA 0:00:06",
        "step 4/4  loss 0.2500  lr 1.00e-03  50 tokens/s  ETA 0:00:00",
        "status: succeeded",
        "job job-1 succeeded; ask it: tunesmith generate --adapter a-1 'your prompt'",
    ]


def test_a_job_that_waits_says_for_what(service: RestService, tunesmith: Command) -> None:
    service.job["queue"] = {"position": 2, "reason": "1 jobs run before it"}

    assert tunesmith("watch", "job-1").out.startswith("waiting at place 2: 1 jobs run before it\n")


def test_a_broken_stream_is_taken_up_where_it_broke(service: RestService, tunesmith: Command) -> None:
    service.events = [{"kind": "notice", "message": f"number {n}"} for n in range(1, 4)]
    service.breaks = [2]

    result = tunesmith("watch", "job-1")

    assert result.out.splitlines()[:3] == ["notice: number 1", "notice: number 2", "notice: number 3"]
    assert service.requests.count("GET /jobs/job-1/stream") == 2


def test_ctrl_c_only_looks_away(service: RestService) -> None:
    service.job["status"] = "running"
    command = [sys.executable, "-m", "app.cli", "watch", "job-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "status: running\n"
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=20)

    assert watching.returncode == 130
    assert err == "job job-1 continues; to watch it again: tunesmith watch job-1\n"


def test_a_watched_list_goes_on_with_what_changes_until_ctrl_c(service: RestService) -> None:
    service.job["status"] = "running"
    command = [sys.executable, "-m", "app.cli", "jobs", "-w"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        titles, row = watching.stdout.readline(), watching.stdout.readline()
        asked = len(service.requests)
        wait_for("it asks again, and nothing has changed", lambda: len(service.requests) > asked)
        service.job["status"] = "succeeded"
        changed = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=20)

    assert [titles.split()[0], row.split()[:3], changed.split()[:3]] == [
        "JOB",
        ["job-1", "fib", "running"],
        ["job-1", "fib", "succeeded"],
    ]
    assert (watching.returncode, out, err) == (130, "", "")


def test_a_failed_job_says_why_and_what_helps(service: RestService, tunesmith: Command) -> None:
    error = {"category": "user_error", "code": "out_of_memory", "message": "40 GB needed", "hint": "load_in_4bit"}
    service.job.update(status="failed", error=error)

    result = tunesmith("watch", "job-1")

    assert result.out == "status: failed\njob job-1 failed: out_of_memory (user_error): 40 GB needed\nload_in_4bit\n"


def test_an_error_of_the_service_is_placed(service: RestService, tunesmith: Command, tmp_path: Path) -> None:
    service.refusal = REFUSAL
    (tmp_path / "rows.jsonl").write_text("{}\n")

    result = tunesmith("upload", str(tmp_path / "rows.jsonl"))

    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "invalid_dataset: 2 records are wrong",
        "  record 3, line 7, conversations.0: found 12, expected an object",
    ]


def test_an_uploaded_file_is_named(service: RestService, tunesmith: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")

    result = tunesmith("upload", str(tmp_path / "rows.jsonl"))

    assert (result.out, result.err) == ("file-1\n", "rows.jsonl: records 1, layout text\n")


def test_jobs_are_listed_in_columns(service: RestService, tunesmith: Command) -> None:
    progress = {**figures(3, 12), "percent": 25.0, "eta_seconds": None, "gpu_memory_bytes": None}
    service.job.update(
        status="running", adapter_id=None, phase="train", progress=progress, model="tiny", created_by="jane"
    )

    result = tunesmith("jobs")

    assert [line.split() for line in result.out.splitlines()] == [
        ["JOB", "NAME", "STATUS", "DONE", "LOSS", "AGE", "MODEL", "OWNER"],
        ["job-1", "fib", "running/train", "25%", "0.333", age(NOW), "tiny", "jane"],
    ]
    assert result.err == "there are older ones\n"


def test_a_job_is_shown_whole(service: RestService, tunesmith: Command) -> None:
    assert json.loads(tunesmith("job", "job-1").out) == service.job


def test_adapters_are_listed_in_columns(service: RestService, tunesmith: Command) -> None:
    result = tunesmith("adapters")

    assert result.out.splitlines()[1].split() == ["a-1", "tiny", "lora", "16", "2.5", "MB", age(NOW)]


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_a_log_is_printed_to_its_end(service: RestService, tunesmith: Command, follow: tuple[str, ...]) -> None:
    service.log = "loading\nstep 1\nstep 2\n"

    assert tunesmith("logs", "job-1", *follow).out == service.log


@pytest.mark.parametrize(
    ("command", "request_line"),
    [
        ("cancel", "POST /jobs/job-1/cancel"),
        ("pause", "POST /jobs/job-1/pause"),
        ("resume", "POST /jobs/job-1/resume"),
        ("checkpoint", "POST /jobs/job-1/checkpoint"),
        ("delete", "DELETE /jobs/job-1"),
    ],
)
def test_a_job_is_changed_by_its_id(service: RestService, tunesmith: Command, command: str, request_line: str) -> None:
    assert tunesmith(command, "job-1").code == 0
    assert service.requests[-1] == request_line


def test_an_answer_is_printed_as_it_comes(service: RestService, tunesmith: Command) -> None:
    service.answer = [("delta", {"text": "1\u2028"}), ("delta", {"text": "44"}), ("finish", {"checkpoint": None})]

    result = tunesmith("generate", "--adapter", "a-1", "--system", "be short", "--temperature", "0", "after 89?")

    assert (result.out, result.err) == ("1\u202844\n", "")
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "after 89?"}]
    assert service.bodies == [{"adapter": "a-1", "messages": messages, "temperature": 0.0, "stream": True}]


def test_a_checkpoint_that_answers_is_named(service: RestService, tunesmith: Command) -> None:
    service.answer = [("finish", {"model": "job-1@step-40", "checkpoint": {"job": "job-1", "step": 40}})]

    result = tunesmith("generate", "--adapter", "job-1", "after 89?").err
    assert result == "answered by job-1@step-40: a checkpoint, which was not verified\n"


def test_an_answer_that_breaks_off_is_an_error(service: RestService, tunesmith: Command) -> None:
    error = {"code": "engine_unavailable", "message": "the engine ended", "details": []}
    service.answer = [("delta", {"text": "1"}), ("error", {"error": error})]

    result = tunesmith("generate", "--model", "tiny", "after 89?")

    assert (result.code, result.err) == (1, "engine_unavailable: the engine ended\n")


def test_without_a_service_the_command_says_how_to_start_one(tunesmith: Command) -> None:
    result = tunesmith("jobs", "--url", "http://127.0.0.1:1")

    assert result.code == 1
    assert result.err == "no service at http://127.0.0.1:1; start one with `tunesmith up`\n"


def test_another_program_at_the_url_is_recognised(tunesmith: Command) -> None:
    other = FastAPI()
    other.add_api_route("/jobs", lambda: Response("<html>hello</html>"))
    with serving(other) as url:
        result = tunesmith("jobs", "--url", url)

    assert (result.code, result.err) == (1, f"what answers at {url} is not Tunesmith\n")


def test_a_setting_that_is_wrong_is_named(tunesmith: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LEASE_SECONDS", "soon")

    result = tunesmith("up")

    assert result.code == 1
    assert result.err == "TUNESMITH_LEASE_SECONDS: found 'soon', expected a valid number\n"
