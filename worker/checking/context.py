"""Decides the context length of a job, so that training and serving use the same RoPE.

max_seq_length     rows             RoPE of the model
within the context any              any                nothing changes
above it           within it        any                max_seq_length becomes the model's context
above it           above it         plain              RoPE is scaled linearly in trainer and engine
above it           above it         another type       refused
"""

import json

from app.contracts.events import SpecPinned
from app.contracts.order import CheckOrder
from app.contracts.rows import EVAL_REPORT, TRAIN_REPORT
from app.contracts.tokens import TokenReport
from worker.checking.model import ModelFacts
from worker.events import EventWriter
from worker.failures import UserError
from worker.rope import rope_type

FIELD = "model.max_seq_length"


def settle_context(order: CheckOrder, model: ModelFacts, events: EventWriter) -> None:
    """Decides how many positions the job trains with, after the rows were checked. Raises UserError."""
    requested, limit = order.spec.model.max_seq_length, model.card.positions
    if limit is None or requested <= limit:
        return
    longest = max(report.row_tokens.largest for report in _reports(order))
    if longest <= limit:
        message = (
            f"the model has {limit} positions and the longest row has {longest} tokens: max_seq_length is set to "
            f"{limit}, and RoPE is not scaled"
        )
        events.notice("context_is_enough", message, field=FIELD, requested=requested, effective=limit)
        events.write(SpecPinned(values={FIELD: limit}))
        return
    kind = _rope_of(model)
    if kind != "default":
        raise UserError(
            "context_not_scalable",
            f"found max_seq_length {requested} and a row of {longest} tokens, expected at most {limit}: "
            f"{order.spec.model.model_name} has {limit} positions, and its RoPE ({kind}) cannot be scaled linearly",
            hint=f"set model.max_seq_length to {limit} and dataset.on_long_row to cut or drop, or use a longer model",
            param=FIELD,
        )
    message = f"the model has {limit} positions: training and serving scale its RoPE linearly by {requested / limit:g}"
    events.notice("context_extended", message, field=FIELD, requested=requested, effective=requested)
    events.write(SpecPinned(values={"model.rope_scaled_to": requested}))


def _reports(order: CheckOrder) -> list[TokenReport]:
    files = [order.data_dir / name for name in (TRAIN_REPORT, EVAL_REPORT)]
    return [TokenReport.model_validate(json.loads(file.read_text())) for file in files if file.exists()]


def _rope_of(model: ModelFacts) -> str:
    from transformers import CONFIG_MAPPING  # a second

    try:
        return rope_type(CONFIG_MAPPING[model.config["model_type"]].from_dict(model.config))
    except (KeyError, ValueError, TypeError, AttributeError):
        return "unknown"
