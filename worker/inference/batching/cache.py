"""Keys and values of all sequences, in one pair of tensors a layer: [places, heads, head size]."""

from typing import Any


class KeyValueCache:
    """A layer is made when it is first written to. Place 0 and its block belong to nobody, never read unmasked."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.layers: dict[int, tuple[Any, Any]] = {}
        self.windows: dict[int, int | None] = {}  # how far back each layer last looked; None: to the beginning

    @classmethod
    def like(cls, small: "KeyValueCache", places: int) -> "KeyValueCache":
        """An empty cache for the model that wrote to `small`."""
        cache = cls(places)
        for index, (keys, values) in small.layers.items():
            cache.layers[index] = (
                keys.new_zeros(places, *keys.shape[1:]),
                values.new_zeros(places, *values.shape[1:]),
            )
        return cache

    def bytes_per_place(self) -> int:
        return sum(part[0].nbytes for layer in self.layers.values() for part in layer)

    def write(self, layer: int, places: Any, keys: Any, values: Any) -> tuple[Any, Any]:
        """Store `keys` and `values` [tokens, heads, head size]; returns the layer's whole tensors."""
        if layer not in self.layers:
            self.layers[layer] = (
                keys.new_zeros(self.places, *keys.shape[1:]),
                values.new_zeros(self.places, *values.shape[1:]),
            )
        own_keys, own_values = self.layers[layer]
        own_keys.index_copy_(0, places, keys)
        own_values.index_copy_(0, places, values)
        return own_keys, own_values

    def clear(self, places: Any) -> None:
        """Forget what stands there: a masked key counts 0 times its value, and 0 times NaN is NaN."""
        for keys, values in self.layers.values():
            keys.index_fill_(0, places, 0)
            values.index_fill_(0, places, 0)
