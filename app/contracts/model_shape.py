"""The sizes of a base model that decide what its training costs, and how many parameters are trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.contracts.model_card import ModelCard
from app.contracts.spec import ALL_PROJECTIONS, JobSpec, LoraSpec

# Unsloth trains these modules in full, whichever field of the spec names them.
EMBEDDINGS = ("embed_tokens", "lm_head")
# A usual width of an attention head, for cards without the number of heads.
USUAL_HEAD_DIM = 64


@dataclass(frozen=True)
class BaseShape:
    """The sizes of a decoder with attention and a gated MLP in each layer, as Llama's.

    `weight_bytes`: of its files. `parameters`: of the whole model. A mixture of experts is not told from a dense model.
    """

    weight_bytes: int
    is_quantised: bool
    parameters: int
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_dim: int
    is_tied: bool
    positions: int

    @property
    def key(self) -> str:
        """A name that models of the same sizes share."""
        sizes = (self.hidden, self.intermediate, self.layers, self.vocabulary)
        return "x".join(map(str, (*sizes, self.heads, self.key_value_heads, self.head_dim)))

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """The width of the keys, which is that of the values too."""
        return self.key_value_heads * self.head_dim

    @property
    def embeddings(self) -> int:
        """The parameters of embeddings and head, which bitsandbytes does not quantise."""
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def linear(self) -> int:
        """The parameters of the linear modules, counted with the few of the norms and biases."""
        return max(0, self.parameters - self.embeddings)

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """The numbers of inputs and outputs of each linear module of a layer, by its name."""
        hidden, query, key, inner = self.hidden, self.query_width, self.key_width, self.intermediate
        sizes = [(hidden, query), (hidden, key), (hidden, key), (query, hidden), (hidden, inner), (hidden, inner)]
        return dict(zip(ALL_PROJECTIONS, [*sizes, (inner, hidden)], strict=True))


def shape_of(card: ModelCard) -> BaseShape | None:
    """Returns None if the card lacks a size that every version has stored, that is, the model has an unknown form.

    A size that older versions did not store is replaced by its upper bound.
    """
    hidden, intermediate, layers, vocabulary = card.hidden_size, card.intermediate_size, card.layers, card.vocabulary
    if hidden is None or intermediate is None or layers is None or vocabulary is None or card.weight_bytes <= 0:
        return None
    heads = card.heads or max(1, hidden // USUAL_HEAD_DIM)
    shape = BaseShape(
        weight_bytes=card.weight_bytes,
        is_quantised=card.is_quantised,
        parameters=card.parameters or card.weight_bytes // 2,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        vocabulary=vocabulary,
        heads=heads,
        key_value_heads=card.key_value_heads or heads,
        head_dim=card.head_dim or max(1, hidden // heads),
        is_tied=bool(card.is_tied),
        positions=card.positions or 0,
    )
    return shape if not card.is_quantised else _unquantised(shape)


def _unquantised(shape: BaseShape) -> BaseShape:
    """Counts the parameters of a quantised model by its sizes, because its files hold packed ones."""
    linear = sum(inputs * outputs for inputs, outputs in shape.projections.values())
    fields = {**vars(shape), "parameters": shape.layers * linear + shape.embeddings}
    return BaseShape(**fields)


def lora_parameters(lora: LoraSpec, shape: BaseShape) -> int:
    """Counts the numbers in the matrices A and B of all updates, and in the magnitudes of DoRA.

    Source: peft 0.21 `LoraLayer.update_layer`: A is r x inputs, B is outputs x r. Embeddings have none.
    """
    names = lora.named_targets or list(ALL_PROJECTIONS)
    leaves = {name.rsplit(".", 1)[-1] for name in names} - {*EMBEDDINGS}
    wide = (shape.hidden, max(shape.hidden, shape.intermediate))  # of a module with an unknown name
    layers = shape.layers if lora.layers_to_transform is None else len({*lora.layers_to_transform})
    each = 0
    for leaf in leaves:
        inputs, outputs = shape.projections.get(leaf, wide)
        rank = (lora.rank_pattern or {}).get(leaf, lora.r)
        each += rank * (inputs + outputs) + (outputs if lora.use_dora else 0)
    return layers * each


def embedding_parameters(lora: LoraSpec, shape: BaseShape) -> int:
    """Counts the numbers of embeddings and head that are trained in full."""
    return len(trained_embeddings(lora)) * shape.vocabulary * shape.hidden


def trained_embeddings(lora: LoraSpec) -> set[str]:
    """Return those of EMBEDDINGS that are trained in full."""
    named = (*lora.named_targets, *(lora.modules_to_save or ()))
    return {name.rsplit(".", 1)[-1] for name in named} & {*EMBEDDINGS}


def trained_parameters(spec: JobSpec, shape: BaseShape) -> int:
    if spec.model.full_finetuning:
        return shape.parameters
    return lora_parameters(spec.lora, shape) + embedding_parameters(spec.lora, shape)
