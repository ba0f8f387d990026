"""What is known of a model before its weights are loaded, and the names of the files that a model consists of.

The checker writes the card of a job's base beside its rows (`app.contracts.rows`); `worker.model_card` makes it of a
model's small files. Nothing else reads them.
"""

from app.contracts.base import Contract

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class ModelCard(Contract):
    """A size is null where the model's config does not name it.

    `positions` is how many tokens it reads and writes together, `vocabulary` how many it knows. `weight_bytes` are
    those of its files; `is_quantised` says whether they hold weights in fewer bits.
    """

    positions: int | None
    vocabulary: int | None
    hidden_size: int | None
    intermediate_size: int | None
    layers: int | None
    is_quantised: bool
    weight_bytes: int
