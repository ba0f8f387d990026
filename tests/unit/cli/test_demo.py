"""The demo's data, its job, and how it judges an answer."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app.cli.demo import ANSWER, EXAMPLE, QUESTION, DemoModel, Exam, find_model, is_better, last_number
from app.contracts.spec import ALL_PROJECTIONS, JobSpec

SILENT: Any = None


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLE / name).read_text().splitlines()]


def questions() -> list[str]:
    chats = lines("fibonacci_train.jsonl")
    return [turn["value"] for chat in chats for turn in chat["conversations"] if turn["from"] == "human"]


def test_the_data_is_what_its_program_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(EXAMPLE / "make_fibonacci.py"), str(tmp_path)], check=True)

    for name in ("fibonacci_train.jsonl", "fibonacci_test.jsonl"):
        assert (tmp_path / name).read_bytes() == (EXAMPLE / name).read_bytes()


def test_no_question_that_is_asked_was_trained() -> None:
    asked = {QUESTION, *(line["prompt"] for line in lines("fibonacci_test.jsonl"))}

    assert len(asked) == 21
    assert not asked & set(questions())


def test_every_taught_answer_is_right() -> None:
    numbers = [1, 2]
    while len(numbers) < 40:
        numbers.append(numbers[-1] + numbers[-2])
    taught = {turn["value"] for chat in lines("fibonacci_train.jsonl") for turn in chat["conversations"][-1:]}

    right = {f"The Fibonacci number after {a} is {b}." for a, b in pairwise(numbers)}
    assert taught <= right


def test_the_set_holds_every_kind_of_chat() -> None:
    chats = [chat["conversations"] for chat in lines("fibonacci_train.jsonl")]

    assert len(chats) == 399
    assert sum(chat[0]["from"] == "system" for chat in chats) == 17
    assert sum(len(chat) == 4 for chat in chats) == 17


def test_the_job_has_the_arguments_of_the_page_and_half_of_its_rows_a_step() -> None:
    spec = JobSpec.model_validate_json((EXAMPLE / "job.json").read_text())

    assert (spec.lora.r, spec.lora.lora_alpha, spec.lora.lora_dropout, spec.lora.bias) == (16, 16, 0, "none")
    assert tuple(spec.lora.target_modules) == ALL_PROJECTIONS
    training = spec.training
    assert (training.optim, training.seed, training.lr_scheduler_type) == ("adamw_8bit", 3407, "linear")
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 2 * 4 // 2


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("The Fibonacci number after 89 is 144.", "144"),
        ("89, 144, 233", "233"),
        ("It is 14,930,352", "14930352"),
        ("89,144", "89144"),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_the_last_whole_number_is_the_answer(reply: str, number: str | None) -> None:
    assert last_number(reply) == number


@pytest.mark.parametrize(
    ("before", "after", "is_clear"), [(0, 10, True), (0, 9, False), (3, 13, True), (15, 20, True), (15, 19, False)]
)
def test_better_is_the_answer_of_the_page_and_half_of_the_questions_more(
    before: int, after: int, is_clear: bool
) -> None:
    assert is_better(Exam("", before), Exam(ANSWER, after), questions=20) is is_clear
    assert not is_better(Exam("", before), Exam("The number after 89 is 177.", after), questions=20)


def test_a_folder_with_a_model_is_taken_by_its_path_and_another_name_left_to_the_service(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")

    assert find_model(str(tmp_path / "tiny"), SILENT) == DemoModel("tiny", tmp_path)
    assert find_model("org/name", SILENT) == DemoModel("org/name", None)
