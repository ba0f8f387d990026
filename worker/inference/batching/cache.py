"""Keys and values of all sequences, in two tensors per layer: [places, heads, head size]."""

from typing import Any

from worker.inference.batching.tensors import Zeros


class KeyValueCache:
    """The tensors of a layer are created by its first write. Place 0 and its block belong to no sequence and are always
    masked.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.layers: dict[int, tuple[Any, Any]] = {}
        self.windows: dict[int, int | None] = {}  # the attention window of each layer; None: unlimited
        self._zeros: list[Zeros] = []

    @classmethod
    def like(cls, small: "KeyValueCache", places: int) -> "KeyValueCache":
        """An empty cache with the shapes of `small`."""
        cache = cls(places)
        for index, (keys, values) in small.layers.items():
            cache._add(index, keys, values)
        return cache

    def bytes_per_place(self) -> int:
        return sum(part[0].nbytes for layer in self.layers.values() for part in layer)

    def write(self, layer: int, places: Any, keys: Any, values: Any) -> tuple[Any, Any]:
        """Store `keys` and `values` [tokens, heads, head size]; returns the layer's whole tensors."""
        if layer not in self.layers:
            self._add(layer, keys, values)
        own_keys, own_values = self.layers[layer]
        own_keys.index_copy_(0, places, keys)
        own_values.index_copy_(0, places, values)
        return own_keys, own_values

    def clear(self, places: Any) -> None:
        """Set these places to zero: a masked value counts 0 times, and 0 times NaN is NaN."""
        for keys, values in self.layers.values():
            keys.index_fill_(0, places, 0)
            values.index_fill_(0, places, 0)

    def reset(self) -> None:
        """Forget everything. On a CPU the memory is returned to the system."""
        for zeros in self._zeros:
            zeros.reset()

    def _add(self, layer: int, keys: Any, values: Any) -> None:
        pair = [Zeros((self.places, *part.shape[1:]), part.dtype, part.device) for part in (keys, values)]
        self.layers[layer] = (pair[0].tensor, pair[1].tensor)
        self._zeros += pair
