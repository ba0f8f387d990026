"""Datasets that users met trouble with, through the whole service: upload, job, check, and what would be learned.

How files are parsed is held by unit/datasets; here is what needs the model, or the service as a whole.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.dataset_cases import Accepted, Case, FailedCheck, Refused, lines, said
from tests.e2e.dataset_cases_accepted import ROWS
from tests.e2e.dataset_cases_asked import files_with, ids, places, send, trained, upload
from tests.e2e.dataset_cases_models import GEMMA, MISTRAL, build_models
from tests.e2e.dataset_cases_refused import CHECKS, GOOD, POSTS, SECRETS, UPLOADS
from tests.e2e.stack import MODEL, Stack, running
from tests.support.hub import Hub
from tests.support.hub import running as hub_running
from tests.support.tiny_model import END

# As many checks run at once in the service.
AT_ONCE = 4
HUB_TOKEN = "hf_CANARY0000000000000000000000000000"
Answers = dict[str, "Future[dict[str, Any]]"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def service(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    models = build_models(tmp_path_factory.mktemp("models"))
    home = tmp_path_factory.mktemp("d") / "home"
    with hub_running(Hub(tmp_path_factory.mktemp("hub"))) as hub:
        env = {"TUNESMITH_MODELS_DIR": str(models), "TUNESMITH_DATASETS_DIR": str(datasets)}
        hub_env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home.parent / "hf"), "HF_TOKEN": HUB_TOKEN}
        with running(home, {**env, **hub_env}) as stack:
            yield stack


@pytest.fixture(scope="module")
def packed_job(service: Stack) -> str:
    """TK-09: three short rows, packed. It is trained while the other cases are checked."""
    file_id = upload(service, Case("TK-09", lines(*({"text": f"short {number}"} for number in range(3)))))
    training = {"max_steps": 1, "packing": True}
    return service.submit(name="ok-name_1", dataset={"source": {"file": file_id}}, training=training)


@pytest.fixture(scope="module")
def answers(service: Stack, packed_job: str) -> Iterator[Answers]:
    """What POST /jobs/validate says to each case; a few are asked at once, so that all of them take half a minute."""

    def validate(case: Case) -> dict[str, Any]:
        spec = case.spec(upload(service, case))
        answer = service.api.post("/jobs/validate", json=spec, params={"preview": 20})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case.id: pool.submit(validate, case) for case in (*ROWS, *CHECKS)}


def by_id(cases: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


@by_id(ROWS)
def test_a_row_is_what_the_file_says_and_its_answers_are_learned(answers: Answers, case: Accepted) -> None:
    found = answers[case.id].result()
    assert found["valid"], found["error"]
    texts = [row["text"] for row in found["preview"]]

    assert [text for text in case.holds if not any(text in row for row in texts)] == []
    assert [text for text in case.lacks if any(text in row for row in texts)] == []
    assert [trained(row) for row in found["preview"]] == case.learned
    assert found["data_report"]["train"]["rows"] == len(case.learned)


@by_id([case for case in ROWS if case.reported or case.told])
def test_what_was_mended_left_out_or_odd_is_reported_by_record(answers: Answers, case: Accepted) -> None:
    report = answers[case.id].result()["data_report"]
    source, train = report["source"], report["train"]
    named = [*source["fixes"], *source["warnings"], *train["findings"], *train["left_out"]]
    found = {each["code"]: each["records"] for each in named}

    noticed = {notice["code"] for notice in answers[case.id].result()["notices"]}
    warned = [*source["warnings"], *train["findings"], *train["left_out"]]

    assert {code: found.get(code) for code in case.reported} == case.reported
    assert {each["code"] for each in warned} <= noticed
    assert [text for text in case.told if text not in json.dumps(report)] == []


@by_id([case for case in ROWS if not (case.reported or case.told)])
def test_of_a_file_that_needs_no_mending_nothing_is_reported(answers: Answers, case: Accepted) -> None:
    report = answers[case.id].result()["data_report"]
    source, train = report["source"], report["train"]

    assert [source[kind] for kind in ("fixes", "warnings", "ignored_keys", "problems")] == [[], [], [], []]
    assert [train[kind] for kind in ("findings", "left_out", "long_records")] == [[], [], []]


@by_id(CHECKS)
def test_what_only_the_model_can_tell_fails_the_check_by_name(answers: Answers, case: FailedCheck) -> None:
    found = answers[case.id].result()
    error = found["error"]

    assert (found["valid"], error["category"], error["code"]) == (False, "user_error", case.code)
    assert error["param"] == case.param
    assert places(error) == list(case.places)
    assert [text for text in case.says if text not in json.dumps(error, ensure_ascii=False)] == []


@by_id(POSTS)
def test_a_job_on_bad_rows_is_refused_with_all_of_them(service: Stack, case: Refused) -> None:
    answer = service.api.post("/jobs", json=case.spec(upload(service, case)))
    error = answer.json()["error"]

    assert (answer.status_code, error["code"], error["param"]) == (422, "invalid_dataset", "dataset.source")
    assert {found["code"] for found in error["details"]} == {case.code}
    assert places(error) == list(case.places)
    assert [text for text in case.says if text not in answer.text] == []


@by_id(UPLOADS)
def test_a_damaged_upload_is_refused_where_it_is_damaged(service: Stack, case: Refused) -> None:
    answer = send(service, case)
    error = answer.json()["error"]

    assert (answer.status_code, error["param"]) == (422, "file")
    assert [found["code"] for found in error["details"]] == [case.code]
    assert places(error) == list(case.places)
    assert [text for text in case.says if text not in answer.text] == []


@pytest.mark.parametrize("case_id", ["DS-21", "TK-06", "TK-07"])
def test_each_answer_ends_in_one_end_that_is_learned(answers: Answers, case_id: str) -> None:
    rows = answers[case_id].result()["preview"]
    ends = [trained(row)[-1].count(END) for row in rows]

    assert ends == [1] * len(rows)
    assert all(trained(row)[-1].endswith(END) for row in rows)


def test_a_text_that_brings_its_bos_has_one(answers: Answers) -> None:
    """CT-04."""
    (row,) = answers["CT-04"].result()["preview"]
    begin, end = ids(row)[0], ids(row)[-1]

    assert row["text"].count("<s>") == ids(row).count(begin) == 1
    assert row["text"].count("</s>") == ids(row).count(end) == 1


def test_a_prompt_that_brings_its_bos_has_one(service: Stack) -> None:
    """CT-04, as it is asked."""
    prompts = [f"{begin}[INST] ping [/INST]" for begin in ("<s>", "")]
    asked = [service.generate(model=MISTRAL, messages=None, prompt=prompt, max_new_tokens=1) for prompt in prompts]
    lengths = [answer.json()["usage"]["prompt_tokens"] for answer in asked]

    assert lengths[0] == lengths[1]


def test_control_tokens_in_a_message_end_no_turn(answers: Answers) -> None:
    """CT-09: two turns, so two starts and two ends, whatever is written in them."""
    hostile, plain, _ = answers["CT-09"].result()["preview"]
    start, end = ids(plain)[0], plain["spans"][1]["token_ids"][-1]

    assert hostile["text"].count("<|im_start|>") == 3
    assert [ids(hostile).count(token) for token in (start, end)] == [2, 2]


@pytest.mark.parametrize(("case_id", "model"), [("CT-02", GEMMA), ("CT-09", MODEL)])
def test_a_question_is_asked_in_the_tokens_that_it_was_learned_in(
    service: Stack, answers: Answers, case_id: str, model: str
) -> None:
    case = next(case for case in ROWS if case.id == case_id)
    messages = json.loads(case.content.splitlines()[0])["messages"]
    asked = service.generate(model=model, messages=messages[:-1], max_new_tokens=1).json()
    learned = answers[case_id].result()["preview"][0]

    assert asked["usage"]["prompt_tokens"] == len(learned["spans"][0]["token_ids"])


def test_text_of_any_script_comes_back_as_it_was_sent(service: Stack) -> None:
    """DS-36, as it is stored."""
    case = next(case for case in ROWS if case.id == "DS-36")
    file_id = upload(service, case)
    report = service.api.get(f"/files/{file_id}/report").json()
    sent = [json.loads(line)["messages"] for line in case.content.splitlines()]

    assert service.api.get(f"/files/{file_id}/content").content == case.content
    assert [[turn["content"] for turn in row["turns"]] for row in report["preview"]] == [
        [turn["content"] for turn in row] for row in sent
    ]


def test_a_file_that_is_changed_in_place_is_read_anew(service: Stack, datasets: Path) -> None:
    """IN-06: the same name, size and time of change."""
    path, learned, hashes = datasets / "daily.jsonl", [], []
    for word in ("OLD", "NEW"):
        path.write_bytes(lines(said("user: which?", f"assistant: {word}")))
        os.utime(path, (10**9, 10**9))
        spec = {**Case("IN-06", b"").spec(""), "dataset": {"source": {"path": path.name}}}
        found = service.api.post("/jobs/validate", json=spec).json()
        learned.append(trained(found["preview"][0]))
        hashes.append(found["data_report"]["prepared"]["source_sha256"])

    assert learned == [[f"OLD{END}"], [f"NEW{END}"]]
    assert len(set(hashes)) == 2


@pytest.fixture(scope="module")
def good_spec(service: Stack) -> dict[str, Any]:
    case = Case("good", lines(GOOD))
    return case.spec(upload(service, case))


def test_a_packed_job_on_a_few_short_rows_is_trained(service: Stack, packed_job: str) -> None:
    """TK-09."""
    job = service.wait(packed_job, "succeeded", "failed")
    row = service.api.get(f"/jobs/{packed_job}/data", params={"record": 3}).json()

    assert job["status"] == "succeeded", job["error"]
    assert job["data_report"]["train"]["rows"] == 3
    assert "training.packing" in [notice["field"] for notice in job["notices"]]
    assert trained(row) == [f"short 2{END}"]


def test_an_estimate_counts_what_a_job_is_trained_on(service: Stack, packed_job: str) -> None:
    job = service.wait(packed_job, "succeeded", "failed")
    spec = {**job["spec"], "training": {"num_train_epochs": 3}}

    found = service.api.post("/jobs/estimate", json=spec, timeout=120).json()
    (worker,) = found["workers"]

    assert (found["valid"], found["error"]) == (True, None)
    assert found["trained_parameters"] == job["data_report"]["parameters"]["trainable"]
    assert found["tokens"]["rows"] == 3
    assert found["tokens"]["total"] == 3 * job["data_report"]["train"]["tokens"]
    assert (found["tokens"]["steps"], worker["fits"], worker["layout"]["bits"]) == (3, None, 16)


@pytest.mark.parametrize("path", ["/jobs", "/jobs/validate", "/jobs/estimate"])
def test_a_secret_in_a_spec_is_never_said_again(
    service: Stack, good_spec: dict[str, Any], answers: Answers, path: str
) -> None:
    """SE-01, and the server's own token of IN-05: in no answer, and in no file of the service."""
    groups = {name: {**good_spec.get(name, {}), **value} for name, value in SECRETS.items() if isinstance(value, dict)}
    answer = service.api.post(path, json={**good_spec, **SECRETS, **groups})
    told = [answer.text, *(json.dumps(found.result()) for found in answers.values())]

    assert answer.status_code == 422
    assert {found["field"] for found in answer.json()["error"]["details"]} == {
        "hf_token", "env", "model.token", "training.hub_token",
    }  # fmt: skip
    assert not any("CANARY" in text for text in told)
    assert files_with(b"CANARY", service.home) == []
