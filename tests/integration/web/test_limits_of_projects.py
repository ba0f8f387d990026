"""Limits of projects and keys: what is beyond one is refused by its name, and other projects feel nothing."""

from datetime import timedelta
from typing import Any

import pytest

from app.access import usage
from app.access.limits import Limits
from app.access.quotas import month_start
from app.access.usage import UsageKey
from app.accounts import service
from app.contracts.generation import Usage
from app.database.connection import utc_now
from app.generate.metering import Meter
from app.jobs.queue import claims
from app.jobs.states import JobStatus, Stage
from app.scope import EVERY_PROJECT
from tests.integration.web.test_keys_on_routes import Team, team
from tests.support.callers import ANYONE
from tests.support.jobs import NOW, add_job
from tests.support.jobs_api import hub_body
from tests.support.scripted_engine import add_adapter

__all__ = ["team"]
CHAT = {"messages": [{"role": "user", "content": "q"}]}


def limit(team: Team, **limits: int) -> None:
    with team.database.writer() as session:
        service.set_limits(session, ANYONE, "a", Limits(**limits))


def use(team: Team, **counts: float) -> None:
    with team.database.writer() as session:
        usage.add(session, EVERY_PROJECT, UsageKey(utc_now().date(), "a", "key-x"), **counts)
        session.commit()


def refused(answer: Any, status: int = 429) -> tuple[str, str]:
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert status == 507 or int(answer.headers["retry-after"]) >= 1
    return error["code"], error["param"]


def test_requests_a_minute_of_a_key_and_of_a_project(team: Team) -> None:
    limit(team, requests_per_minute=3)
    of_project, of_key, other = (
        team.key("read"),
        team.key("read", project="b", limits={"requests_per_minute": 2}),
        team.key("read", project="b"),
    )

    def ask(key: str) -> list[int]:
        return [team.ask("GET", "/jobs", key).status_code for _ in range(4)]

    assert (ask(of_project), ask(of_key), ask(other)) == ([200, 200, 200, 429], [200, 200, 429, 429], [200] * 4)
    assert refused(team.ask("GET", "/jobs", of_key)) == ("limit_reached", "requests_per_minute")


def test_waiting_jobs_of_a_project_and_of_a_key(team: Team) -> None:
    limit(team, waiting_jobs=2)
    first, second, other = (
        team.key("jobs:write"),
        team.key("jobs:write"),
        team.key("jobs:write", project="b", limits={"waiting_jobs": 1}),
    )

    def post(key: str) -> Any:
        return team.ask("POST", "/jobs", key, json=hub_body())

    assert [post(key).status_code for key in (first, second, first, other, other)] == [201, 201, 429, 201, 429]
    assert refused(post(second)) == ("limit_reached", "waiting_jobs")


def test_waiting_jobs_of_a_key_of_every_project_are_those_of_all_projects(team: Team) -> None:
    key = team.key("jobs:write", project=None, limits={"waiting_jobs": 1})

    posted = [team.ask("POST", "/jobs", key, json={**hub_body(), "project": each}) for each in ("a", "b")]

    assert posted[0].status_code == 201
    assert refused(posted[1]) == ("limit_reached", "waiting_jobs")


def test_files_of_a_project(team: Team) -> None:
    row = b'{"prompt": "q", "completion": "a"}\n'
    limit(team, file_bytes=len(row) * 3)
    key, other = team.key("files:write"), team.key("files:write", project="b")

    def upload(key: str) -> Any:
        return team.ask("POST", "/files", key, files={"file": ("a.jsonl", row * 2)})

    assert [upload(each).status_code for each in (key, key, other)] == [201, 507, 201]
    assert refused(upload(key), 507) == ("limit_reached", "file_bytes")
    assert len([*(team.settings.root / "files").iterdir()]) == 2


def test_gpu_minutes_of_a_month(team: Team) -> None:
    limit(team, gpu_minutes_per_month=10)
    key, other = team.key("jobs:write"), team.key("jobs:write", project="b")
    use(team, gpu_seconds=599.0)
    assert team.ask("POST", "/jobs", key, json=hub_body()).status_code == 201

    use(team, gpu_seconds=1.0)

    assert refused(team.ask("POST", "/jobs", key, json=hub_body())) == ("limit_reached", "gpu_minutes_per_month")
    assert team.ask("POST", "/jobs", other, json=hub_body()).status_code == 201
    assert month_start().day == 1


def test_tokens_of_a_day(team: Team) -> None:
    limit(team, tokens_per_day=100)
    key, other = team.key("generate"), team.key("generate", project="b", limits={"tokens_per_day": 100})
    use(team, prompt_tokens=60, completion_tokens=40)

    answers = [team.ask("POST", "/generate", each, json={"model": "org/m", **CHAT}) for each in (key, other)]

    assert refused(answers[0]) == ("limit_reached", "tokens_per_day")
    assert answers[1].status_code != 429


