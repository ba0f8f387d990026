"""Answers as OpenAI's clients read them: one object; or chunks, with the usage if it is asked for, and `[DONE]`."""

import json
from abc import abstractmethod
from collections import Counter
from typing import Any, ClassVar

from pydantic import BaseModel

from app.contracts.generation import Usage
from app.database.connection import utc_now
from app.errors import ServiceError
from app.generate.exchange import ResponseShape, SseMessage, Whole
from app.generate.parallel import AnswerEnd, AnswerPiece
from app.generate.schemas import Answer
from app.generate.service import PreparedRequest, total_usage
from app.openai.answers import CallPart, ChatChoice, ChatCompletion, ChatMessage, TextChoice, TextCompletion
from app.openai.schemas import OpenAiRequest
from app.openai.scores import chat_logprobs, text_logprobs

Choice = dict[str, Any]


class OpenAiShape(ResponseShape[Whole]):
    """What both kinds of answers have in common. With a usage, every chunk has the field, and the last its value."""

    kind: ClassVar[str]

    def __init__(self, body: OpenAiRequest, prepared: PreparedRequest) -> None:
        order = prepared.order
        base = f"{order.base.source.rpartition('/')[2]}@{order.base.revision or 'local'}"
        self._head: dict[str, Any] = {
            "id": order.request_id,
            "created": int(utc_now().timestamp()),
            "model": prepared.target.name,
            "system_fingerprint": f"fp_{order.adapter.name if order.adapter else base}",
        }
        self._n = body.n
        self.places = range(len(prepared.orders))
        self._limit_name = body.limit_name
        self._wants_usage = body.wants_usage
        self._usages: dict[int, Usage] = {}

    @abstractmethod
    def choice(self, place: int, event: AnswerPiece | AnswerEnd) -> Choice: ...

    def message(self, place: int, event: AnswerPiece | AnswerEnd) -> SseMessage:
        if isinstance(event, AnswerEnd):
            self._usages[place] = event.usage
        return self.chunk([self.choice(place, event)])

    def finish(self) -> list[SseMessage]:
        usage = total_usage([self._usages[place] for place in self.places], self._n)
        return [*([self.chunk([], usage.model_dump())] if self._wants_usage else []), {"data": "[DONE]"}]

    def renamed(self, error: ServiceError) -> ServiceError:
        names = {"max_new_tokens": self._limit_name, "adapter": "model", "prompt_token_ids": "prompt"}
        error.message = error.message.replace("max_new_tokens", self._limit_name).replace("prompt_token_ids", "prompt")
        error.param = names.get(error.param or "", error.param)
        return error

    def chunk(self, choices: list[Choice], usage: dict[str, Any] | None = None) -> SseMessage:
        chunk = {"object": self.kind, **self._head, "choices": choices}
        return {"data": json.dumps(chunk | {"usage": usage} if self._wants_usage else chunk)}

    def totals(self, answers: list[Answer]) -> dict[str, Any]:
        return {"usage": total_usage([answer.usage for answer in answers], self._n), **self._head}


class ChatShape(OpenAiShape[ChatCompletion]):
    """The choices of a streamed chat: the role first, then pieces, then the reason of the end."""

    kind = "chat.completion.chunk"

    def __init__(self, body: OpenAiRequest, prepared: PreparedRequest) -> None:
        super().__init__(body, prepared)
        self._calls: Counter[int] = Counter()

    def whole(self, answers: list[Answer]) -> ChatCompletion:
        choices = [_chat_choice(index, answer) for index, answer in enumerate(answers)]
        return ChatCompletion(choices=choices, **self.totals(answers))

    def begin(self) -> list[SseMessage]:
        role = {"role": "assistant", "content": "", "refusal": None}
        choices = ({"index": place, "delta": role, "logprobs": None, "finish_reason": None} for place in self.places)
        return [self.chunk([choice]) for choice in choices]

    def choice(self, place: int, event: AnswerPiece | AnswerEnd) -> Choice:
        if isinstance(event, AnswerEnd):
            return _choice(place, {"delta": {}}, None, event)
        delta: dict[str, Any] = {"content": event.text} if event.text else {}
        if event.calls:
            numbered = enumerate(event.calls, self._calls[place])
            delta["tool_calls"] = [{"index": number, **call.model_dump()} for number, call in numbered]
            self._calls[place] += len(event.calls)
        return _choice(place, {"delta": delta}, chat_logprobs(event.tokens), event)


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


class TextShape(OpenAiShape[TextCompletion]):
    """The choices of a streamed completion."""

    kind = "text_completion"

    def __init__(self, body: OpenAiRequest, prepared: PreparedRequest) -> None:
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
        return TextCompletion(choices=choices, **self.totals(answers))

    def choice(self, place: int, event: AnswerPiece | AnswerEnd) -> Choice:
        if isinstance(event, AnswerEnd):
            return _choice(place, {"text": ""}, None, event)
        logprobs = text_logprobs(event.tokens, self._offsets[place])
        self._offsets[place] += sum(len(token.token) for token in event.tokens or ())
        return _choice(place, {"text": event.text}, logprobs, event)


def _choice(place: int, content: dict[str, Any], logprobs: BaseModel | None, event: AnswerPiece | AnswerEnd) -> Choice:
    scores = logprobs.model_dump() if logprobs is not None else None
    if isinstance(event, AnswerEnd):
        reason, ids = event.reason, {"prompt_token_ids": event.prompt_token_ids}
    else:
        reason, ids = None, {"token_ids": event.ids}
    choice = {"index": place, **content, "logprobs": scores, "finish_reason": reason}
    return choice | {name: some for name, some in ids.items() if some is not None}
