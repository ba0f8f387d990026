"""Turns one record into token ids and labels. The trained tokens of every record are decoded again and compared."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.contracts.records import ChatRecord, CompletionRecord, Message, Record, TextRecord
from app.contracts.rows import IGNORED
from worker.rendering.answers import END_OF_THINKING, answer_changed, compare, escaped, shown
from worker.rendering.control import GUARD
from worker.rendering.encoded import Encoded
from worker.rendering.masking import Chat, LearnedSpan, Prefixes, Span, marked_spans, tokens_of
from worker.rendering.refusal import RowRefused
from worker.rendering.renderer import Renderer
from worker.rendering.tool_support import check_tools
from worker.rendering.work import Work

# The number of tokens before a run of labels that are decoded with it.
CONTEXT_TOKENS = 8
# The number of answers at the start and at the end of a chat whose prompts are rendered and compared.
COMPARED_ANSWERS = 2

# Remarks about a record that is trained on; the report names the records of each.
FINDINGS = {
    "system_folded": "the chat template has no system role: the system message is put at the start of the user message",
    "tools_as_text": "the chat template does not support tools: calls, results and definitions are written as text",
    "special_tokens_in_content": "messages contain control tokens, which are encoded as plain text",
    "special_tokens_in_text": "control tokens in raw text or a prompt take effect; bos and eos are not added twice",
    "thinking_left_out": "the chat template leaves out the thinking of an answer",
    "thinking_unpaired": "an answer has </think> with no <think> before it, or the reverse, and is trained on so",
    "text_added": "the chat template adds text to an answer, which is trained on too",
    "answer_rewritten": "the chat template changes blanks around the thinking of an answer, or writes escapes",
    "content_left_out": "the chat template leaves out or changes a part of a message",
    "name_left_out": "the chat template leaves out the name of a message",
    "prompt_differs": "the prompt of /generate differs from the text before an answer: it may open a thinking block",
    "prompt_tokens_differ": "the prompt of /generate has other tokens than the text before an answer",
    "prompt_found": "the chat template ignores add_generation_prompt: the text that it writes before an answer is not "
    "trained on, and /generate adds it after the question",
    "no_end_token": "an answer does not end in a token that ends generation: the model may not learn to stop",
    "border_token": "a token extends over the start or end of an answer, and is not trained on",
    "decoded_differently": "the tokenizer changes the text: the trained tokens decode to another text",
}


@dataclass(frozen=True)
class Learned:
    """Which tokens have loss. The fields are those of `DatasetSpec`."""

    train_on: Literal["responses", "last_response", "all"] = "responses"
    instruction_part: str | None = None
    response_part: str | None = None

    def marked(self, text: str) -> list[Span] | None:
        """The spans between the markers. Returns None if there are no markers."""
        if self.instruction_part is None or self.response_part is None:
            return None
        return marked_spans(text, self.instruction_part, self.response_part)

    @property
    def finds_turns(self) -> bool:
        """Whether the answers are trained on where the template writes them."""
        return self.train_on != "all" and self.response_part is None

    def turns(self, messages: Sequence[Message]) -> list[int]:
        """The indexes of the messages that are trained on."""
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        chosen = answers[-1:] if self.train_on == "last_response" else answers
        return [index for index in chosen if messages[index].carries_loss]


@dataclass
class TokenRow:
    """The ids of a whole record. `labels` has the id where a token has loss, -100 elsewhere.

    `columns` are the further ones of the training method. `findings` are codes of FINDINGS. `named` has texts for some
    of them: control tokens of the record, or texts of the template.
    """

    input_ids: list[int]
    labels: list[int]
    columns: dict[str, Any] = field(default_factory=dict)
    findings: set[str] = field(default_factory=set)
    named: dict[str, list[str]] = field(default_factory=dict)

    @property
    def supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)


def tokenise(record: Record, renderer: Renderer, learned: Learned, work: Work | None = None) -> TokenRow:
    """Raises RowRefused if the template refuses the record, or nothing of it would be trained on.

    `work` is the budget of the template for this record and others together.
    """
    match record:
        case ChatRecord():
            row = _chat(record, renderer, learned, work)
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
    """The ids of the prompt equal those that /generate makes of it, whatever follows."""
    if learned.response_part is not None:
        raise RowRefused(
            "unused_markers",
            found="a prompt with its completion, together with instruction_part and response_part",
            expected="no markers: the completion is trained on",
            field="dataset.response_part",
        )
    text, border = record.prompt + record.completion, len(record.prompt)
    spans = [(0, len(text))] if learned.train_on == "all" else [(border, len(text))]
    row = _row(renderer, text, renderer.encode_split(text, [border]), spans)
    _note_control(text, renderer, row)
    return _with_ends(row, renderer)


def _note_control(text: str, renderer: Renderer, row: TokenRow) -> None:
    tokens = renderer.control.found_in(text)
    if tokens:
        row.findings.add("special_tokens_in_text")
        row.named["special_tokens_in_text"] = sorted(tokens)


def _with_ends(row: TokenRow, renderer: Renderer) -> TokenRow:
    """Add one BOS if the tokenizer uses one, and one EOS, which has loss if the token before it has."""
    opening, eos = renderer.opening, renderer.tokenizer.eos_token_id
    if row.input_ids[: len(opening)] != opening:
        row.input_ids, row.labels = [*opening, *row.input_ids], [*opening, *row.labels]
    row.labels[: len(opening)] = [IGNORED] * len(opening)  # it is never generated
    if eos is not None and row.input_ids[-1:] != [eos]:
        is_learned = bool(row.labels) and row.labels[-1] != IGNORED
        row.input_ids, row.labels = [*row.input_ids, eos], [*row.labels, eos if is_learned else IGNORED]
    return row


def _chat(record: ChatRecord, renderer: Renderer, learned: Learned, work: Work | None) -> TokenRow:
    chat = renderer.prefixes(record.messages, record.tools, work=work)
    findings = _folded(record, chat, renderer)
    check_tools(chat, renderer)
    turns = _turns(chat, renderer, learned)
    spans = _learned_spans(chat, learned, turns)
    encoded = renderer.encode_chat(chat)
    row = _row(renderer, chat.text, encoded, spans, is_guarded=bool(chat.hidden))
    _note_answers(row, chat, turns, learned, renderer)
    findings |= _lost_content(chat, turns) | _missing_ends(chat.text, spans, renderer, learned)
    row.findings |= findings | _other_prompts(chat, encoded, turns, renderer)
    if chat.hidden:
        row.named["special_tokens_in_content"] = sorted(chat.hidden)
    if renderer.traits.found_prompt:
        row.named["prompt_found"] = [shown(renderer.traits.found_prompt)]
    return row


def _folded(record: ChatRecord, chat: Prefixes, renderer: Renderer) -> set[str]:
    """Findings for parts of a record that are moved, or written as text."""
    findings = {"special_tokens_in_content"} if chat.hidden else set()
    if record.messages[0].role == "system" and chat.messages[0].role != "system":
        findings.add("system_folded")
    if record.has_tools and not renderer.traits.knows_tools:
        findings.add("tools_as_text")
    return findings


def _missing_ends(text: str, spans: Sequence[Span], renderer: Renderer, learned: Learned) -> set[str]:
    """The finding for answers without an end token, which train the model never to stop."""
    ends = renderer.end_tokens
    is_whole = learned.train_on == "all"
    answers = (text[:end].rstrip() for _, end in spans)
    misses = not any(end in text for end in ends) if is_whole else any(not one.endswith(ends) for one in answers)
    return {"no_end_token"} if misses else set()


def _turns(chat: Prefixes, renderer: Renderer, learned: Learned) -> dict[int, LearnedSpan]:
    """The spans of the trained answers by message index. Empty if they cannot be located and are not needed."""
    indexes = learned.turns(chat.messages)
    try:
        return dict(zip(indexes, Chat(chat, renderer.end_tokens).turns(indexes), strict=True))
    except RowRefused:
        if learned.finds_turns:
            raise
        return {}


def _learned_spans(chat: Prefixes, learned: Learned, turns: Mapping[int, LearnedSpan]) -> list[Span]:
    if learned.train_on == "all":
        return [(0, len(chat.text))]
    marked = learned.marked(chat.text)
    if marked is not None:
        _refuse_weights(chat.messages)
        return marked
    return [(turn.start, turn.end) for turn in turns.values()]


def _refuse_weights(messages: Sequence[Message]) -> None:
    """Markers do not distinguish answers, so an answer of weight 0 would be trained on."""
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.carries_loss:
            raise RowRefused(
                "markers_and_weights",
                found="a message of weight 0, together with instruction_part and response_part",
                expected="weights or markers, not both",
                field=f"messages[{index}].weight",
            )


def _note_answers(
    row: TokenRow, chat: Prefixes, turns: Mapping[int, LearnedSpan], learned: Learned, by: Renderer
) -> None:
    """Note answers whose text differs from the record's. Raises RowRefused if the content of one is changed."""
    added: list[str] = []
    for index, turn in turns.items():
        text = chat.text[turn.start : turn.end]
        difference = compare(chat.messages[index], text, chat.text[: turn.start], by.end_tokens)
        if difference.is_changed and learned.finds_turns:
            raise answer_changed(index)
        row.findings |= difference.findings | ({"content_left_out"} if difference.is_changed else set())
        added += map(shown, difference.added)
    if added:
        row.named["text_added"] = list(dict.fromkeys(added))


