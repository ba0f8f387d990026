"""The training, with its steps in the order of Unsloth's documentation."""

from worker.training.model import attach_lora, find_hardware, load_base, read_tokenizer  # isort: skip

from typing import Any

from app.contracts.events import AttemptInterrupted, Finished, Phase, Resumed, SpecResolved
from app.contracts.layout_events import speed_event
from app.contracts.memory_model import Recomputation
from app.contracts.order import TrainingOrder
from worker.checkpoints import intact_of_step, sweep
from worker.events import EventWriter
from worker.failures import SystemFault, named
from worker.stopping import Requests
from worker.training.adapters import begin_with
from worker.training.arguments import Hardware
from worker.training.biases import Biases, base_biases
from worker.training.bundle import save_bundle
from worker.training.callback import EventCallback
from worker.training.checkpointing import Checkpointer
from worker.training.evaluations import best_of, why_over
from worker.training.first_step import StartTimer
from worker.training.micro_batches.planning import Plan, plan_steps
from worker.training.probe import notice_worse_than_base, take_probe
from worker.training.ranks.followers import Followers
from worker.training.ranks.group import Ranks
from worker.training.resolved import effective_values, report_differences
from worker.training.saving import complete_or_absent, rehearse_saving, repair_generation_config
from worker.training.schedule import SaveSchedule
from worker.training.start import StartMoment
from worker.training.tracking import Trackers
from worker.training.trained import report_trained
from worker.training.trainer import build_trainer, read_rows, report_packing
from worker.training.vectors import notice_untrained


def fine_tune(
    order: TrainingOrder, events: EventWriter, requests: Requests, start: StartMoment, followers: Followers
) -> bool:
    """Train from the base model, or from a checkpoint, and save the adapter. Returns False if it stopped on request."""
    timer = StartTimer(start, events)
    hardware, trackers = find_hardware(), Trackers(order, events)
    callback = EventCallback(events, order.spec.method.metrics, trackers)
    train, evaluation = (read_rows(path, order.spec) for path in (order.train_rows, order.eval_rows))
    plan, order = plan_steps(order, train, events)
    ranks = begin_ranks(order, plan)
    model, tokenizer, biases = load_model(order, plan, events)
    spec = order.spec
    checkpointer = Checkpointer(order, events, requests, callback, SaveSchedule(spec.training.save_steps))
    trainer = build_trainer(model, tokenizer, train, evaluation, order, hardware, plan, callback, checkpointer, ranks)
    trainer.add_callback(timer)
    report_packing(trainer, train, events)
    resolved = report_settings(order, model, trainer, hardware, plan.recomputation, events)
    rehearse_saving(model, tokenizer, order, resolved)

    if not train_to_the_end(trainer, checkpointer):
        trackers.close()
        return False
    followers.dismiss()
    seconds, steps = round(callback.seconds, 3), trainer.state.global_step
    report_speed(plan, callback.warm_speed, order.ranks, events)
    evaluate(trainer, checkpointer)
    adapter_step = take_best(trainer, checkpointer)

    events.enter(Phase.SAVE)
    trackers.publish()
    with (
        named("save_failed", "the trained adapter could not be saved", checkpointer.where_kept(steps)),
        complete_or_absent(order),
    ):
        probe = take_probe(model, order, train, resolved, biases)
        events.write(save_bundle(model, tokenizer, order, resolved, probe))
    notice_worse_than_base(probe.fit, spec.training.learning_rate, events)
    events.write(
        Finished(
            steps=steps,
            train_seconds=seconds,
            final_loss=callback.final_loss,
            tokens=callback.tokens,
            adapter_step=adapter_step,
            best=best_of(checkpointer.evaluations, spec.training),
            stopped_early=why_over(checkpointer.evaluations, spec.training),
        )
    )
    return True


def begin_ranks(order: TrainingOrder, plan: Plan) -> Ranks | None:
    """Tell the other ranks what this one has decided. Returns None if there are none."""
    if order.ranks == 1:
        return None
    ranks = Ranks(order, 0)
    ranks.send_plan(plan, order)
    return ranks


