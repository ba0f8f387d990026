"""One base model in memory with its adapters; an answer uses at most one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper

from worker.inference.engine import AdapterFolder
from worker.inference.models.adapters import Bundle, rejected, validate_bundle
from worker.inference.models.peft_shapes import PeftShapes


class MixedUp(RuntimeError):
    """The model is not in the state that the answer needs, so it must not answer."""


class Resident:
    """Keeps up to `max_adapters` adapters, at least 2, and drops the least recently used. Not thread-safe."""

    def __init__(self, model: Any, max_adapters: int) -> None:
        self.model = model
        self.adapters: list[str] = []  # least recently used first
        self._max_adapters = max_adapters
        self._peft: Any = None
        self._peft_shapes = PeftShapes(model.config)

    def ensure_adapter(self, adapter: AdapterFolder) -> None:
        """Load the adapter unless it is in memory. Raises Refusal if it does not fit this base; the model is unchanged
        then.
        """
        if adapter.name in self.adapters:
            self.adapters.remove(adapter.name)
        else:
            bundle = validate_bundle(adapter, self._peft_shapes)
            if bundle.bound_part is not None:
                raise rejected(adapter, f"{bundle.bound_part} cannot be served beside other adapters")
            while len(self.adapters) >= self._max_adapters:
                self._peft.delete_adapter(self.adapters.pop(0))
            self._attach(adapter.name, bundle)
        self.adapters.append(adapter.name)

    def _attach(self, name: str, bundle: Bundle) -> None:
        if self._peft is None:
            self._peft = PeftModel(self.model, bundle.config, adapter_name=name)
        else:
            self._peft.add_adapter(name, bundle.config)
        left = set_peft_model_state_dict(self._peft, bundle.tensors, adapter_name=name).unexpected_keys
        if left:
            raise MixedUp(f"{left[0]} of {name} was not loaded")
        self._peft.eval()  # PEFT creates layers in training mode, with the dropout of the training

    @contextmanager
    def answering_as(self, name: str | None) -> Iterator[Any]:
        """Yield the model with exactly this adapter active, or with none. Raises MixedUp if that state cannot be
        reached.
        """
        if name is None and self._peft is None:
            yield self.model
        elif name is None:
            # PEFT's own `disable_adapter` describes every layer first, which takes longer than some answers.
            self._peft.base_model.disable_adapter_layers()
            try:
                self._check_state(None)
                yield self.model
            finally:
                self._peft.base_model.enable_adapter_layers()
        else:
            self._peft.set_adapter(name, inference_mode=True)
            self._check_state(name)
            yield self.model

    def _check_state(self, name: str | None) -> None:
        """Check every layer, not PEFT's summary: a layer with another adapter would give wrong answers."""
        for path, layer in self.model.named_modules():
            if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) and not _is_in_state(layer, name):
                raise MixedUp(f"{path}: adapters {layer.active_adapters} are active, expected {name or 'none'}")


def _is_in_state(layer: Any, name: str | None) -> bool:
    if name is None:
        return bool(layer.disable_adapters)
    if layer.disable_adapters or getattr(layer, "merged", False):
        return False
    is_wrapper_of_others = isinstance(layer, AuxiliaryTrainingWrapper) and name not in layer._adapters
    return list(layer.active_adapters) == ([] if is_wrapper_of_others else [name])
