"""What is known of a model before its weights are loaded, and the names of a model's files.

`worker.model_card` makes the card from a model's small files, and no other module reads those. The checker writes the
card of a job's base next to its rows (`app.contracts.rows`).
"""

from app.contracts.base import Contract

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class ModelCard(Contract):
    """The sizes of a model. A size is null if the model's config does not have it.

    `positions` is the context length in tokens, `vocabulary` the number of known tokens. `weight_bytes` is the size of
    the weight files; `is_quantised` says whether they hold quantised weights. `parameters` counts their numbers, and is
    null if they are quantised or their headers were not read. `is_tied`: the head has the weights of the embeddings.
    """

    positions: int | None
    vocabulary: int | None
    hidden_size: int | None
    intermediate_size: int | None
    layers: int | None
    is_quantised: bool
    weight_bytes: int
    heads: int | None = None
    key_value_heads: int | None = None
    head_dim: int | None = None
    is_tied: bool | None = None
    parameters: int | None = None
