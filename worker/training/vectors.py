"""Whether the base was ever trained on the tokens of the rows, looked at where no checker could: in loaded weights."""

from collections.abc import Collection
from typing import Any

from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.rendering.renderer import load_renderer
from worker.untrained import Reader, Vectors, Weights, find_untrained


def notice_untrained(model: Any, order: TrainingOrder, events: EventWriter) -> None:
    """For a base of the hub; that of a folder has been looked at by the checker."""
    if order.base.is_local:
        return
    notice = find_untrained(
        order.train_rows, order.spec, load_renderer(order.tokenizer).added_tokens, loaded_weights(model)
    )
    if notice is not None:
        events.write(notice)


def loaded_weights(model: Any) -> Weights:
    """Those of a model without LoRA."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is None or head.weight is embeddings.weight
    return Weights(_reader(embeddings.weight), None if is_tied else _reader(head.weight))


def _reader(matrix: Any) -> Reader:
    def read(tokens: Collection[int]) -> Vectors:
        """Nothing of a matrix that is quantised."""
        own = [token for token in tokens if token < matrix.shape[0] and matrix.is_floating_point()]
        return dict(zip(own, matrix[own].detach().float().cpu().numpy(), strict=True)) if own else {}

    return read