def _lost_content(chat: Prefixes, turns: Collection[int]) -> set[str]:
    """Findings for content that the template leaves out. Answers at `turns` are checked elsewhere."""
    findings = set()
    for index, message in enumerate(chat.messages):
        content = message.content.strip()
        if message.name is not None and message.name not in chat.text:
            findings.add("name_left_out")
        if index in turns or content in chat.text or escaped(content) in chat.text:
            continue
        is_thought = message.role == "assistant" and END_OF_THINKING in content
        findings.add("thinking_left_out" if is_thought else "content_left_out")
    return findings


def _other_prompts(chat: Prefixes, encoded: Encoded, turns: Mapping[int, LearnedSpan], renderer: Renderer) -> set[str]:
    """Findings for answers whose prompt in /generate would be different."""
    findings = set()
    for index, turn in turns.items():
        is_compared = index in (*list(turns)[:COMPARED_ANSWERS], *list(turns)[-COMPARED_ANSWERS:])
        if not turn.follows_prompt or (is_compared and chat.has_other_prompt(index, turn.start)):
            findings.add("prompt_differs")
        elif not renderer.has_prompt_tokens(chat, encoded, turn.start):
            findings.add("prompt_tokens_differ")
    return findings


def _row(
    renderer: Renderer, text: str, encoded: Encoded, spans: Sequence[Span], *, is_guarded: bool = False
) -> TokenRow:
    """Set the labels of the spans; each trained run is decoded again and compared with its text."""
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
