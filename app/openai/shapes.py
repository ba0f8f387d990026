"""Answers as OpenAI's clients read them: one object; or chunks, with the usage if it is asked for, and `[DONE]`."""

import json
from collections import Counter
from typing import Any, ClassVar

from pydantic import BaseModel

from app.db import utc_now
from app.errors import ServiceError
from app.generate.exchange import SseMessage
from app.generate.parallel import AnswerEnd, AnswerPiece
from app.generate.schemas import Answer
from app.generate.service import Prepared, total_usage
from app.openai.answers import CallPart, ChatChoice, ChatCompletion, ChatMessage, TextChoice, TextCompletion
from app.openai.schemas import OpenAiRequest
from app.openai.scores import chat_logprobs, text_logprobs

Choice = dict[str, Any]


class ChunkShape:
    """What both kinds of answers have in common. With a usage, every chunk has the field, and the last its value."""

    kind: ClassVar[str]

    def __init__(self, body: OpenAiRequest, prepared: Prepared) -> None:
        order = prepared.order
        base = f"{order.base.source.rpartition('/')[2]}@{order.base.revision or 'local'}"
        self._head: dict[str, Any] = {
            "id": order.request_id,
            "created": int(utc_now().timestamp()),
            "model": prepared.target.name,
            "system_fingerprint": f"fp_{order.adapter.name if order.adapter else base}",
        }
        self._n = body.n
        self._places = range(len(prepared.orders))
        self._limit_name = body.limit_name
        self._wants_usage = body.wants_usage
        self._ends: dict[int, AnswerEnd] = {}

    def begin(self) -> list[SseMessage]:
        return []

    def message(self, place: int, event: AnswerPiece | AnswerEnd) -> SseMessage:
        if isinstance(event, AnswerPiece):
            return self._chunk([self._piece(place, event)])
        self._ends[place] = event
        return self._chunk([self._end(place, event)])

    def finish(self) -> list[SseMessage]:
        done: SseMessage = {"data": "[DONE]"}
        if not self._wants_usage:
            return [done]
        usage = total_usage([self._ends[place].usage for place in self._places], self._n)
        return [self._chunk([], usage.model_dump()), done]

    def failure(self, error: ServiceError, request_id: str | None) -> SseMessage:
        return {"data": json.dumps(error.body(request_id))}

    def renamed(self, error: ServiceError) -> ServiceError:
        names = {"max_new_tokens": self._limit_name, "adapter": "model", "prompt_token_ids": "prompt"}
        error.message = error.message.replace("max_new_tokens", self._limit_name).replace("prompt_token_ids", "prompt")
        error.param = names.get(error.param or "", error.param)
        return error

    def _piece(self, place: int, piece: AnswerPiece) -> Choice:
        raise NotImplementedError

    def _end(self, place: int, end: AnswerEnd) -> Choice:
        raise NotImplementedError

    def _chunk(self, choices: list[Choice], usage: dict[str, Any] | None = None) -> SseMessage:
        chunk = {"object": self.kind, **self._head, "choices": choices}
        return {"data": json.dumps(chunk | {"usage": usage} if self._wants_usage else chunk)}

    def _told(self, answers: list[Answer]) -> dict[str, Any]:
        return {"usage": total_usage([answer.usage for answer in answers], self._n), **self._head}


class ChatShape(ChunkShape):
    """The choices of a streamed chat: the role first, then pieces, then the reason of the end."""

    kind = "chat.completion.chunk"

    def __init__(self, body: OpenAiRequest, prepared: Prepared) -> None:
        super().__init__(body, prepared)
        self._calls: Counter[int] = Counter()

    def whole(self, answers: list[Answer]) -> ChatCompletion:
        choices = [_chat_choice(index, answer) for index, answer in enumerate(answers)]
        return ChatCompletion(choices=choices, **self._told(answers))

    def begin(self) -> list[SseMessage]:
        role = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk([_choice(place, delta=role)]) for place in self._places]

    def _piece(self, place: int, piece: AnswerPiece) -> Choice:
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            numbered = enumerate(piece.calls, self._calls[place])
            delta["tool_calls"] = [{"index": number, **call.model_dump()} for number, call in numbered]
            self._calls[place] += len(piece.calls)
        return _choice(place, chat_logprobs(piece.tokens), delta=delta) | _given(token_ids=piece.ids)

    def _end(self, place: int, end: AnswerEnd) -> Choice:
        return _choice(place, reason=end.reason, delta={}) | _given(prompt_token_ids=end.prompt_token_ids)


def _chat_choice(index: int, answer: Answer) -> ChatChoice:
    calls = [CallPart.model_validate(call.model_dump()) for call in answer.tool_calls or ()]
    return ChatChoice(
        index=index,
        message=ChatMessage(content=(answer.text or None) if calls else answer.text, tool_calls=calls or None),
        logprobs=chat_logprobs(answer.logprobs),
        finish_reason=answer.finish_reason,
        token_ids=answer.token_ids,
        prompt_token_ids=answer.prompt_token_ids,
    )


class TextShape(ChunkShape):
    """The choices of a streamed completion."""

    kind = "text_completion"

    def __init__(self, body: OpenAiRequest, prepared: Prepared) -> None:
        super().__init__(body, prepared)
        self._offsets: Counter[int] = Counter()

    def whole(self, answers: list[Answer]) -> TextCompletion:
        choices = [
            TextChoice(
                index=index,
                text=answer.text,
                logprobs=text_logprobs(answer.logprobs),
                finish_reason=answer.finish_reason,
                token_ids=answer.token_ids,
                prompt_token_ids=answer.prompt_token_ids,
            )
            for index, answer in enumerate(answers)
        ]
        return TextCompletion(choices=choices, **self._told(answers))

    def _piece(self, place: int, piece: AnswerPiece) -> Choice:
        logprobs = text_logprobs(piece.tokens, self._offsets[place])
        self._offsets[place] += sum(len(token.token) for token in piece.tokens or ())
        return _choice(place, logprobs, text=piece.text) | _given(token_ids=piece.ids)

    def _end(self, place: int, end: AnswerEnd) -> Choice:
        return _choice(place, reason=end.reason, text="") | _given(prompt_token_ids=end.prompt_token_ids)


def _choice(place: int, logprobs: BaseModel | None = None, reason: str | None = None, **content: Any) -> Choice:
    scores = logprobs.model_dump() if logprobs is not None else None
    return {"index": place, **content, "logprobs": scores, "finish_reason": reason}


def _given(**ids: list[int] | None) -> dict[str, list[int]]:
    """Ids where they were asked for, under their names."""
    return {name: some for name, some in ids.items() if some is not None}
