"""The training itself, in the order in which Unsloth's page tells it."""

from worker.training.model import attach_lora, find_hardware, load_base, read_tokenizer  # isort: skip

import time

from app.contracts.events import Finished, Phase, SpecResolved
from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.training.borders import check_borders
from worker.training.bundle import save_bundle
from worker.training.callback import EventCallback
from worker.training.resolved import effective_values, report_differences
from worker.training.trainer import build_trainer, read_rows, report_packing


def fine_tune(order: TrainingOrder, events: EventWriter) -> None:
    """One attempt from the base model to the saved adapter."""
    spec, hardware, callback = order.spec, find_hardware(), EventCallback(events)
    events.enter(Phase.LOAD if order.base.is_local else Phase.DOWNLOAD)
    model, own_tokenizer = load_base(order)
    events.enter(Phase.LOAD)
    model = attach_lora(model, spec)
    tokenizer = read_tokenizer(order, own_tokenizer)
    train, evaluation = read_rows(order.train_rows), read_rows(order.eval_rows) if order.eval_rows else None
    trainer = build_trainer(model, tokenizer, train, evaluation, order, hardware, callback)
    report_packing(trainer, train, events)
    check_borders(trainer)
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
    events.write(save_bundle(model, tokenizer, order, resolved))
    steps = trainer.state.global_step
    events.write(Finished(steps=steps, train_seconds=seconds, final_loss=callback.final_loss, tokens=callback.tokens))
