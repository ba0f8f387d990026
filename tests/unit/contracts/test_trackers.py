"""What a spec may say of trackers, and which servers an operator may allow."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.contracts.no_effect import by_spec
from app.contracts.plan import plan_of
from app.contracts.trackers import host_of, read_hosts
from app.errors import InvalidRequest
from app.jobs.trainings import check_trackers
from tests.support.specs import a_spec

URL = "https://mlflow.example/path"


def tracked(**training: Any) -> Any:
    return a_spec(training=training)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("none", []), (None, []), (["none"], []), ("wandb", ["wandb"]), (["mlflow", "trackio"], ["mlflow", "trackio"])],
)
def test_report_to_is_taken_as_transformers_takes_it(sent: Any, meant: list[str]) -> None:
    assert tracked(report_to=sent).training.report_to == meant


@pytest.mark.parametrize(
    "training",
    [
        {"report_to": "all"},
        {"report_to": ["wandb", "wandb"]},
        {"report_to": "wandb", "tracker_urls": {"mlflow": URL}},
        {"report_to": "trackio", "tracker_urls": {"trackio": URL}},
        {"report_to": "mlflow", "tracker_urls": {"mlflow": "https://user:password@mlflow.example"}},
        {"report_to": "mlflow", "tracker_urls": {"mlflow": "file:///etc"}},
        {"report_to": "mlflow", "tracker_urls": {"mlflow": "https://"}},
    ],
)
def test_what_no_tracker_could_do_is_refused(training: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tracked(**training)


def test_a_run_name_without_a_tracker_is_a_notice() -> None:
    assert [notice.code for notice in by_spec(plan_of(tracked(run_name="a run")))] == ["run_name_unused"]
    assert by_spec(plan_of(tracked(run_name="a run", report_to="wandb"))) == []


def test_a_url_has_a_host_and_a_port() -> None:
    urls = [URL, "http://MLflow.example:5000", "http://[::1]"]

    assert [host_of(url) for url in urls] == ["mlflow.example:443", "mlflow.example:5000", "::1:80"]


def test_a_server_has_to_be_allowed_by_the_operator() -> None:
    spec = tracked(report_to="mlflow", tracker_urls={"mlflow": URL})
    check_trackers(spec, "other:1, MLFLOW.example:443")

    with pytest.raises(InvalidRequest, match=r"TUNESMITH_TRACKER_HOSTS=mlflow\.example:443") as refused:
        check_trackers(spec, "mlflow.example:5000")

    assert (refused.value.status, refused.value.param) == (422, "training.tracker_urls.mlflow")


@pytest.mark.parametrize("hosts", ["mlflow.example", "https://mlflow.example:443", "a:0", "a:99999", ":5"])
def test_a_setting_that_names_no_host_and_port_stops_the_start(hosts: str) -> None:
    with pytest.raises(ValidationError, match="tracker_hosts"):
        Settings(tracker_hosts=hosts)

    with pytest.raises(ValueError, match="expected host:port"):
        read_hosts(hosts)
