"""Shapes of base models for tests: Llama 3.2 3B, and one that is small enough to count by hand."""

from app.contracts.model_card import ModelCard
from app.contracts.model_shape import BaseShape

LLAMA_3B_CARD = ModelCard(
    positions=131_072,
    vocabulary=128_256,
    hidden_size=3072,
    intermediate_size=8192,
    layers=28,
    is_quantised=False,
    weight_bytes=6_425_529_112,
    heads=24,
    key_value_heads=8,
    head_dim=128,
    is_tied=True,
    parameters=3_212_749_824,
)
LLAMA_3B = BaseShape(
    weight_bytes=6_425_529_112,
    is_quantised=False,
    parameters=3_212_749_824,
    hidden=3072,
    intermediate=8192,
    layers=28,
    vocabulary=128_256,
    heads=24,
    key_value_heads=8,
    head_dim=128,
    is_tied=True,
    positions=131_072,
)
TINY = BaseShape(
    weight_bytes=603_000,
    is_quantised=False,
    parameters=151_000,
    hidden=64,
    intermediate=128,
    layers=2,
    vocabulary=600,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    is_tied=False,
    positions=2048,
)
TINY_CARD = ModelCard(
    positions=2048,
    vocabulary=600,
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    is_quantised=False,
    weight_bytes=603_000,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    is_tied=False,
    parameters=151_000,
)
