"""A variant of a base: the weights that a trainer computed with after it quantised the base while loading."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.contracts.base import Contract

KINDS = {"nf4": "dequant-nf4", "fp4": "dequant-fp4"}


class BaseVariant(Contract):
    """The base in full precision, with weights that bitsandbytes has quantised and de-quantised.

    All adapters with the same base and variant share one model.
    """

    name: Literal["dequant-nf4", "dequant-fp4", "dequant-int8"]
    is_nested: bool = Field(False, description="the scales of 4 bits are quantised too (bnb_4bit_use_double_quant)")
    kept: Annotated[tuple[str, ...] | None, Field(max_length=1000)] = Field(
        None, description="modules that are not quantised (llm_int8_skip_modules); null: transformers' default"
    )


def variant_of(quantisation: dict[str, Any]) -> BaseVariant | None:
    """Return the variant that a model's `quantization_config` makes, or None for a method other than bitsandbytes."""
    method = quantisation.get("quant_method")
    if getattr(method, "value", method) != "bitsandbytes":
        return None
    kept = quantisation.get("llm_int8_skip_modules")
    modules = None if kept is None else tuple(sorted(kept))
    if quantisation.get("load_in_8bit"):
        return BaseVariant(name="dequant-int8", kept=modules)
    name = KINDS.get(str(quantisation.get("bnb_4bit_quant_type")))
    is_nested = bool(quantisation.get("bnb_4bit_use_double_quant"))
    return None if name is None else BaseVariant.model_validate({"name": name, "is_nested": is_nested, "kept": modules})
