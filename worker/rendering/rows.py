"""One record as token ids and labels. What is learned of it is checked by decoding it again, for every record."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record, TextRecord
from app.contracts.rows import IGNORED
from worker.rendering.control import GUARD
from worker.rendering.encoded import Encoded
from worker.rendering.folding import Tools
from worker.rendering.masking import Chat, Prefixes, Span, marked_spans, tokens_of
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer

END_OF_THINKING = "</think>"
# Tokens before a run of labels that are decoded along with it.
CONTEXT_TOKENS = 8

# What may be worth a look in a record that is trained on; the report names the records of each.
FINDINGS = {
    "system_folded": "the chat template has no system role: the system message stands at the head of the user's turn",
    "tools_as_text": "the chat template knows no tools: calls, results and definitions stand in messages as text",
    "special_tokens_in_content": "control tokens inside messages: encoded as plain text",
    "special_tokens_in_text": "control tokens in raw text or a prompt: taken as such; no second bos or eos is added",
    "thinking_left_out": "the chat template leaves out the thinking of an earlier answer",
    "content_left_out": "the chat template leaves out, or rewrites, part of a message that is not learned",
    "name_left_out": "the chat template leaves out the name of a message",
    "prompt_differs": "/generate asks for an answer with more than what stands before it here: it may begin a thought",
    "no_end_token": "an answer does not end in a token that ends generation: the model may not learn to stop",
    "border_token": "a token reaches over the border of an answer, and is not learned",
    "decoded_differently": "the tokenizer changes the text: what is learned decodes to something else",
}


@dataclass(frozen=True)
class Learned:
    """Which tokens carry loss; the fields of `DatasetSpec` under the same names."""

    train_on: Literal["responses", "last_response", "all"] = "responses"
    instruction_part: str | None = None
    response_part: str | None = None

    def marked(self, text: str) -> list[Span] | None:
        """The spans that the markers name; None where there are no markers."""
        if self.instruction_part is None or self.response_part is None:
            return None
        return marked_spans(text, self.instruction_part, self.response_part)

    def turns(self, messages: Sequence[Message]) -> list[int]:
        """Indexes of the messages that are learned."""
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        chosen = answers[-1:] if self.train_on == "last_response" else answers
        return [index for index in chosen if messages[index].carries_loss]


@dataclass
class TokenRow:
    """Ids of a whole record; `labels` has the id where a token carries loss, -100 elsewhere.

    `findings` are codes of FINDINGS, `control_tokens` those that the record itself holds.
    """

    input_ids: list[int]
    labels: list[int]
    findings: set[str] = field(default_factory=set)
    control_tokens: frozenset[str] = frozenset()

    @property
    def supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)


def tokenise(record: Record, renderer: Renderer, learned: Learned) -> TokenRow:
    """Raises RowRefused for a record that the template does not take, or of which nothing would be learned."""
    match record:
        case ChatRecord():
            row = _chat(record, renderer, learned)
        case CompletionRecord():
            row = _completion(record, renderer, learned)
        case TextRecord():
            row = _text(record, renderer, learned)
    if row.supervised == 0:
        raise _nothing_to_learn(learned)
    return row


def _text(record: TextRecord, renderer: Renderer, learned: Learned) -> TokenRow:
    encoded = renderer.encode(record.text)
    spans = learned.marked(record.text)
    row = _row(renderer, record.text, encoded, [(0, len(record.text))] if spans is None else spans)
    _note_control(record.text, renderer, row)
    return _with_ends(row, renderer)


def _completion(record: CompletionRecord, renderer: Renderer, learned: Learned) -> TokenRow:
    """The prompt's ids are those that /generate gives the same prompt, whatever follows it."""
    if learned.response_part is not None:
        raise RowRefused(
            "unused_markers",
            found="a prompt with its completion, beside instruction_part and response_part",
            expected="no markers: the completion is what is learned",
            field="dataset.response_part",
        )
    text, border = record.prompt + record.completion, len(record.prompt)
    spans = [(0, len(text))] if learned.train_on == "all" else [(border, len(text))]
    row = _row(renderer, text, renderer.encode_split(text, [border]), spans)
    _note_control(text, renderer, row)
    return _with_ends(row, renderer)


def _note_control(text: str, renderer: Renderer, row: TokenRow) -> None:
    row.control_tokens = frozenset(renderer.control.found_in(text))
    if row.control_tokens:
        row.findings.add("special_tokens_in_text")


def _with_ends(row: TokenRow, renderer: Renderer) -> TokenRow:
    """One opening in front where the tokenizer has the habit, one EOS behind, learned if what it ends is learned."""
    opening, eos = renderer.opening, renderer.tokenizer.eos_token_id
    if row.input_ids[: len(opening)] != opening:
        row.input_ids, row.labels = [*opening, *row.input_ids], [*opening, *row.labels]
    row.labels[: len(opening)] = [IGNORED] * len(opening)  # nobody generates it
    if eos is not None and row.input_ids[-1:] != [eos]:
        is_learned = bool(row.labels) and row.labels[-1] != IGNORED
        row.input_ids, row.labels = [*row.input_ids, eos], [*row.labels, eos if is_learned else IGNORED]
    return row


def _chat(record: ChatRecord, renderer: Renderer, learned: Learned) -> TokenRow:
    chat = renderer.prefixes(record.messages, record.tools)
    findings = {"special_tokens_in_content"} if chat.hidden else set()
    has_system = record.messages[0].role == "system"
    if has_system and chat.messages[0].role != "system":
        findings.add("system_folded")
    if record.has_tools and not renderer.knows_tools:
        findings.add("tools_as_text")
    _check_tools(list(chat.messages), chat.tools, chat.text, renderer)
    findings |= _lost_content(chat, learned)
    spans = _learned_spans(chat, renderer, learned, findings)
    row = _row(renderer, chat.text, renderer.encode_chat(chat), spans, is_guarded=bool(chat.hidden))
    row.control_tokens = chat.hidden
    row.findings |= findings | _missing_ends(chat.text, spans, renderer, learned)
    return row


