"""The training itself, in the order in which Unsloth's page tells it."""

from worker.training.model import attach_lora, choose_template, end_of_turn, end_tokens, find_hardware, load_base  # isort: skip

import time
from typing import Any

from app.contracts.events import DataPrepared, Finished, Phase, SpecResolved
from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.training.bundle import save_bundle
from worker.training.callback import EventCallback
from worker.training.dataset import Row, Tokens
from worker.training.resolved import effective_values, report_differences
from worker.training.trainer import build_trainer


def fine_tune(order: TrainingOrder, events: EventWriter) -> None:
    """One attempt from the base model to the saved adapter."""
    spec, hardware, callback = order.spec, find_hardware(), EventCallback(events)
    events.enter(Phase.LOAD if order.base.is_local else Phase.DOWNLOAD)
    model, tokenizer = load_base(order)
    events.enter(Phase.LOAD)
    model = attach_lora(model, spec)
    tokenizer = choose_template(tokenizer, spec.model)
    ends = end_tokens(tokenizer)
    if tokenizer.chat_template and not end_of_turn(tokenizer):
        message = "the chat template ends a turn with text that is no token of this model: its answers may not stop"
        events.notice("no_end_token", message, field="model.chat_template", requested=spec.model.chat_template)
    train, evaluation = prepare_rows(order, tokenizer, ends, events)
    trainer = build_trainer(model, tokenizer, train, evaluation, order, hardware, callback)
    resolved = effective_values(order, model, trainer.args)
    report_differences(order, resolved, hardware, events)
    events.write(SpecResolved(values=resolved))

    started = time.monotonic()
    trainer.train()
    seconds = round(time.monotonic() - started, 3)
    if evaluation:
        events.enter(Phase.EVAL)
        trainer.evaluate()

    events.enter(Phase.SAVE)
    events.write(save_bundle(model, tokenizer, ends, order, resolved))
    steps = trainer.state.global_step
    events.write(Finished(steps=steps, train_seconds=seconds, final_loss=callback.final_loss, tokens=callback.tokens))


def prepare_rows(
    order: TrainingOrder, tokenizer: Any, ends: list[str], events: EventWriter
) -> tuple[list[Row], list[Row]]:
    """Tokens and labels of the training and evaluation rows; what became of each is reported."""
    spec = order.spec
    learns_all = spec.dataset.train_on == "all" or spec.training.method == "cpt"
    tokens = Tokens(tokenizer, spec.model.max_seq_length, ends, all_tokens=learns_all)
    train, report = tokens.rows(order.train_records)
    events.write(DataPrepared(report={"train": report.summary(spec.model.max_seq_length)}))
    if order.eval_records is None:
        return train, []
    evaluation, report = tokens.rows(order.eval_records)
    events.write(DataPrepared(report={"eval": report.summary(spec.model.max_seq_length)}))
    return train, evaluation
