"""Rows that are longer than the model's context: what is trained is what is served, or the job is refused.

max_seq_length     rows             RoPE of the model
within the context any              any                nothing is to be done
above it           within it        any                the model's own context is taken, nothing is scaled
above it           above it         plain              RoPE is scaled linearly, in trainer and engine alike
above it           above it         of another kind    refused
"""

import json

from app.contracts.events import SpecResolved
from app.contracts.order import CheckOrder
from app.contracts.rows import EVAL_REPORT, TRAIN_REPORT
from app.contracts.tokens import TokenReport
from worker.checking.model import ModelFacts
from worker.events import EventWriter
from worker.failures import UserError
from worker.rope import rope_type

FIELD = "model.max_seq_length"


def settle_context(order: CheckOrder, model: ModelFacts, events: EventWriter) -> None:
    """Decide, behind the check of the rows, how many positions the job trains with. Raises UserError."""
    asked, own = order.spec.model.max_seq_length, model.card.positions
    if own is None or asked <= own:
        return
    longest = max(report.row_tokens.largest for report in _reports(order))
    if longest <= own:
        message = f"the model knows {own} positions and the longest row has {longest} tokens: {own} are taken, and RoPE"
        events.notice("context_is_enough", f"{message} is not scaled", field=FIELD, requested=asked, effective=own)
        events.write(SpecResolved(values={FIELD: own}))
        return
    kind = _rope_of(model)
    if kind != "default":
        raise UserError(
            "context_not_scalable",
            f"found max_seq_length {asked} and a row of {longest} tokens, expected at most {own}: so many positions "
            f"{order.spec.model.model_name} knows, and its RoPE ({kind}) cannot be scaled linearly to more",
            hint=f"set model.max_seq_length to {own} and dataset.on_long_row to cut or drop, or take a longer model",
            param=FIELD,
        )
    message = f"the model knows {own} positions: its RoPE is scaled linearly by {asked / own:g}, to train and to serve"
    events.notice("context_extended", message, field=FIELD, requested=asked, effective=asked)
    events.write(SpecResolved(values={"model.rope_scaled_to": asked}))


def _reports(order: CheckOrder) -> list[TokenReport]:
    files = [order.data_dir / name for name in (TRAIN_REPORT, EVAL_REPORT)]
    return [TokenReport.model_validate(json.loads(file.read_text())) for file in files if file.exists()]


def _rope_of(model: ModelFacts) -> str:
    from transformers import CONFIG_MAPPING  # a second

    try:
        return rope_type(CONFIG_MAPPING[model.config["model_type"]].from_dict(model.config))
    except (KeyError, ValueError, TypeError, AttributeError):
        return "unknown"
