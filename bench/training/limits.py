"""The arithmetic limit of a LoRA training: how many tokens a second a card could train if it did nothing else.

FLOP of one row of n tokens, without recomputation:

    4 n a frozen parameter          forward, and the gradient of its input
    6 n a parameter of LoRA         the same, and the gradient of its weights
    6 n² times heads times their size, in each layer
                                    causal attention: 2 n² forward (half of the two products), twice that backward

The head is a frozen matrix of hidden size times vocabulary. Looking up embeddings is no arithmetic.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LlamaShape:
    """The sizes on which the arithmetic of a Llama depends."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def read(cls, model: Path) -> "LlamaShape":
        """The shape that a model's `config.json` describes."""
        config = json.loads((model / "config.json").read_text())
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )

    @property
    def projections(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the seven linear modules of a layer, which are those that have LoRA."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        attention = [(self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def frozen_parameters(self) -> int:
        """Of all linear modules and the head."""
        return (
            self.layers * sum(inputs * outputs for inputs, outputs in self.projections) + self.hidden * self.vocabulary
        )

    def lora_parameters(self, rank: int) -> int:
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.projections)


def flops_per_token(shape: LlamaShape, rank: int, lengths: Sequence[int]) -> float:
    """The mean over all tokens of rows of these lengths."""
    tokens = sum(lengths)
    attention = 6 * shape.layers * shape.heads * shape.head_size * sum(length * length for length in lengths)
    return 4 * shape.frozen_parameters + 6 * shape.lora_parameters(rank) + attention / tokens
