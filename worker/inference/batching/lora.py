"""Several LoRA adapters in one forward pass: every token takes the weights of its own slot, and of no other.

The A matrices of all slots stand below each other, the B matrices too. One product with all of A gives every token
`slots x rank` numbers; a mask leaves those of its own slot; one product with all of B adds them to the layer's output.
The sum over the other slots is a sum of zeros, exactly, as long as all weights are finite: `adapters.py` sees to that.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class LoraWeights:
    """A checked adapter: `pairs` maps a module's path to A [r, in] and B [out, r], scaling folded into B."""

    name: str
    pairs: dict[str, tuple[Any, Any]]
    nbytes: int

    @property
    def rank(self) -> int:
        return max((a.shape[0] for a, _ in self.pairs.values()), default=1)


class Owners:
    """Which slot owns which token of the pass under way; all layers read it. `dtype` is that of all adapters."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.mask: Any = None  # [tokens, slots x rank], None: nobody has an adapter

    def set(self, slots: Any, live: int, rank: int) -> None:
        """`slots` [tokens], 0 for the base; `live` is the highest slot that may occur among them."""
        if live == 0:
            self.mask = None
            return
        columns = torch.arange(live * rank, device=slots.device) // rank + 1
        self.mask = (slots[:, None] == columns).to(self.dtype)


class MultiLoraLinear(nn.Module):  # type: ignore[misc]
    """A linear layer of the base with the weights of all slots beside it."""

    def __init__(self, base: Any, owners: Owners, slots: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.rank = rank
        self._owners = owners
        self._slots = slots
        self.down, self.up = self._room(rank)

    def _room(self, rank: int) -> tuple[Any, Any]:
        """Zeros for A and B; the base's own weight may be packed, if it is quantised."""
        size, place = self._slots * rank, {"device": self.base.weight.device, "dtype": self._owners.dtype}
        return torch.zeros(size, self.base.in_features, **place), torch.zeros(size, self.base.out_features, **place)

    def widen(self, rank: int) -> None:
        """Make room for a larger rank; every slot keeps its weights."""
        old = self.down.unflatten(0, (self._slots, self.rank)), self.up.unflatten(0, (self._slots, self.rank))
        self.down, self.up = self._room(rank)
        for wide, narrow in zip((self.down, self.up), old, strict=True):
            wide.unflatten(0, (self._slots, rank))[:, : self.rank] = narrow
        self.rank = rank

    def put(self, slot: int, pair: tuple[Any, Any] | None) -> None:
        """Put an adapter's A and B into a slot; None leaves the slot without effect."""
        first = (slot - 1) * self.rank
        self.down[first : first + self.rank].zero_()
        self.up[first : first + self.rank].zero_()
        if pair is not None:
            rank = pair[0].shape[0]
            self.down[first : first + rank].copy_(pair[0])
            self.up[first : first + rank].copy_(pair[1].t())

    def forward(self, hidden: Any) -> Any:
        output = self.base(hidden)
        mask = self._owners.mask
        if mask is None:
            return output
        width = mask.shape[1]
        own = (hidden.flatten(0, -2) @ self.down[:width].t()) * mask
        return torch.addmm(output.flatten(0, -2), own, self.up[:width]).view_as(output)


class AdapterSlots:
    """The fixed slots of one model. Which adapter is where, who uses it, and which one makes room."""

    def __init__(self, model: Any, slots: int, dtype: Any) -> None:
        self.owners = Owners(dtype)
        self.version = 0  # grows when a layer or a shape changes: what was recorded with the old ones is void
        self._model = model
        self.count = slots
        self._rank = 1
        self._layers: dict[str, MultiLoraLinear] = {}
        self._held: dict[str, int] = {}  # least recently used first
        self._users: dict[str, int] = {}

    @property
    def loaded(self) -> list[str]:
        return list(self._held)

    def use(self, weights: LoraWeights) -> int | None:
        """The slot of this adapter, held until `leave`; None when answers under way hold all slots."""
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

    def begin(self, slots: Any, live: int) -> None:
        """Say whose the tokens of the next pass are."""
        self.owners.set(slots, live, self._rank)

    def unwrap(self) -> None:
        """Give the model its own layers back."""
        for path, layer in self._layers.items():
            _replace(self._model, path, layer.base)
        self._layers.clear()

    def _free_slot(self) -> int | None:
        free = set(range(1, self.count + 1)) - set(self._held.values())
        if free:
            return min(free)
        unused = next((name for name in self._held if not self._users.get(name)), None)
        return None if unused is None else self._held.pop(unused)

    def _put(self, slot: int, weights: LoraWeights) -> None:
        if weights.rank > self._rank:
            self._rank = weights.rank
            self.version += 1
            for layer in self._layers.values():
                layer.widen(self._rank)
        for path in weights.pairs.keys() - self._layers.keys():
            self._layers[path] = MultiLoraLinear(self._model.get_submodule(path), self.owners, self.count, self._rank)
            _replace(self._model, path, self._layers[path])
            self.version += 1
        for path, layer in self._layers.items():
            layer.put(slot, weights.pairs.get(path))


def _replace(model: Any, path: str, module: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
