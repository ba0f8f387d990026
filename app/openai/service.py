"""From what OpenAI's clients ask to orders, and from answers to what they read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.adapters import repository
from app.adapters import service as adapters
from app.adapters.models import Adapter
from app.config import Settings
from app.contracts.generation import GenerateOrder, PromptDetails, Usage
from app.db import utc_now
from app.errors import BadRequest, InvalidRequest, NotFound, ServiceError
from app.generate.asking import collect
from app.generate.client import EngineClient
from app.generate.schemas import Answer
from app.generate.service import added, copies
from app.generate.speakers import NAMES_AN_ADAPTER, Speaker, find_speaker
from app.generate.tools import ends_of_calls
from app.ids import new_id
from app.jobs import repository as jobs
from app.jobs.stored import read_spec
from app.openai.answers import (
    CallPart,
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    FunctionCall,
    ModelCard,
    TextChoice,
    TextCompletion,
)
from app.openai.schemas import ChatRequest, CompletionRequest
from app.openai.scores import chat_logprobs, text_logprobs
from app.sources import below, local_models

MOST_MODELS = 10_000


@dataclass(frozen=True)
class Question:
    """Orders to one speaker, the answers to one prompt behind each other, `n` to each."""

    orders: tuple[GenerateOrder, ...]
    speaker: Speaker
    n: int
    created: int
    limit_name: str

    def head(self) -> dict[str, Any]:
        """What every answer and every piece of one says of itself."""
        order = self.orders[0]
        base = f"{order.base.source.rpartition('/')[2]}@{order.base.revision or 'local'}"
        return {
            "id": order.request_id,
            "created": self.created,
            "model": self.speaker.name,
            "system_fingerprint": f"fp_{order.adapter.name if order.adapter else base}",
        }


def prepare_chat(session: Session, settings: Settings, request: ChatRequest) -> Question:
    """Raises NotFound for a model that is not there, Conflict for a job with nothing to answer."""
    speaker = _speaker(session, settings, request.model)
    order = GenerateOrder(
        request_id=new_id("chatcmpl"),
        base=speaker.base,
        adapter=speaker.adapter,
        messages=request.messages,
        tools=[tool.for_template() for tool in request.offered_tools()] or None,
        form=request.form(),
        response_format=request.response_format,
        sampling=request.sampling(),
        shrinks_to_fit=request.limit is None,
        wording=request.wording(),
        stop_after=ends_of_calls(request.offered_tools(), is_parallel=request.parallel_tool_calls),
        timeout=request.timeout,
    )
    return Question(copies(order, request.n), speaker, request.n, _now(), _limit_name(request))


def prepare_completion(session: Session, settings: Settings, request: CompletionRequest) -> Question:
    """Raises as `prepare_chat`."""
    speaker = _speaker(session, settings, request.model)
    request_id, sampling = new_id("cmpl"), request.sampling()
    orders: list[GenerateOrder] = []
    for place, prompt in enumerate(request.prompts):
        order = GenerateOrder(
            request_id=f"{request_id}-{place}" if place else request_id,
            base=speaker.base,
            adapter=speaker.adapter,
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_token_ids=None if isinstance(prompt, str) else prompt,
            sampling=sampling,
            shrinks_to_fit=request.max_tokens is None,
            wording=request.wording(),
            timeout=request.timeout,
        )
        orders += copies(order, request.n)
    return Question(tuple(orders), speaker, request.n, _now(), "max_tokens")


def _now() -> int:
    return int(utc_now().timestamp())


def _limit_name(request: ChatRequest) -> str:
    return "max_tokens" if request.max_tokens is not None else "max_completion_tokens"


def _speaker(session: Session, settings: Settings, name: str) -> Speaker:
    try:
        return find_speaker(session, settings, name, "model")
    except InvalidRequest as error:
        raise NotFound(error.message, param="model", code="model_not_found") from None


async def answer_chat(engine: EngineClient, question: Question) -> ChatCompletion:
    """Raises the engine's refusal in the words of this door, or EngineUnavailable."""
    answers = await _answers(engine, question)
    choices = [_chat_choice(index, answer) for index, answer in enumerate(answers)]
    return ChatCompletion(choices=choices, usage=_total(question, answers), **question.head())


def _chat_choice(index: int, answer: Answer) -> ChatChoice:
    calls = [
        CallPart(id=call.id, function=FunctionCall(**call.function.model_dump())) for call in answer.tool_calls or ()
    ]
    message = ChatMessage(content=(answer.text or None) if calls else answer.text, tool_calls=calls or None)
    logprobs = chat_logprobs(answer.logprobs)
    return ChatChoice(
        index=index, message=message, logprobs=logprobs, finish_reason=answer.finish_reason, **_ids(answer)
    )


