"""Streamed answers as OpenAI's clients read them: chunks, a chunk of usage where it is asked for, and `[DONE]`."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from app.contracts.generation import EngineError, Finish, ScoredToken, TextDelta, Usage
from app.generate.asking import Piece, Reader, tool_names
from app.generate.client import as_service_error
from app.generate.stream import Opening, SseMessage
from app.openai.answers import CallPart, FunctionCall
from app.openai.scores import chat_logprobs, text_logprobs
from app.openai.service import Question, in_their_words, total

DONE: SseMessage = {"data": "[DONE]"}
Choice = dict[str, Any]


class ChatVoice:
    """The choices of a streamed chat: the role first, then pieces, then the reason of the end."""

    kind = "chat.completion.chunk"

    def __init__(self, index: int) -> None:
        self._index = index
        self._calls = 0

    def begin(self) -> Choice | None:
        return self._choice({"role": "assistant", "content": "", "refusal": None})

    def piece(self, piece: Piece) -> Choice:
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.calls:
            parts = [
                CallPart(id=call.id, function=FunctionCall(**call.function.model_dump())).model_dump()
                for call in piece.calls
            ]
            delta["tool_calls"] = [{"index": self._calls + place, **part} for place, part in enumerate(parts)]
            self._calls += len(parts)
        return self._choice(delta, tokens=piece.tokens) | told_ids(token_ids=piece.ids)

    def end(self, reason: str, prompt_ids: list[int] | None = None) -> Choice:
        return self._choice({}, reason) | told_ids(prompt_token_ids=prompt_ids)

    def _choice(
        self, delta: dict[str, Any], reason: str | None = None, tokens: list[ScoredToken] | None = None
    ) -> Choice:
        logprobs = chat_logprobs(tokens)
        told = logprobs.model_dump() if logprobs is not None else None
        return {"index": self._index, "delta": delta, "logprobs": told, "finish_reason": reason}


class TextVoice:
    """The choices of a streamed completion."""

    kind = "text_completion"

    def __init__(self, index: int) -> None:
        self._index = index
        self._offset = 0

    def begin(self) -> Choice | None:
        return None

    def piece(self, piece: Piece) -> Choice:
        logprobs = text_logprobs(piece.tokens, self._offset)
        self._offset += sum(len(token.token) for token in piece.tokens or ())
        told = logprobs.model_dump() if logprobs is not None else None
        choice = {"index": self._index, "text": piece.text, "logprobs": told, "finish_reason": None}
        return choice | told_ids(token_ids=piece.ids)

    def end(self, reason: str, prompt_ids: list[int] | None = None) -> Choice:
        choice = {"index": self._index, "text": "", "logprobs": None, "finish_reason": reason}
        return choice | told_ids(prompt_token_ids=prompt_ids)


Voice = ChatVoice | TextVoice


def told_ids(**ids: list[int] | None) -> dict[str, list[int]]:
    """Ids where they were asked for, under their names."""
    return {name: some for name, some in ids.items() if some is not None}


class Chunks:
    """Makes the messages of one stream. With `usage`, every chunk has the field, and the last one has its value."""

    def __init__(self, question: Question, voice: Callable[[int], Voice], *, has_usage: bool) -> None:
        self._question = question
        self._voices = [voice(index) for index in range(len(question.orders))]
        self._readers = [Reader(tool_names(order)) for order in question.orders]
        self._usages: dict[int, Usage] = {}
        self._has_usage = has_usage

    async def messages(self, opening: Opening, request_id: str | None) -> AsyncGenerator[SseMessage, None]:
        """Everything that is sent. Closing it cancels the generation."""
        for voice in self._voices:
            begin = voice.begin()
            if begin is not None:
                yield self._chunk([begin])
        async with aclosing(opening.events()) as events:
            async for place, event in events:
                if isinstance(event, EngineError):
                    yield self._error(event, request_id)
                    return
                for choice in self._choices(place, event):
                    yield self._chunk([choice])
        if self._has_usage:
            yield self._chunk([], self._usage())
        yield DONE

    def _choices(self, place: int, event: TextDelta | Finish) -> list[Choice]:
        voice, reader = self._voices[place], self._readers[place]
        piece = reader.finish() if isinstance(event, Finish) else reader.feed(event)
        found = [voice.piece(piece)] if piece.is_something else []
        if isinstance(event, Finish):
            self._usages[place] = event.usage
            found.append(voice.end(reader.reason(event), event.prompt_token_ids))
        return found

    def _chunk(self, choices: list[Choice], usage: dict[str, Any] | None = None) -> SseMessage:
        chunk = {"object": self._voices[0].kind, **self._question.head(), "choices": choices}
        if self._has_usage:
            chunk["usage"] = usage
        return {"data": json.dumps(chunk)}

    def _usage(self) -> dict[str, Any]:
        usages = [self._usages[place] for place in range(len(self._voices))]
        return total(self._question, usages).model_dump()

    def _error(self, error: EngineError, request_id: str | None) -> SseMessage:
        told = in_their_words(as_service_error(error), self._question)
        return {"data": json.dumps(told.body(request_id))}