def load_model(order: TrainingOrder, plan: Plan, events: EventWriter) -> tuple[Any, Any, Biases]:
    """The model to train, the job's tokenizer, and the biases of the base. Notices about the base come first."""
    events.enter(Phase.LOAD)
    model, own_tokenizer = load_base(order, plan.recomputation)
    repair_generation_config(model, events)
    notice_untrained(model, order, events)
    events.enter(Phase.LOAD)
    model = attach_lora(model, order.spec, plan.recomputation)
    biases = base_biases(model)
    if order.start_from is not None and order.resume_from is None:
        begin_with(model, order.start_from)
    return model, read_tokenizer(order, own_tokenizer), biases


def report_speed(plan: Plan, measured: tuple[int, float] | None, ranks: int, events: EventWriter) -> None:
    """Report the speed of this device, if enough was trained to know it. It corrects the estimates of later jobs."""
    if measured is not None and plan.case is not None and plan.chosen is not None:
        tokens, seconds = measured
        events.write(speed_event(plan.case, plan.chosen, tokens // ranks, seconds))


def report_settings(
    order: TrainingOrder,
    model: Any,
    trainer: Any,
    hardware: Hardware,
    recomputation: Recomputation,
    events: EventWriter,
) -> dict[str, Any]:
    """Report the values that are really used, and every difference from the spec. Returns the values by spec field."""
    resolved = effective_values(order, model, trainer.args, recomputation)
    report_differences(order, resolved, hardware, events)
    events.write(SpecResolved(values=resolved))
    report_trained(order, model, resolved, events)
    return resolved


def evaluate(trainer: Any, checkpointer: Checkpointer) -> None:
    """Evaluate the trained model, if there are rows and its last step was not evaluated. Raises SystemFault."""
    step = trainer.state.global_step
    if not trainer.eval_dataset or checkpointer.evaluations.last_step == step:
        return
    checkpointer.events.enter(Phase.EVAL)
    with named("evaluation_failed", "the trained model could not be evaluated", checkpointer.where_kept(step)):
        checkpointer.evaluated(step, trainer.evaluate())


def take_best(trainer: Any, checkpointer: Checkpointer) -> int:
    """Load the weights of the best evaluation, if the spec asks for them. Returns the step whose weights the model has.

    Raises SystemFault if their checkpoint is gone or damaged.
    """
    step, training = trainer.state.global_step, checkpointer.order.spec.training
    best = best_of(checkpointer.evaluations, training)
    if not training.load_best_model_at_end or best is None or best.step == step:
        return int(step)
    path = intact_of_step(checkpointer.order.checkpoints, best.step)
    if path is None:
        message = f"the checkpoint of the best evaluation, that of step {best.step}, is gone or damaged"
        raise SystemFault("best_checkpoint_gone", message, hint=checkpointer.where_kept(step))
    trainer._load_from_checkpoint(str(path))
    checkpointer.events.notice(
        "best_step_loaded",
        f"the adapter is that of step {best.step}, whose {best.metric} of {best.value:.6g} is the best; "
        f"the last step is {step}",
        field="training.load_best_model_at_end",
        requested=True,
        effective=best.step,
    )
    return best.step


def train_to_the_end(trainer: Any, checkpointer: Checkpointer) -> bool:
    """Train to the last step. Returns False if it saved a checkpoint and stopped on request.

    Raises SystemFault if the training ended early for any other reason.
    """
    sweep(checkpointer.order.checkpoints)
    checkpointer.resume()
    if checkpointer.resumed is not None:
        checkpointer.events.write(Resumed(step=checkpointer.resumed.step))
    is_resumed = checkpointer.resumed is not None
    trainer.train(resume_from_checkpoint=str(checkpointer.order.resume_from) if is_resumed else None)
    step, last = trainer.state.global_step, trainer.state.max_steps
    if step >= last:
        return True
    # transformers returns normally, whatever ended the training
    if not checkpointer.requests.stop or checkpointer.saved_step != step:
        raise SystemFault("training_cut_short", f"the training ended by itself at step {step} of {last}")
    checkpointer.events.write(AttemptInterrupted(step=step))
    return False
