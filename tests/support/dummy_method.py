"""A training method that a plugin adds: supervised fine-tuning whose rows have a weight.

It is one file, and no other file knows it: `TUNESMITH_PLUGINS=tests.support.dummy_method`.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from app.contracts.base import Real
from app.contracts.methods import TrainingMethod, register
from app.contracts.training_args import TrainingArgs

if TYPE_CHECKING:
    from app.contracts.order import TrainingOrder

WEIGHT = "weight"


class WeightedArgs(TrainingArgs):
    """Those of every method, and one more."""

    method: Literal["weighted"]
    weight_of_questions: Real = Field(1.0, ge=0, le=10, description="of rows whose prompt has a question mark")


def tokenise(record: Any, renderer: Any, learned: Any, work: Any) -> Any:
    """As supervised fine-tuning does it, with one column more."""
    from worker.rendering import rows

    row = rows.tokenise(record, renderer, learned, work)
    row.columns[WEIGHT] = float("?" in record.prompt)
    return row


def trainer_parts(order: "TrainingOrder") -> Any:
    from worker.training import sft
    from worker.training.parts import TrainerParts

    parts, factor = sft.trainer_parts(order), order.spec.training.model_dump()["weight_of_questions"]

    class WeightedTrainer(parts.trainer_class):  # type: ignore[misc,name-defined]
        """Multiplies the loss of a batch by the mean weight of its rows."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            collate = vars(self)["data_collator"]
            self.weights: list[float] = []

            def with_weights(rows: list[dict[str, Any]]) -> Any:
                self.weights = [1 + (factor - 1) * row.pop(WEIGHT) for row in map(dict, rows)]
                return collate([{name: row[name] for name in row if name != WEIGHT} for row in rows])

            self.data_collator = with_weights

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs) * (sum(self.weights) / len(self.weights))

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            super().log({**logs, "mean_weight": sum(self.weights) / len(self.weights)}, *args, **kwargs)

    return TrainerParts(WeightedTrainer, parts.config_class, {**parts.arguments, "remove_unused_columns": False})


register(
    TrainingMethod(
        "weighted",
        WeightedArgs,
        tokenise="tests.support.dummy_method:tokenise",
        trainer="tests.support.dummy_method:trainer_parts",
        records=frozenset({"completion"}),
        columns={WEIGHT: "float32"},
        metrics={"mean_weight": "mean weight of the rows of the last batch"},
    )
)
