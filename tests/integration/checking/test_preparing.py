"""From a file to the rows of a job, by the checker as the worker starts it: what is kept, left out, split, cached."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.contracts.events import AttemptEvent, Noticed, RowsChecked, SourcesChecked
from app.contracts.methods.sft import SFT
from app.contracts.order import BaseRef
from app.contracts.rows import EVAL_ROWS, IGNORED, TOKENIZER, TRAIN_ROWS
from app.contracts.spec import JobSpec
from tests.support.prepared_rows import a_check, failure_of, report_of, run
from tests.support.specs import a_body
from tests.support.tiny_model import END, build_tiny_model
from worker.checking.pipeline import CHUNK_RECORDS, Pipeline
from worker.checking.prepared import FolderCache
from worker.checking.rows import Tokeniser
from worker.checking.tokens import batches
from worker.rendering.renderer import load_renderer
from worker.rendering.rows import Learned

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


CHATS = [chat(f"question {n}", f"answer {n}") for n in range(10)]
LONG = chat("word " * 200, "lost")


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(base: Path, folder: Path, rows: Rows, evaluation: Rows | None = None, **groups: Any) -> list[AttemptEvent]:
    """One check of rows with a limit of 128 tokens."""
    model = {"max_seq_length": 128, **groups.pop("model", {})}
    dataset = groups.pop("dataset", {})
    if evaluation is not None:
        dataset = {**dataset, "eval_source": {"path": "eval.jsonl"}}
    body = a_body(model=model, dataset={"source": {"path": "train.jsonl"}, **dataset}, **groups)
    eval_file = write(folder / "eval.jsonl", evaluation) if evaluation is not None else None
    ref = BaseRef(source=str(base), is_local=True)
    return run(a_check(folder, JobSpec.model_validate(body), ref, write(folder / "train.jsonl", rows), eval_file))


def table(folder: Path, name: str = TRAIN_ROWS) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(batches(folder / "data" / name)).to_pylist())


def taught(folder: Path, row: dict[str, Any]) -> str:
    labels = [label for label in row["labels"] if label != IGNORED]
    return load_renderer(folder / "data" / TOKENIZER).decode(labels)


def test_every_record_becomes_a_row_with_its_number(base: Path, tmp_path: Path) -> None:
    events = check(base, tmp_path, CHATS)
    rows = table(tmp_path)

    assert isinstance(events[-1], SourcesChecked)
    assert [row["record"] for row in rows] == list(range(1, 11))
    assert [taught(tmp_path, row) for row in rows] == [f"answer {n}{END}" for n in range(10)]


def test_the_report_says_what_the_rows_are_in_tokens(base: Path, tmp_path: Path) -> None:
    report = report_of(check(base, tmp_path, [*CHATS, CHATS[0]]))["train"]
    rows = table(tmp_path)

    assert report["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert report["supervised_tokens"] == sum(row["supervised"] for row in rows)
    assert sum(bucket["rows"] for bucket in report["row_tokens"]["histogram"]) == 11
    assert report["duplicates"] == 1


def test_an_answer_behind_the_limit_is_left_out_by_its_number_and_length(base: Path, tmp_path: Path) -> None:
    events = check(base, tmp_path, [CHATS[0], LONG, CHATS[1]])
    report = report_of(events)["train"]

    assert [row["record"] for row in table(tmp_path)] == [1, 3]
    assert [(out["code"], out["records"]) for out in report["left_out"]] == [("answer_cut_away", [2])]
    assert report["long_records"][0]["record"] == 2
    assert report["long_records"][0]["tokens"] > 200
    assert [event.code for event in events if isinstance(event, Noticed)] == ["answer_cut_away"]


def test_control_tokens_that_records_hold_are_named_and_no_others(base: Path, tmp_path: Path) -> None:
    report = report_of(check(base, tmp_path, [CHATS[0], chat(f"end {END}", "a")]))["train"]

    (finding,) = report["findings"]
    assert (finding["code"], finding["records"]) == ("special_tokens_in_content", [2])
    assert finding["message"].endswith(f": {END}")


def test_an_answer_over_the_limit_is_cut_and_counted(base: Path, tmp_path: Path) -> None:
    report = report_of(check(base, tmp_path, [CHATS[0], chat("a", "word " * 200)]))["train"]
    row = table(tmp_path)[1]

    assert len(row["input_ids"]) == 128
    assert row["cut"] == report["truncated_tokens"] > 100
    assert report["long_records"][0]["learned_tokens_cut"] == row["cut"] - 1  # the line break behind the end token


def test_long_rows_can_be_dropped_or_fail_the_job(base: Path, tmp_path: Path) -> None:
    rows = [CHATS[0], CHATS[1], chat("a", "word " * 200)]
    dropped = report_of(check(base, tmp_path, rows, dataset={"on_long_row": "drop"}))["train"]
    failed = failure_of(check(base, tmp_path, rows, dataset={"on_long_row": "fail", "on_bad_row": "drop"}))

    assert [(out["code"], out["records"]) for out in dropped["left_out"]] == [("too_long", [3])]
    assert (failed.code, failed.details[0]["record"], failed.details[0]["line"]) == ("too_long", 3, 3)


def test_no_more_than_the_stated_share_is_left_out(base: Path, tmp_path: Path) -> None:
    failed = failure_of(check(base, tmp_path, [*CHATS, LONG], dataset={"max_dropped_fraction": 0.05}))

    assert failed.code == "too_many_dropped"
    assert "1 of 11 records" in failed.message


NO_USER = {"messages": [{"role": "assistant", "content": "hi", "weight": 1}, {"role": "tool", "content": "x"}]}
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('the user goes first') }}{% endif %}"


def strict_base(base: Path, folder: Path) -> Path:
    target = folder / "strict"
    target.mkdir()
    for path in base.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    template = target / "chat_template.jinja"
    template.write_text(STRICT + template.read_text())
    return target


def test_a_record_that_the_template_refuses_is_named_with_its_line(base: Path, tmp_path: Path) -> None:
    failed = failure_of(check(strict_base(base, tmp_path), tmp_path, [CHATS[0], NO_USER, CHATS[1]]))

    assert (failed.code, failed.param) == ("template_refused", "dataset.source")
    assert (failed.details[0]["record"], failed.details[0]["line"]) == (2, 2)
    assert "the user goes first" in failed.details[0]["found"]


def test_a_record_that_the_template_refuses_can_be_dropped(base: Path, tmp_path: Path) -> None:
    rows = [CHATS[0], NO_USER, CHATS[1]]
    report = report_of(check(strict_base(base, tmp_path), tmp_path, rows, dataset={"on_bad_row": "drop"}))

    assert [row["record"] for row in table(tmp_path)] == [1, 3]
    assert [(out["code"], out["records"]) for out in report["train"]["left_out"]] == [("template_refused", [2])]


def test_wrong_markers_fail_before_a_step_with_their_names(base: Path, tmp_path: Path) -> None:
    markers = {"instruction_part": "<|user|>", "response_part": "<|assistant|>"}
    failed = failure_of(check(base, tmp_path, CHATS, dataset=markers))

    assert failed.code == "nothing_to_learn"
    assert "0 of 10 records have a supervised token" in failed.message
    assert "<|assistant|>" in failed.message


def test_evaluation_rows_that_are_trained_on_are_named(base: Path, tmp_path: Path) -> None:
    events = check(base, tmp_path, CHATS, [chat("new", "new"), CHATS[3]])
    report = report_of(events)

    assert report["overlap"] == {"count": 1, "records": [2]}
    assert report["eval"]["rows"] == 2
    assert [event.code for event in events if isinstance(event, Noticed)] == ["eval_rows_trained_on"]


def test_a_split_is_the_same_for_the_same_seed_and_keeps_every_row(base: Path, tmp_path: Path) -> None:
    dataset = {"eval_fraction": 0.3}
    check(base, tmp_path, CHATS, dataset=dataset)
    first = [row["record"] for row in table(tmp_path, EVAL_ROWS)]
    check(base, tmp_path, CHATS, dataset=dataset)

    assert [row["record"] for row in table(tmp_path, EVAL_ROWS)] == first
    assert sorted(first + [row["record"] for row in table(tmp_path)]) == list(range(1, 11))


def test_one_row_is_not_split_and_the_report_says_so(base: Path, tmp_path: Path) -> None:
    report = report_of(check(base, tmp_path, CHATS[:1], dataset={"eval_fraction": 0.1}))

    assert report["split"]["reason"] == "1 records are too few to split"
    assert "eval" not in report


def test_a_file_changed_in_place_with_its_size_and_time_is_read_anew(base: Path, tmp_path: Path) -> None:
    """`datasets` would answer with the old rows here."""
    first = report_of(check(base, tmp_path, [chat("version?", "ONE")]))["prepared"]
    stamp = (tmp_path / "train.jsonl").stat()
    path = write(tmp_path / "train.jsonl", [chat("version?", "TWO")])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = report_of(check(base, tmp_path, [chat("version?", "TWO")]))["prepared"]

    assert path.stat().st_size == stamp.st_size
    assert taught(tmp_path, table(tmp_path)[0]) == f"TWO{END}"
    assert (first["source_sha256"] == second["source_sha256"], second["from_cache"]) == (False, False)


def test_the_same_rows_and_settings_are_prepared_once(base: Path, tmp_path: Path) -> None:
    first, second = (report_of(check(base, tmp_path, CHATS)) for _ in range(2))

    assert [first["prepared"]["from_cache"], second["prepared"]["from_cache"]] == [False, True]
    assert first["train"] == second["train"]
    assert len(table(tmp_path)) == 10


@pytest.mark.parametrize(
    "groups",
    [
        {"model": {"max_seq_length": 64}},
        {"dataset": {"train_on": "all"}},
        {"dataset": {"on_long_row": "drop"}},
        {"training": {"method": "cpt"}},
    ],
    ids=str,
)
def test_other_settings_are_other_rows(base: Path, tmp_path: Path, groups: dict[str, Any]) -> None:
    first, second = report_of(check(base, tmp_path, CHATS)), report_of(check(base, tmp_path, CHATS, **groups))

    assert first["prepared"]["key"] != second["prepared"]["key"]
    assert second["prepared"]["from_cache"] is False


def test_the_same_bytes_under_a_name_that_is_read_otherwise_are_other_rows(base: Path, tmp_path: Path) -> None:
    """Content without a structure of its own is a table or a text by its name."""
    ref, bodies = BaseRef(source=str(base), is_local=True), []
    for name in ("rows.csv", "rows.txt"):
        path = tmp_path / name
        path.write_text("text,note\none,1\ntwo,2\n")
        spec = JobSpec.model_validate(a_body(dataset={"source": {"path": name}, "format": "text"}))
        run(a_check(tmp_path, spec, ref, path))
        bodies.append([taught(tmp_path, row) for row in table(tmp_path)])

    assert bodies == [[f"one{END}", f"two{END}"], [f"text,note{END}", f"one,1{END}", f"two,2{END}"]]


def test_what_killed_builds_left_is_removed_and_a_running_one_is_not(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, 0)
    spare, _ = cache.fetch("a", lambda folder: (folder / "x").touch())
    dead, alive = tmp_path / ".partial-dead", tmp_path / ".partial-alive"
    for partial in (dead, alive):
        partial.mkdir()
    os.utime(dead, (0, 0))

    cache.trim(spare)

    assert {path.name for path in tmp_path.iterdir()} == {"a", ".partial-alive"}


def test_a_damaged_source_leaves_nothing_in_the_cache(base: Path, tmp_path: Path) -> None:
    check(base, tmp_path, [{"messages": []}])

    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_rows_through_several_processes_are_those_of_one_in_the_same_order(base: Path, tmp_path: Path) -> None:
    """As large a file as goes to several processes, with refusals and cuts in it."""
    rows = [chat(f"q{n}" * (n % 90), f"a{n} " * (n % 60 + 1)) for n in range(6 * CHUNK_RECORDS)]
    rows[700] = {"messages": [{"role": "user", "content": "x" * 4 * 2**20}, {"role": "assistant", "content": "y"}]}
    dataset = {"on_bad_row": "drop", "max_dropped_fraction": 0.9}
    one = report_of(check(base, tmp_path, rows, dataset={**dataset, "dataset_num_proc": 1}))
    alone = table(tmp_path)
    (tmp_path / "cache").rename(tmp_path / "aside")
    events = check(base, tmp_path, rows, dataset={**dataset, "dataset_num_proc": 3})

    assert table(tmp_path) == alone
    assert report_of(events)["train"] == one["train"]


def test_a_pipeline_that_is_left_by_an_error_leaves_no_process(base: Path, tmp_path: Path) -> None:
    tokeniser = Tokeniser(load_renderer(base), Learned(), 128, "cut", SFT)

    with pytest.raises(KeyError), Pipeline(tokeniser, tmp_path / TRAIN_ROWS, processes=2):
        raise KeyError

    assert batches(tmp_path / TRAIN_ROWS) is not None


def test_the_check_of_a_large_file_says_how_far_it_is(base: Path, tmp_path: Path) -> None:
    rows = [chat(f"question {n}", "word " * 60) for n in range(30_000)]
    told = [event for event in check(base, tmp_path, rows) if isinstance(event, RowsChecked)]

    assert told
    assert [event.records for event in told] == sorted(event.records for event in told)
    assert all(0 < event.bytes_read <= (event.total_bytes or 0) for event in told)
