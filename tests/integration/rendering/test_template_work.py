"""A template that takes too much work is refused once for all rows, after a few seconds of computing."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.contracts.events import Failed
from app.contracts.order import BaseRef
from app.contracts.records import ChatRecord
from app.contracts.spec import JobSpec
from tests.chat_formats import FORMATS, ChatFormat
from tests.chat_formats.learner import Learner, assistant, user
from tests.support.prepared_rows import a_check, failure_of, run
from tests.support.specs import a_body
from tests.support.tiny_model import build_tiny_model
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import load_renderer
from worker.rendering.rows import Learned, tokenise
from worker.rendering.work import Work

ALWAYS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
# Some tenths of a second for a message of 2,000 characters.
BY_LENGTH = "{% for c in messages[0].content %}{% for i in range(5000) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))


def with_head(base: Path, head: str) -> Path:
    """The base, with a template that begins so."""
    template = base / "chat_template.jinja"
    plain = template.read_text().rpartition("{#-#}")[2]
    template.write_text(f"{head}{{#-#}}{plain}")
    return base


def refused(base: Path, folder: Path, rows: int, length: int, **dataset: Any) -> Failed:
    """How a check of rows with questions of a length ends."""
    row = {"messages": [{"role": "user", "content": "x" * length}, {"role": "assistant", "content": "b"}]}
    (folder / "train.jsonl").write_text(f"{json.dumps(row)}\n" * rows)
    body = a_body(model={"max_seq_length": 128}, dataset={"source": {"path": "train.jsonl"}, **dataset})
    ref = BaseRef(source=str(base), is_local=True)
    return failure_of(run(a_check(folder, JobSpec.model_validate(body), ref, folder / "train.jsonl")))


def test_a_template_that_no_few_words_can_be_written_by_is_refused_before_a_row(base: Path, tmp_path: Path) -> None:
    failed = refused(with_head(base, ALWAYS), tmp_path, 12, 1, on_bad_row="drop")

    assert (failed.code, failed.param, failed.details) == ("template_too_expensive", "model.chat_template", [])


def test_rows_that_take_too_much_work_together_end_the_check(base: Path, tmp_path: Path) -> None:
    failed = refused(with_head(base, BY_LENGTH), tmp_path, 300, 2000, on_bad_row="drop")

    assert failed.code == "template_too_expensive"
    assert 2 <= int(failed.message.rpartition("it was stopped at record ")[2]) < 300


def test_a_prompt_is_refused_as_soon(base: Path) -> None:
    renderer = load_renderer(with_head(base, ALWAYS))

    for _ in range(20):
        with pytest.raises(RowRefused, match="does more work than a chat needs"):
            renderer.prompt_ids([user("a")])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_chats_in_a_public_format_take_less_than_they_may(form: ChatFormat) -> None:
    learner, work = Learner(form), Work()
    turns = [turn for _ in range(20) for turn in (user("word " * 50), assistant("word " * 50))]

    for length in (2, 40):
        tokenise(ChatRecord(messages=turns[:length]), learner.renderer, Learned(), work)

        assert work.overdrawn == 0
