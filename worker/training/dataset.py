"""From records to tokens and labels. Every row and token is used, or named in the report, or the job is refused."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from app.contracts.records import ChatRecord, CompletionRecord, Record, TextRecord
from worker.failures import UserError
from worker.training.masking import IGNORED, Rendered, UnmaskableTemplate, labels_of, render_chat

RECORD: TypeAdapter[Record] = TypeAdapter(Record)
# Record numbers named in a report or an error, of each kind.
NAMED = 20


@dataclass(frozen=True)
class Row:
    """One tokenised record: `labels` has the id where a token carries loss, -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass
class TokenReport:
    """What the records became, in tokens. Record numbers count from 1."""

    lengths: list[int] = field(default_factory=list)
    supervised: int = 0
    truncated: list[int] = field(default_factory=list)
    truncated_tokens: int = 0

    def summary(self, max_seq_length: int) -> dict[str, Any]:
        return {
            "rows": len(self.lengths),
            "tokens": sum(self.lengths),
            "supervised_tokens": self.supervised,
            "max_seq_length": max_seq_length,
            "longest_row_tokens": max(self.lengths),
            "mean_row_tokens": round(statistics.fmean(self.lengths), 1),
            "truncated_rows": len(self.truncated),
            "truncated_records": self.truncated[:NAMED],
            "truncated_tokens": self.truncated_tokens,
        }


class Tokens:
    """Renders and tokenises records with the very tokenizer and template that training and serving use."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, end_tokens: Sequence[str], *, all_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._end_tokens = end_tokens
        self._all_tokens = all_tokens

    def rows(self, path: Path) -> tuple[list[Row], TokenReport]:
        """All rows of a records file. Raises UserError naming the records that cannot be learned from."""
        report, rows, empty = TokenReport(), [], []
        for number, record in enumerate(read_records(path), 1):
            row = self._row(record, number, report)
            rows.append(row)
            if row.supervised == 0:
                empty.append(number)
        if empty:
            raise UserError(
                "nothing_to_learn",
                f"{len(empty)} of {len(rows)} records have no supervised token (records {_named(empty)})",
                hint="their answers may lie behind max_seq_length, or hold no assistant turn with loss",
                param="dataset.train_on",
            )
        return rows, report

    def _row(self, record: Record, number: int, report: TokenReport) -> Row:
        ids, labels = self._tokenise(record, number)
        if len(ids) > self._max_seq_length:
            report.truncated.append(number)
            report.truncated_tokens += len(ids) - self._max_seq_length
        row = Row(ids[: self._max_seq_length], labels[: self._max_seq_length])
        report.lengths.append(len(row.input_ids))
        report.supervised += row.supervised
        return row

    def _tokenise(self, record: Record, number: int) -> tuple[list[int], list[int]]:
        """Ids and labels of a whole record."""
        match record:
            case TextRecord():
                ids = self._ids(record.text)
                return self._with_ends(ids, list(ids))
            case CompletionRecord():
                # Apart, as /generate will tokenise the prompt: no token reaches over the border.
                prompt, completion = self._ids(record.prompt), self._ids(record.completion)
                asked = prompt if self._all_tokens else [IGNORED] * len(prompt)
                return self._with_ends(prompt + completion, asked + completion)
            case ChatRecord():
                rendered = self._render_chat(record, number)
                encoded = self._tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
                ids = list(encoded["input_ids"])
                return ids, labels_of(ids, encoded["offset_mapping"], rendered.spans)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render_chat(self, chat: ChatRecord, number: int) -> Rendered:
        def render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
            text = self._tokenizer.apply_chat_template(
                messages, tools=chat.tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            return str(text)

        try:
            rendered = render_chat(chat, render, self._end_tokens, all_tokens=self._all_tokens)
        except UnmaskableTemplate as error:
            hint = 'dataset.train_on "all" trains every token of it'
            raise UserError(
                "template_not_maskable", f"record {number}: {error}", hint=hint, param="model.chat_template"
            ) from error
        except Exception as error:
            if type(error).__module__.startswith("jinja2"):
                raise UserError(
                    "template_refused",
                    f"record {number}: the chat template refuses it: {error}",
                    param="model.chat_template",
                ) from error
            raise

        _refuse_lost_tools(chat, rendered.text, number)
        return rendered

    def _with_ends(self, ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        """Exactly one BOS in front where the tokenizer has the habit, exactly one EOS behind, and that one learned."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if bos is not None and self._puts_bos() and (not ids or ids[0] != bos):
            ids, labels = [bos, *ids], [IGNORED, *labels]
        if eos is not None and (not ids or ids[-1] != eos):
            ids, labels = [*ids, eos], [*labels, eos]
        return ids, labels

    def _puts_bos(self) -> bool:
        ids = self._tokenizer("a")["input_ids"]
        return bool(ids) and ids[0] == self._tokenizer.bos_token_id


def _refuse_lost_tools(chat: ChatRecord, text: str, number: int) -> None:
    """Many templates leave tool calls out without a word; what is not in the text is not learned."""
    calls = [call["function"]["name"] for message in chat.messages for call in message.tool_calls or []]
    offered = [tool["function"]["name"] for tool in chat.tools or []]
    lost = [name for name in [*calls, *offered] if name not in text]
    if lost:
        raise UserError(
            "template_without_tools",
            f"record {number}: the chat template leaves out the tool {lost[0]}",
            hint="take a model or a chat_template that renders tools, or leave them out of the data",
            param="model.chat_template",
        )


def read_records(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield RECORD.validate_json(line)


def _named(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:NAMED]))
    return f"{shown}, …" if len(numbers) > NAMED else shown
