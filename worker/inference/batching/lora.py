"""Several LoRA adapters in one forward pass: every token is multiplied with the weights of its own slot only.

The matrices of all slots are in one tensor per layer; see Products for how they are applied. Layers with the same input
(q, k and v; gate and up) compute the product with A together.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from worker.inference.batching.tensors import Zeros


@dataclass(frozen=True)
class LoraWeights:
    """A checked adapter: `pairs` maps a module's path to A [r, in] and to B as [r, out], with the scale multiplied into
    B.
    """

    name: str
    pairs: dict[str, tuple[Any, Any]]
    nbytes: int

    @property
    def rank(self) -> int:
        return max((a.shape[0] for a, _ in self.pairs.values()), default=1)


class Products(Protocol):
    """The two LoRA products of a pass, each token with the matrices of its own slot."""

    def down(self, hidden: Any, weights: Any) -> Any:
        """`hidden` [tokens, in] times A; `weights` [slots, layers, rank, in]. Only `up` may use the result."""
        ...

    def up(self, found: Any, place: int, weights: Any, output: Any) -> None:
        """Add to `output` [tokens, out] the part of `found` for one layer, times B; `weights` [slots, rank, out]."""
        ...


class MaskedProducts:
    """One product with all of A, a mask that keeps for every token the numbers of its own slot, and one product with
    all of B.

    The other slots add exact zeros if all weights are finite, which `models/adapters.py` checks.
    """

    def __init__(self, slots: Any, live: int, dtype: Any) -> None:
        """`slots` [tokens] has 0 for the base; `live` is the highest slot among them."""
        self._live = live
        self._mask = (slots[:, None] == torch.arange(1, live + 1, device=slots.device)).to(dtype)

    def down(self, hidden: Any, weights: Any) -> Any:
        """Returns [layers, tokens, live slots x rank]."""
        _, layers, rank, size = weights.shape
        found = hidden @ weights[: self._live].view(-1, size).t()
        parts = found.unflatten(1, (self._live, layers, rank)).permute(2, 0, 1, 3)
        return torch.mul(parts, self._mask[None, :, :, None], out=found.new_empty(parts.shape)).flatten(2)

    def up(self, found: Any, place: int, weights: Any, output: Any) -> None:
        output.addmm_(found[place], weights[: self._live].flatten(0, 1))


class PassProducts:
    """The products for the tokens of the current pass, which all layers read. `dtype` is that of all adapters."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.products: Products | None = None
        self._last: tuple[Any, Any, Any] = (None, None, None)

    def set(self, products: Products | None) -> None:
        """Set the products of the next pass; None if all tokens are answered by the base."""
        self.products = products
        self._last = (None, None, None)

    def down(self, downs: "Downs", hidden: Any) -> Any:
        """The product with A, computed once for successive layers with the same `hidden`."""
        assert self.products is not None
        if self._last[0] is not downs or self._last[1] is not hidden:
            self._last = (downs, hidden, self.products.down(hidden.flatten(0, -2), downs.weights))
        return self._last[2]


class Downs:
    """The A matrices of all slots for layers with the same input: [slots, layers, rank, in]."""

    def __init__(self, dtype: Any, slots: int, rank: int, layers: int, size: int, device: Any) -> None:
        self._shape = (slots, layers)
        self._size = size
        self._dtype, self._device = dtype, device
        self.weights = self._room(rank)

    def put(self, slot: int, layer: int, weights: Any | None) -> None:
        own = self.weights[slot - 1, layer].zero_()
        if weights is not None:
            own[: len(weights)].copy_(weights, non_blocking=True)

    def widen(self, rank: int, live: int) -> None:
        old, self.weights = self.weights, self._room(rank)
        self.weights[:live, :, : old.shape[2]] = old[:live]

    def _room(self, rank: int) -> Any:
        return Zeros((*self._shape, rank, self._size), self._dtype, self._device).tensor


