"""What a worker knows of a training's memory before it begins: from the files that the check has left."""

from pathlib import Path

from app.contracts.layout_choice import TrainingCase, usual_bytes
from app.contracts.model_card import ModelCard
from app.contracts.model_shape import BaseShape
from app.contracts.plan import JobPlan
from app.contracts.rows import BASE_CARD, TRAIN_REPORT
from app.contracts.step_tokens import StepTokens
from app.contracts.stored import Model, read_json
from app.contracts.tokens import TokenReport


def base_card(data_dir: Path) -> ModelCard | None:
    return _read(ModelCard, data_dir / BASE_CARD)


def row_report(data_dir: Path) -> TokenReport | None:
    return _read(TokenReport, data_dir / TRAIN_REPORT)


def predicted_bytes(plan: JobPlan, shape: BaseShape, report: TokenReport | None) -> int:
    """An upper bound of the memory of a training. Without a report every row has `max_seq_length` tokens."""
    longest = plan.model.max_seq_length
    rows = StepTokens.of_steps([[longest] * plan.training.per_device_train_batch_size])
    if report is not None:
        rows = StepTokens.of_spread(report.row_tokens, plan)
    return usual_bytes(TrainingCase(plan, shape, rows))


def _read(kind: type[Model], path: Path) -> Model | None:
    """None where the job was checked by a version that wrote no such file."""
    try:
        return read_json(kind, path.read_bytes())
    except OSError:
        return None
