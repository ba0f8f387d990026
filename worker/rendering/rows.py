"""One record as token ids and labels. What is learned of it is checked by decoding it again, for every record."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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

# Tokens before a run of labels that are decoded along with it.
CONTEXT_TOKENS = 8
# Answers at the start of a chat, and at its end, whose prompts are rendered to compare them.
ASKED_FOR = 2

# What may be worth a look in a record that is trained on; the report names the records of each.
FINDINGS = {
    "system_folded": "the chat template has no system role: the system message stands at the head of the user's turn",
    "tools_as_text": "the chat template knows no tools: calls, results and definitions stand in messages as text",
    "special_tokens_in_content": "control tokens inside messages: encoded as plain text",
    "special_tokens_in_text": "control tokens in raw text or a prompt: taken as such; no second bos or eos is added",
    "thinking_left_out": "the chat template leaves out the thinking of an answer",
    "thinking_unpaired": "an answer has </think> with no <think> before it, or the reverse, and is learned so",
    "text_added": "the chat template adds text to an answer, and it is learned with it",
    "answer_rewritten": "the chat template writes an answer in other characters: blanks about its thinking, escapes",
    "content_left_out": "the chat template leaves out, or rewrites, part of a message",
    "name_left_out": "the chat template leaves out the name of a message",
    "prompt_differs": "/generate asks for an answer with another text than stands before it: it may begin a thought",
    "prompt_tokens_differ": "/generate asks for an answer with other tokens than stand before it",
    "prompt_found": "the chat template ignores add_generation_prompt: what it writes before an answer is not learned, "
    "and stands behind the question of /generate",
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

    @property
    def finds_turns(self) -> bool:
        """Whether what is learned are the answers where they stand."""
        return self.train_on != "all" and self.response_part is None

    def turns(self, messages: Sequence[Message]) -> list[int]:
        """Indexes of the messages that are learned."""
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        chosen = answers[-1:] if self.train_on == "last_response" else answers
        return [index for index in chosen if messages[index].carries_loss]


@dataclass
class TokenRow:
    """Ids of a whole record; `labels` has the id where a token carries loss, -100 elsewhere.

    `findings` are codes of FINDINGS; `named` has texts for some of them: control tokens of the record, texts of the
    template.
    """

    input_ids: list[int]
    labels: list[int]
    findings: set[str] = field(default_factory=set)
    named: dict[str, list[str]] = field(default_factory=dict)

    @property
    def supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)


def tokenise(record: Record, renderer: Renderer, learned: Learned, work: Work | None = None) -> TokenRow:
    """Raises RowRefused for a record that the template does not take, or of which nothing would be learned.

    `work` is what the template may do for this record and others together.
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
    tokens = renderer.control.found_in(text)
    if tokens:
        row.findings.add("special_tokens_in_text")
        row.named["special_tokens_in_text"] = sorted(tokens)


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
    """Findings for what stands elsewhere than the record says, or as text."""
    findings = {"special_tokens_in_content"} if chat.hidden else set()
    if record.messages[0].role == "system" and chat.messages[0].role != "system":
        findings.add("system_folded")
    if record.has_tools and not renderer.traits.knows_tools:
        findings.add("tools_as_text")
    return findings


def _missing_ends(text: str, spans: Sequence[Span], renderer: Renderer, learned: Learned) -> set[str]:
    """Without an end token behind them, answers are learned that never end."""
    ends = renderer.end_tokens
    is_whole = learned.train_on == "all"
    said = (text[:end].rstrip() for _, end in spans)
    misses = not any(end in text for end in ends) if is_whole else any(not one.endswith(ends) for one in said)
    return {"no_end_token"} if misses else set()


def _turns(chat: Prefixes, renderer: Renderer, learned: Learned) -> dict[int, LearnedSpan]:
    """Where the learned answers stand, by their indexes. Empty where that cannot be told and need not be."""
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
    """Markers tell no turn from another, so that one without loss would be learned."""
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.carries_loss:
            raise RowRefused(
                "markers_and_weights",
                found="a turn of weight 0, beside instruction_part and response_part",
                expected="weights or markers, not both",
                field=f"messages[{index}].weight",
            )


def _note_answers(
    row: TokenRow, chat: Prefixes, turns: Mapping[int, LearnedSpan], learned: Learned, by: Renderer
) -> None:
    """Findings for learned answers whose text is not the record's. Raises RowRefused for one that is another text."""
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
    """Findings for what the template leaves out. Answers at `turns` are held against their own places."""
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
    """Findings for answers that /generate would ask for otherwise."""
    findings = set()
    for index, turn in turns.items():
        is_looked_at = index in (*list(turns)[:ASKED_FOR], *list(turns)[-ASKED_FOR:])
        if not turn.is_asked_for or (is_looked_at and chat.is_asked_otherwise(index, turn.start)):
            findings.add("prompt_differs")
        elif not renderer.is_asked_with(chat, encoded, turn.start):
            findings.add("prompt_tokens_differ")
    return findings


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