class MultiLoraLinear(nn.Module):  # type: ignore[misc]
    """A linear layer of the base, with the weights of all slots added to it."""

    def __init__(self, base: Any, pass_products: PassProducts, downs: Downs, place: int, slots: int, rank: int) -> None:
        """`place` is the index of the layer in `downs`. The base's own weight may be packed, if it is quantised."""
        super().__init__()
        self.base = base
        self._pass_products = pass_products
        self._downs = downs
        self._place = place
        self._slots = slots
        self._ups = self._room(rank)  # [slots, rank, out]

    def _room(self, rank: int) -> Any:
        shape = (self._slots, rank, self.base.out_features)
        return Zeros(shape, self._pass_products.dtype, self.base.weight.device).tensor

    def widen(self, rank: int, live: int) -> None:
        """Increase the rank; the first `live` slots keep their weights. The caller widens `downs` too."""
        old, self._ups = self._ups, self._room(rank)
        self._ups[:live, : old.shape[1]] = old[:live]

    def put(self, slot: int, pair: tuple[Any, Any] | None) -> None:
        """Put an adapter's A and B into a slot; None clears the slot."""
        self._downs.put(slot, self._place, None if pair is None else pair[0])
        up = self._ups[slot - 1].zero_()
        if pair is not None:
            up[: len(pair[1])].copy_(pair[1], non_blocking=True)

    def forward(self, hidden: Any) -> Any:
        output = self.base(hidden)
        if self._pass_products.products is None:
            return output
        flat = output.flatten(0, -2)
        found = self._pass_products.down(self._downs, hidden)
        self._pass_products.products.up(found, self._place, self._ups, flat)
        return flat.view_as(output)


class AdapterSlots:
    """The fixed slots of one model: which adapter is in which slot, who uses it, and which one is replaced."""

    def __init__(
        self, model: Any, slots: int, dtype: Any, siblings: dict[str, tuple[str, ...]], *, rank_step: int = 1
    ) -> None:
        """`siblings`: for each linear layer the successive layers with the same input, including itself.

        `rank_step`: the rank of the slots is a multiple of it.
        """
        self.pass_products = PassProducts(dtype)
        self.version = 0  # grows when a layer or a shape changes, which makes recorded graphs invalid
        self._model = model
        self.count = slots
        self._rank = self._rank_step = rank_step
        self._layers: dict[str, MultiLoraLinear] = {}
        self._siblings = siblings
        self._downs: dict[tuple[str, ...], Downs] = {}
        self._held: dict[str, int] = {}  # least recently used first
        self._users: dict[str, int] = {}

    @property
    def loaded(self) -> list[str]:
        return list(self._held)

    def use(self, weights: LoraWeights) -> int | None:
        """The slot of this adapter, in use until `leave`. Returns None if answers in progress use all slots."""
        slot = self._held.pop(weights.name, None)
        if slot is None:
            slot = self._free_slot()
            if slot is None:
                return None
            self._put(slot, weights)
        self._held[weights.name] = slot
        self._users[weights.name] = self._users.get(weights.name, 0) + 1
        return slot

    def leave(self, name: str) -> None:
        self._users[name] -= 1

    def empty(self) -> None:
        """Forget all adapters and free the memory of their slots. No answer may use one."""
        assert not any(self._users.values())
        self.unwrap()
        self._held.clear()
        self._users.clear()
        self._rank = self._rank_step
        self.version += 1

    def unwrap(self) -> None:
        """Restore the layers of the model."""
        for path, layer in self._layers.items():
            _replace(self._model, path, layer.base)
        self._layers.clear()
        self._downs.clear()

    def _free_slot(self) -> int | None:
        free = set(range(1, self.count + 1)) - set(self._held.values())
        if free:
            return min(free)
        unused = next((name for name in self._held if not self._users.get(name)), None)
        return None if unused is None else self._held.pop(unused)

    def _put(self, slot: int, weights: LoraWeights) -> None:
        if weights.rank > self._rank:
            self._rank = -(-weights.rank // self._rank_step) * self._rank_step
            self.version += 1
            live = max(self._held.values(), default=0)
            for downs in self._downs.values():
                downs.widen(self._rank, live)
            for layer in self._layers.values():
                layer.widen(self._rank, live)
        for path in weights.pairs.keys() - self._layers.keys():
            self._layers[path] = self._wrapped(path)
            _replace(self._model, path, self._layers[path])
            self.version += 1
        for path, layer in self._layers.items():
            layer.put(slot, weights.pairs.get(path))

    def _wrapped(self, path: str) -> MultiLoraLinear:
        base, siblings = self._model.get_submodule(path), self._siblings[path]
        if siblings not in self._downs:
            place = (base.in_features, base.weight.device)
            self._downs[siblings] = Downs(self.pass_products.dtype, self.count, self._rank, len(siblings), *place)
        downs = self._downs[siblings]
        return MultiLoraLinear(base, self.pass_products, downs, siblings.index(path), self.count, self._rank)


def _replace(model: Any, path: str, module: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