def test_tokens_count_in_the_project_of_the_adapter(team: Team) -> None:
    limit(team, tokens_per_day=5)
    key = team.key("generate", "read", project=None)
    adapter = add_adapter(team.database, team.settings.root / "adapters", project="a")

    answers = []
    for _ in range(2):
        answers.append(team.ask("POST", "/generate", key, json={"adapter": adapter.id, **CHAT}))
        team.api.app.state.meter._store()  # type: ignore[attr-defined]

    assert answers[0].status_code == 200
    assert refused(answers[1]) == ("limit_reached", "tokens_per_day")
    assert [row["project"] for row in team.ask("GET", "/usage", key).json()["data"]] == ["a"]


@pytest.mark.parametrize("project", ["a", None])
def test_streams_of_a_project(team: Team, project: str | None) -> None:
    limit(team, streams=0)
    job_id = add_job(team.database, JobStatus.SUCCEEDED, project="a")
    key = team.key("read", project=project)

    assert refused(team.ask("GET", f"/jobs/{job_id}/stream", key)) == ("limit_reached", "streams")


@pytest.mark.parametrize(
    ("limits", "seconds"), [({"running_jobs": 1}, 0.0), ({"gpu_minutes_per_month": 1}, 60.0)], ids=["running", "gpu"]
)
def test_a_project_at_its_limit_is_passed_over_and_says_why(team: Team, limits: dict[str, int], seconds: float) -> None:
    limit(team, **limits)
    use(team, gpu_seconds=seconds)
    add_job(team.database, JobStatus.RUNNING, project="a", worker="w")
    waiting = add_job(team.database, JobStatus.QUEUED, project="a", priority=100)
    other = add_job(team.database, JobStatus.QUEUED, project="b")

    with team.database.writer() as session:
        taken = [claims.claim(session, Stage.TRAIN, f"w{n}", "s", utc_now()) for n in range(2)]
        session.commit()

    assert [job.id if job else None for job in taken] == [other, None]
    reason = team.ask("GET", f"/jobs/{waiting}", team.key("read")).json()["queue"]["reason"]
    assert next(iter(limits)) in reason or "no train worker" in reason


def test_where_projects_may_train_nothing_one_with_limits_of_its_own_may(team: Team) -> None:
    limit(team, running_jobs=1)
    add_job(team.database, JobStatus.QUEUED, project="b", priority=100)
    own = add_job(team.database, JobStatus.QUEUED, project="a")

    with team.database.writer() as session:
        taken = claims.claim(session, Stage.TRAIN, "w", "s", utc_now(), default_limits=Limits(running_jobs=0))

    assert taken is not None
    assert taken.id == own


def test_a_training_is_counted_at_its_end(team: Team) -> None:
    job_id = add_job(team.database, JobStatus.QUEUED, project="a", gpus=2, created_by="key-y")
    with team.database.writer() as session:
        job = claims.claim(session, Stage.TRAIN, "w", "s", NOW)
        assert job is not None
        held = claims.Claim(job_id, job.epoch, Stage.TRAIN, "w")
        end = NOW + timedelta(seconds=30)
        claims.finish(session, held, JobStatus.FAILED, end, outcome="failed", reason=None)
        session.commit()

    params = {"by": ["project", "key"], "since": NOW.date().isoformat()}
    report = team.ask("GET", "/usage", team.key("read"), params=params).json()

    assert [(row["project"], row["key"], row["gpu_seconds"]) for row in report["data"]] == [("a", "key-y", 60.0)]


def test_answers_are_counted_by_adapter_and_day(team: Team) -> None:
    meter = Meter(team.database)
    used = Usage.model_validate({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12})
    for is_first in (True, False):
        meter.add("a", "key-x", "adapter-1", used, is_first=is_first)
    meter.close()

    report = team.ask("GET", "/usage", team.key("read"), params={"by": ["adapter", "day"]}).json()

    (row,) = report["data"]
    assert (row["adapter"], row["requests"], row["prompt_tokens"], row["completion_tokens"]) == ("adapter-1", 1, 5, 14)
    assert row["day"] == utc_now().date().isoformat()


def test_a_key_sees_the_usage_of_its_own_project(team: Team) -> None:
    use(team, jobs=1)

    assert team.ask("GET", "/usage", team.key("read", project="b")).json()["data"] == []
    assert team.ask("GET", "/usage", team.key("read")).json()["data"][0]["jobs"] == 1
