"""What a row becomes in tokens, and which of them carry loss, with a real tokenizer and its template."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.contracts.records import ChatRecord, CompletionRecord, Record, TextRecord
from tests.tiny_model import END, build_tiny_model
from worker.failures import UserError
from worker.training.dataset import Row, Tokens
from worker.training.masking import IGNORED

LIMIT = 128


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(build_tiny_model(tmp_path_factory.mktemp("tiny")))


def rows(tokenizer: Any, folder: Path, *records: Record, all_tokens: bool = False) -> list[Row]:
    path = folder / "records.jsonl"
    path.write_text("".join(record.model_dump_json() + "\n" for record in records))
    return Tokens(tokenizer, LIMIT, [END], all_tokens=all_tokens).rows(path)[0]


def learned(tokenizer: Any, row: Row) -> str:
    return str(tokenizer.decode([label for label in row.labels if label != IGNORED]))


def a_chat(*turns: tuple[str, str], **more: Any) -> ChatRecord:
    return ChatRecord.model_validate({"messages": [{"role": r, "content": c} for r, c in turns], **more})


CHAT = a_chat(("system", "s"), ("user", "a"), ("assistant", "first é"), ("user", "b"), ("assistant", "second 😀"))


def test_of_a_chat_exactly_the_answers_and_their_end_tokens_are_learned(tokenizer: Any, tmp_path: Path) -> None:
    row = rows(tokenizer, tmp_path, CHAT)[0]

    assert learned(tokenizer, row) == f"first é{END}second 😀{END}"
    assert (
        row.input_ids
        == tokenizer.apply_chat_template([message.for_template() for message in CHAT.messages], return_dict=True)[
            "input_ids"
        ]
    )


def test_of_a_chat_in_full_every_token_is_learned(tokenizer: Any, tmp_path: Path) -> None:
    row = rows(tokenizer, tmp_path, CHAT, all_tokens=True)[0]

    assert row.labels == row.input_ids


@pytest.mark.parametrize(("prompt", "completion"), [("Capital of Spain?", " Madrid"), ("Capital of Spain? ", "Madrid")])
def test_of_a_completion_it_and_one_end_token_are_learned(
    tokenizer: Any, tmp_path: Path, prompt: str, completion: str
) -> None:
    row = rows(tokenizer, tmp_path, CompletionRecord(prompt=prompt, completion=completion))[0]

    assert learned(tokenizer, row) == completion + END


@pytest.mark.parametrize("text", ["no end", f"an end{END}"])
def test_raw_text_ends_in_exactly_one_end_token(tokenizer: Any, tmp_path: Path, text: str) -> None:
    row = rows(tokenizer, tmp_path, TextRecord(text=text))[0]

    assert row.labels[-1] == tokenizer.eos_token_id
    assert row.labels.count(tokenizer.eos_token_id) == 1


def test_a_row_is_cut_at_the_limit_and_the_cut_is_counted(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(TextRecord(text="word " * 500).model_dump_json() + "\n")
    _, report = Tokens(tokenizer, LIMIT, [END], all_tokens=False).rows(path)
    summary = report.summary(LIMIT)

    assert (summary["truncated_records"], summary["longest_row_tokens"]) == ([1], LIMIT)
    assert summary["truncated_tokens"] > 0


def test_a_row_whose_answer_is_cut_away_is_named(tokenizer: Any, tmp_path: Path) -> None:
    lost = CompletionRecord(prompt="word " * 500, completion="answer")
    with pytest.raises(UserError, match=r"1 of 2 records have no supervised token \(records 2\)"):
        rows(tokenizer, tmp_path, CompletionRecord(prompt="a", completion="b"), lost)


def test_a_template_that_leaves_tools_out_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {}}}
    chat = a_chat(("user", "a"), ("assistant", "b"))
    asked = chat.model_copy(update={"tools": [call]})
    with pytest.raises(UserError, match="record 1: the chat template leaves out the tool get_weather"):
        rows(tokenizer, tmp_path, asked)
