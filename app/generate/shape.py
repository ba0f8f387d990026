"""The answers of `POST /generate`: one object, or the events `delta`, then one `finish` or one `error`."""

import json
from typing import Any

from app.generate.exchange import ResponseShape, SseMessage
from app.generate.parallel import AnswerEnd, AnswerPiece
from app.generate.schemas import Answer, Ending, GenerateRequest, Generation
from app.generate.service import PreparedRequest, total_usage


class GenerationShape(ResponseShape[Generation]):
    def __init__(self, body: GenerateRequest, prepared: PreparedRequest) -> None:
        self._n = body.n
        target = prepared.target
        self._head: dict[str, Any] = {
            "id": prepared.order.request_id,
            "model": target.name,
            "adapter": target.adapter_id,
            "checkpoint": target.checkpoint,
            "sampling": prepared.order.sampling,
        }

    def whole(self, answers: list[Answer]) -> Generation:
        own, of_base = answers[: self._n], answers[self._n :]
        return Generation(
            **own[0].model_dump(exclude={"seed", "usage"}),
            usage=total_usage([answer.usage for answer in own], self._n),
            choices=own if self._n > 1 else None,
            base=of_base or None,
            **self._head,
        )

    def message(self, place: int, event: AnswerPiece | AnswerEnd) -> SseMessage:  # noqa: ARG002  it has one stream
        if isinstance(event, AnswerPiece):
            return {"event": "delta", "data": json.dumps(_fields(event))}
        ending = Ending(
            finish_reason=event.reason, usage=event.usage, prompt_token_ids=event.prompt_token_ids, **self._head
        )
        return {"event": "finish", "data": ending.model_dump_json()}

    def failure(self, error: dict[str, Any]) -> SseMessage:
        return {"event": "error", **super().failure(error)}


def _fields(piece: AnswerPiece) -> dict[str, Any]:
    fields: dict[str, Any] = {"text": piece.text}
    if piece.calls:
        fields["tool_calls"] = [call.model_dump() for call in piece.calls]
    if piece.tokens is not None:
        fields["logprobs"] = [token.model_dump() for token in piece.tokens]
    if piece.ids is not None:
        fields["token_ids"] = piece.ids
    return fields
