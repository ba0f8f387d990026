"""Loads a base model from its folder: safetensors only, no code from the folder, and no missing weights.

If a de-quantised base is requested (`BaseVariant`), it is quantised while loading, as the trainer did, and converted
back to full precision at once: it has the values that were trained on, and computes like any other base.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from app.contracts.model_card import ADAPTER_CONFIG, CONFIG
from app.contracts.variant import BaseVariant
from worker.base_files import own_memory, stamps
from worker.inference.engine import ModelFolder, Refusal
from worker.inference.server.sources import unavailable
from worker.rope import scale

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Errors that transformers raises for a folder from which it cannot load a model.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
log = logging.getLogger(__name__)
# PEFT and transformers patch torch for the whole process while they create a model on the `meta` device.
MAKING = threading.RLock()


@dataclass(frozen=True)
class Placement:
    """The device and dtype of the weights."""

    device: str
    dtype: Any

    @classmethod
    def choose(cls, device: str, dtype: str) -> "Placement":
        """`auto` selects the first GPU if there is one, with bfloat16 (float16 before Ampere), else the CPU with
        float32.
        """
        if device == "auto":
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        if dtype != "auto":
            return cls(device, DTYPES[dtype])
        if not device.startswith("cuda"):
            return cls(device, torch.float32)
        return cls(device, torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16)


def load_base(base: ModelFolder, placement: Placement) -> Any:
    """Load the model, ready to answer. Raises Refusal `model_unavailable`; out-of-memory errors are passed on."""
    _check_files(base)
    how = {} if base.variant is None else {"quantization_config": quantisation_of(base.variant, placement)}
    if base.scaled_to is not None:
        how["config"] = load_config(base)
    try:
        with MAKING:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(base.folder),
                dtype=placement.dtype,
                device_map=placement.device,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **how,
            )
            if base.variant is not None:
                model = model.dequantize(dtype=placement.dtype)
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE as error:
        raise _unreadable(base, error) from None
    _check_complete(base, found)
    own_memory(model, base.folder)
    if base.files and base.files != stamps(base.folder):
        raise unavailable(503, base.name, "was replaced while it was loaded; try again")
    return model.eval()


def quantisation_of(variant: BaseVariant, placement: Placement) -> Any:
    """The quantisation config with which transformers quantises a model while loading it."""
    kept = None if variant.kept is None else list(variant.kept)
    if variant.name == "dequant-int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=variant.name.removeprefix("dequant-"),
        bnb_4bit_use_double_quant=variant.is_nested,
        bnb_4bit_compute_dtype=placement.dtype,
        llm_int8_skip_modules=kept,
    )


def load_config(base: ModelFolder) -> Any:
    """The model's config; also checks that its weights exist. Raises Refusal `model_unavailable`."""
    _check_files(base)
    return read_config(base)


def read_config(base: ModelFolder) -> Any:
    """The config as transformers reads it, even without weights. Raises Refusal `model_unavailable`."""
    try:
        config = AutoConfig.from_pretrained(str(base.folder), trust_remote_code=False, local_files_only=True)
        if base.scaled_to is not None:
            scale(config, base.scaled_to)
        return config
    except UNREADABLE as error:
        raise _unreadable(base, error) from None


def _unreadable(base: ModelFolder, error: Exception) -> Refusal:
    log.warning("%s could not be loaded", base.name, exc_info=error)
    return unavailable(502, base.name, f"cannot be loaded ({type(error).__name__})")


def _check_files(base: ModelFolder) -> None:
    if not (base.folder / CONFIG).is_file():
        raise unavailable(404, base.name, f"has no {CONFIG}")
    if not any(base.folder.glob("*.safetensors")):
        raise unavailable(404, base.name, "has no weights in safetensors form")
    if (base.folder / ADAPTER_CONFIG).exists():
        raise unavailable(404, base.name, "is an adapter, not a whole model")


def _check_complete(base: ModelFolder, found: dict[str, Any]) -> None:
    """Raises Refusal if weights are missing: transformers fills them with random numbers, and such a model must not
    answer.
    """
    for kind in ("missing_keys", "mismatched_keys"):
        wrong = sorted(str(key) for key in found[kind])
        if wrong:
            raise unavailable(502, base.name, f"is incomplete: {kind.removesuffix('_keys')} weights, first {wrong[0]}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. A GPU has an exception type for it, the CPU allocator only a message."""
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
