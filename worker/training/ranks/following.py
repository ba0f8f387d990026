"""Takes the steps of a training beside rank 0, with the same model, rows and settings, and keeps nothing of them."""

from worker.training.recipe import load_model  # isort: skip  # imports Unsloth, which must come first

import threading

from app.contracts.order import TrainingOrder
from worker.events import EventWriter
from worker.stopping import Requests
from worker.training.callback import EventCallback
from worker.training.checkpointing import Checkpointer
from worker.training.evaluations import Evaluations
from worker.training.model import find_hardware
from worker.training.ranks.group import Ranks
from worker.training.schedule import SaveSchedule
from worker.training.trainer import build_trainer, read_rows


def follow(order: TrainingOrder, rank: int, events: EventWriter) -> None:
    """Take all steps from the order's checkpoint, or from the first one on. Returns never: rank 0 ends this process."""
    ranks, hardware, callback = Ranks(order, rank), find_hardware(), EventCallback(events)
    train = read_rows(order.train_rows, order.spec)
    plan, order = ranks.receive_plan(order)
    model, tokenizer, _ = load_model(order, plan, events)
    checkpointer = Checkpointer(order, events, Requests(), callback, SaveSchedule(None))
    trainer = build_trainer(model, tokenizer, train, None, order, hardware, plan, callback, checkpointer, ranks)
    checkpointer.resume()
    checkpointer.owes_evaluation, checkpointer.evaluations = False, Evaluations()  # rank 0 evaluates alone
    is_resumed = checkpointer.resumed is not None
    trainer.train(resume_from_checkpoint=str(order.resume_from) if is_resumed else None)
    threading.Event().wait()
