"""Looks for untrained control tokens in the loaded weights of a hub base, whose files the checker does not have."""

from collections.abc import Collection
from typing import Any

from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.rendering.renderer import load_renderer
from worker.untrained import Reader, Vectors, Weights, find_untrained


def notice_untrained(model: Any, order: TrainingOrder, events: EventWriter) -> None:
    """Write a notice about untrained tokens of a hub base. The checker has done this for a local base."""
    if order.base.is_local:
        return
    notice = find_untrained(
        order.train_rows, order.spec, load_renderer(order.tokenizer).added_tokens, loaded_weights(model)
    )
    if notice is not None:
        events.write(notice)


def loaded_weights(model: Any) -> Weights:
    """The input embeddings and the head of a model without LoRA."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is None or head.weight is embeddings.weight
    return Weights(_reader(embeddings.weight), None if is_tied else _reader(head.weight))


def _reader(matrix: Any) -> Reader:
    def read(tokens: Collection[int]) -> Vectors:
        """Returns no vectors of a quantised matrix."""
        own = [token for token in tokens if token < matrix.shape[0] and matrix.is_floating_point()]
        return dict(zip(own, matrix[own].detach().float().cpu().numpy(), strict=True)) if own else {}

    return read