def _ids(answer: Answer) -> dict[str, list[int] | None]:
    return {"token_ids": answer.token_ids, "prompt_token_ids": answer.prompt_token_ids}


async def answer_completion(engine: EngineClient, question: Question) -> TextCompletion:
    """As `answer_chat`; every prompt counts once."""
    answers = await _answers(engine, question)
    choices = [
        TextChoice(
            index=index,
            text=each.text,
            logprobs=text_logprobs(each.logprobs),
            finish_reason=each.finish_reason,
            **_ids(each),
        )
        for index, each in enumerate(answers)
    ]
    return TextCompletion(choices=choices, usage=_total(question, answers), **question.head())


def total(question: Question, usages: list[Usage]) -> Usage:
    """The tokens of all prompts, each once, and of all answers."""
    each = [added(usages[start : start + question.n]) for start in range(0, len(usages), question.n)]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in each),
        completion_tokens=sum(usage.completion_tokens for usage in each),
        total_tokens=sum(usage.total_tokens for usage in each),
        prompt_tokens_details=PromptDetails(
            cached_tokens=sum(usage.prompt_tokens_details.cached_tokens for usage in each)
        ),
    )


def _total(question: Question, answers: list[Answer]) -> Usage:
    return total(question, [answer.usage for answer in answers])


async def _answers(engine: EngineClient, question: Question) -> list[Answer]:
    try:
        return await collect(engine, question.orders)
    except ServiceError as error:
        raise in_their_words(error, question) from None


def in_their_words(error: ServiceError, question: Question) -> ServiceError:
    """The same error with the names that fields have at this door."""
    names = {"max_new_tokens": question.limit_name, "adapter": "model", "prompt_token_ids": "prompt"}
    error.message = error.message.replace("max_new_tokens", question.limit_name).replace("prompt_token_ids", "prompt")
    error.param = names.get(error.param or "", error.param)
    return error


def list_models(session: Session, models: Path) -> list[ModelCard]:
    """The bases in the models folder and those that were trained on, and all adapters, newest first."""
    found = repository.page(session, after=None, limit=MOST_MODELS)
    local = local_models(models)
    trained_on = {adapter.base_model: adapter for adapter in reversed(found) if adapter.base_model not in local}
    bases = [_local_card(models, name) for name in local]
    bases += [_base_card(name, int(adapter.created_at.timestamp())) for name, adapter in sorted(trained_on.items())]
    return bases + [_adapter_card(adapter) for adapter in found]


def find_model(session: Session, settings: Settings, name: str) -> ModelCard:
    """One of them by its id, an adapter or a checkpoint by any of its names.

    Raises NotFound, and Conflict for a job with nothing to answer.
    """
    models = settings.models
    if NAMES_AN_ADAPTER.match(name):
        return _trained_card(session, settings, name)
    if name in local_models(models):
        return _local_card(models, name)
    card = next((card for card in list_models(session, models) if card.id == name), None)
    if card is None:
        raise NotFound(f"there is no model {name[:100]!r}", param="model", code="model_not_found")
    return card


def delete_model(session: Session, settings: Settings, name: str) -> str:
    """Delete an adapter, and return its id. Raises NotFound, BadRequest for what is no adapter, Conflict as its own."""
    if not NAMES_AN_ADAPTER.match(name):
        found = find_model(session, settings, name)
        raise BadRequest(f"{found.id} is a base model: only adapters can be deleted", param="model")
    try:
        return adapters.delete(session, settings, name)
    except ServiceError as error:
        error.param = "model"
        raise


def _trained_card(session: Session, settings: Settings, name: str) -> ModelCard:
    if not name.startswith("job-"):
        return _adapter_card(adapters.find(session, name, "model"))
    speaker = find_speaker(session, settings, name, "model")
    if speaker.checkpoint is None:
        return _adapter_card(adapters.find(session, name, "model"))
    job = jobs.get(session, speaker.checkpoint.job)
    if job is None:
        raise NotFound(f"there is no job {speaker.checkpoint.job}", param="model", code="unknown_job")
    parent = read_spec(job, job.resolved).model.model_name
    return ModelCard(id=speaker.name, created=int(job.created_at.timestamp()), root=speaker.name, parent=parent)


def _local_card(models: Path, name: str) -> ModelCard:
    folder = below(models, name)
    config = folder / "config.json" if folder is not None else None
    return _base_card(name, int(config.stat().st_mtime) if config is not None and config.is_file() else 0)


def _base_card(name: str, created: int) -> ModelCard:
    return ModelCard(id=name, created=created, root=name, parent=None)


def _adapter_card(adapter: Adapter) -> ModelCard:
    created = int(adapter.created_at.timestamp())
    return ModelCard(id=adapter.id, created=created, root=adapter.name, parent=adapter.base_model)
