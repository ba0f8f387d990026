"""Fourteen ways in which what is served can be another thing than what was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CONFIG, WEIGHTS, TOKENIZER, TEMPLATE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "chat_template.jinja",
)
OTHER_BASE, EARLIER = "base of another seed", "adapter of an earlier step"
Tensors = dict[str, Any]
# Of a copy of a bundle; the bundle itself is the second one.
Change = Callable[[Path, Path], None]


def _config(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def tamper(bundle: Path, _: Path) -> None:
        config = json.loads((bundle / CONFIG).read_text())
        (bundle / CONFIG).write_text(json.dumps({**config, **change(config)}))

    return tamper


def _tensors(change: Callable[[Tensors], Tensors]) -> Change:
    def tamper(bundle: Path, _: Path) -> None:
        save_file(change(load_file(bundle / WEIGHTS)), bundle / WEIGHTS)

    return tamper


def _last_layer_left_out(tensors: Tensors) -> Tensors:
    last = max(key.split("layers.")[1].split(".")[0] for key in tensors)
    return {k: t * 0 if f"layers.{last}." in k and "lora_B" in k else t for k, t in tensors.items()}


def _of_another(tensors: Tensors) -> Tensors:
    """Random ones of the same shapes and sizes."""
    rng = torch.Generator().manual_seed(1)
    return {k: torch.randn(t.shape, generator=rng).to(t.dtype) * _spread(t) for k, t in tensors.items()}


def _renamed(tensors: Tensors) -> Tensors:
    return {key.replace("layers.0.self_attn.q_proj", "layers.0.self_attn.query"): t for key, t in tensors.items()}


def _noisy(tensors: Tensors, share: float = 0.01) -> Tensors:
    rng = torch.Generator().manual_seed(2)
    noise = {k: torch.randn(t.shape, generator=rng).to(t.dtype) * _spread(t) for k, t in tensors.items()}
    return {k: t + share * noise[k] for k, t in tensors.items()}


def _spread(tensor: Any) -> Any:
    return tensor.std() if tensor.numel() > 1 else tensor.abs().max()


def _first(tensors: Tensors, matrix: str) -> str:
    return min(key for key in tensors if f"lora_{matrix}" in key)


def _truncated(bundle: Path, _: Path) -> None:
    whole = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(whole[: len(whole) * 2 // 3])


def _other_tokenizer(bundle: Path, _: Path) -> None:
    """The ordinary tokens have each other's ids."""
    tokenizer = json.loads((bundle / TOKENIZER).read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    ordinary = {word: number for word, number in tokenizer["model"]["vocab"].items() if word not in special}
    turned = dict(zip(ordinary, reversed(ordinary.values()), strict=True))
    tokenizer["model"]["vocab"] |= turned
    (bundle / TOKENIZER).write_text(json.dumps(tokenizer))


def _other_template(bundle: Path, _: Path) -> None:
    text = (bundle / TEMPLATE).read_text()
    (bundle / TEMPLATE).write_text(text.replace("<|im_start|>assistant\n", "<|im_start|>model\n"))


def _earlier(bundle: Path, original: Path) -> None:
    """Of the checkpoint in the middle; nothing is done to a bundle that has none."""
    found = sorted(original.parents[1].glob(f"checkpoints/step-*/{WEIGHTS}"))
    if found:
        save_file(load_file(found[0]), bundle / WEIGHTS)


TAMPERINGS: dict[str, Change | None] = {
    "alpha doubled": _config(lambda c: {"lora_alpha": 2 * c["lora_alpha"]}),
    "alpha halved": _config(lambda c: {"lora_alpha": c["lora_alpha"] / 2}),
    "one layer left out": _tensors(_last_layer_left_out),
    "A and B of another adapter": _tensors(_of_another),
    OTHER_BASE: None,
    "one tensor's sign": _tensors(lambda t: {**t, _first(t, "B"): -t[_first(t, "B")]}),
    "wrong rsLoRA scale": _config(lambda c: {"use_rslora": not c["use_rslora"]}),
    "truncated file": _truncated,
    "other tokenizer": _other_tokenizer,
    "other template": _other_template,
    "one LoRA module renamed": _tensors(_renamed),
    "dtype of one tensor": _tensors(lambda t: {**t, _first(t, "A"): t[_first(t, "A")].bfloat16()}),
    EARLIER: _earlier,
    "noise of 1 %": _tensors(_noisy),
}