def _missing_ends(text: str, spans: Sequence[Span], renderer: Renderer, learned: Learned) -> set[str]:
    """Without an end token behind them, answers are learned that never end."""
    ends = renderer.end_tokens
    is_whole = learned.train_on == "all"
    said = (text[:end].rstrip() for _, end in spans)
    misses = not any(end in text for end in ends) if is_whole else any(not one.endswith(ends) for one in said)
    return {"no_end_token"} if misses else set()


def _learned_spans(chat: Prefixes, renderer: Renderer, learned: Learned, findings: set[str]) -> list[Span]:
    if learned.train_on == "all":
        return [(0, len(chat.text))]
    marked = learned.marked(chat.text)
    if marked is not None:
        _refuse_weights(chat.messages)
        return marked
    indexes = learned.turns(chat.messages)
    turns = Chat(chat, renderer.end_tokens).turns(indexes)
    for index, turn in zip(indexes, turns, strict=True):
        _check_answer(chat.messages[index], chat.text[turn.start : turn.end], index)
    if not all(turn.is_asked_for for turn in turns):
        findings.add("prompt_differs")
    return [(turn.start, turn.end) for turn in turns]


def _refuse_weights(messages: Sequence[Message]) -> None:
    """Markers tell no turn from another, so that one without loss would be learned."""
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.carries_loss:
            raise RowRefused(
                "markers_and_weights",
                found="a turn of weight 0, beside instruction_part and response_part",
                expected="weights or markers, not both",
                field=f"messages[{index}].weight",
            )


def _check_answer(message: Message, learned: str, index: int) -> None:
    """What is learned of a turn is what it says; only thinking may be missing."""
    content = message.content.strip()
    said = content.rpartition(END_OF_THINKING)[2].strip()
    if content not in learned and said not in learned and _escaped(content) not in learned:
        raise RowRefused(
            "answer_changed",
            found="a chat template that writes something else than this answer",
            expected="a template that keeps answers as they are",
            field=f"messages[{index}].content",
        )


def _lost_content(chat: Prefixes, learned: Learned) -> set[str]:
    """Findings for what the template leaves out. A learned answer is checked where it stands."""
    findings, turns = set(), set(learned.turns(chat.messages))
    for index, message in enumerate(chat.messages):
        content = message.content.strip()
        if message.name is not None and message.name not in chat.text:
            findings.add("name_left_out")
        if content in chat.text or _escaped(content) in chat.text:
            continue
        if message.role == "assistant" and END_OF_THINKING in content:
            findings.add("thinking_left_out")
        elif index not in turns:
            findings.add("content_left_out")
    return findings


def _escaped(content: str) -> str:
    """As templates write what stands inside of JSON."""
    return json.dumps(content, ensure_ascii=False)[1:-1]


def _check_tools(messages: list[Message], tools: Tools | None, text: str, renderer: Renderer) -> None:
    """Many templates leave tools out without a word: then the text is the same without them."""
    for index, message in enumerate(messages):
        if message.tool_calls:
            without = [*messages[:index], message.model_copy(update={"tool_calls": None}), *messages[index + 1 :]]
            _check_written(
                message.tool_calls, f"messages[{index}].tool_calls", text, _text_of(without, tools, renderer)
            )
    if tools:
        _check_written(tools, "tools", text, _text_of(messages, None, renderer))


def _text_of(messages: list[Message], tools: Tools | None, renderer: Renderer) -> str | None:
    try:
        return renderer.render(messages, tools)
    except RowRefused:
        return None


def _check_written(tools: Tools, where: str, text: str, without: str | None) -> None:
    names = [str(tool["function"]["name"]) for tool in tools]
    lost = names[0] if text == without else next((name for name in names if name not in text), None)
    if lost is not None:
        raise RowRefused(
            "template_without_tools",
            found=f"the tool {lost}, which the chat template leaves out",
            expected="a model or a chat_template that renders tools, or rows without them",
            field=where,
        )


def _row(
    renderer: Renderer, text: str, encoded: Encoded, spans: Sequence[Span], *, is_guarded: bool = False
) -> TokenRow:
    """Labels by the spans; each learned run is decoded again and held against its text."""
    row = TokenRow(encoded.ids, [IGNORED] * len(encoded.ids))
    for start, end in spans:
        first, last = tokens_of(text, encoded.offsets, (start, end))
        if first == last:
            continue
        row.labels[first:last] = encoded.ids[first:last]
        covered = text[encoded.offsets[first][0] : encoded.offsets[last - 1][1]]
        if covered.strip() != text[start:end].strip():
            row.findings.add("border_token")
        before = encoded.ids[max(0, first - CONTEXT_TOKENS) : first]
        decoded = renderer.decode(encoded.ids[first:last], before)
        if decoded.rstrip() != (covered.replace(GUARD, "") if is_guarded else covered).rstrip():
            row.findings.add("decoded_differently")
    return row


def _nothing_to_learn(learned: Learned) -> RowRefused:
    if learned.response_part is not None:
        return RowRefused(
            "nothing_to_learn",
            found=f"no supervised token: response_part {learned.response_part!r} is not in the rendered text",
            expected="instruction_part and response_part as the chat template writes them, or none",
            field="dataset.response_part",
        )
    return RowRefused(
        "nothing_to_learn", found="no supervised token", expected="an answer with loss on at least one token"
    )
