"""Turns a client's request, from whichever route, into the order that the engine gets."""

import hashlib
import secrets
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from app.config import Settings
from app.contracts.base import extract
from app.contracts.generation import GenerateOrder, PromptDetails, Sampling, Usage, Wording
from app.errors import InvalidRequest
from app.generate.schemas import AnswerRequest, GenerateRequest
from app.generate.targets import Target, find_target
from app.ids import new_id
from app.scope import Scope


@dataclass(frozen=True)
class PreparedRequest:
    """Orders to one target: `n` answers to each input, one behind the other."""

    target: Target
    orders: tuple[GenerateOrder, ...]
    n: int = 1

    @property
    def order(self) -> GenerateOrder:
        return self.orders[0]


def prepare(target: Target, request: AnswerRequest) -> PreparedRequest:
    """The orders that a request means. A seed is drawn where one matters and none was given, so that every answer can
    be repeated."""
    request_id, sampling = new_id(request.id_prefix), _seeded(request.sampling())
    orders: list[GenerateOrder] = []
    for place, given in enumerate(request.inputs()):
        order = GenerateOrder(
            **dict(given),
            request_id=f"{request_id}-{place}" if place else request_id,
            base=target.base,
            adapter=target.adapter,
            sampling=sampling,
            shrinks_to_fit=request.shrinks_to_fit,
            wording=extract(request, Wording),
            timeout=request.timeout,
        )
        orders += [_copy(order, copy) for copy in range(request.n)]
    return PreparedRequest(target, tuple(orders), request.n)


def prepare_generation(session: Session, scope: Scope, settings: Settings, request: GenerateRequest) -> PreparedRequest:
    """Return the orders to the target. With `compare`, the same orders to its base follow.

    Raises what `find_target` raises, and InvalidRequest for `compare` without an adapter.
    """
    param = "adapter" if request.adapter is not None else "model"
    target = find_target(session, scope, settings, request.adapter or request.model or "", param)
    if request.compare and target.adapter is None:
        raise InvalidRequest(f"compare: {target.name} is a base, only an adapter has one beside it", param="compare")
    prepared = prepare(target, request)
    if not request.compare:
        return prepared
    to_base = tuple(order.model_copy(update={"adapter": None}) for order in prepared.orders)
    return replace(prepared, orders=prepared.orders + to_base)


def _seeded(sampling: Sampling) -> Sampling:
    if sampling.seed is not None or sampling.temperature == 0:
        return sampling
    return sampling.model_copy(update={"seed": secrets.randbits(32)})


def _copy(order: GenerateOrder, place: int) -> GenerateOrder:
    """The order of answer number `place`; number 0 is the order itself.

    Each other one has its own id, and a seed that is a hash, so that the requests with the seeds 1 and 2 have no answer
    in common.
    """
    if place == 0:
        return order
    sampling = order.sampling
    if sampling.seed is not None:
        digest = hashlib.sha256(f"{sampling.seed}:{place}".encode()).digest()
        sampling = sampling.model_copy(update={"seed": int.from_bytes(digest[:8], "big") >> 1})
    return order.model_copy(update={"request_id": f"{order.request_id}.{place}", "sampling": sampling})


def total_usage(usages: list[Usage], n: int) -> Usage:
    """The tokens of all inputs, each once, and of the `n` answers to each."""
    first = usages[::n]
    prompt = sum(usage.prompt_tokens for usage in first)
    completion = sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.prompt_tokens_details.cached_tokens for usage in first)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )
