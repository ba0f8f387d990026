"""Writes a training's result: one folder with everything that serving needs, identified by the hash of its files.

adapter_config.json, adapter_model.safetensors    (or a whole model: full fine-tuning, LoftQ)
tokenizer files, chat_template.jinja              the same files as in training
generation_config.json                            with the list of tokens that end an answer
probe.json                                        the outputs that the engine has to reproduce, `app.contracts.probe`
tunesmith.json                                    the resolved spec, the versions, the base, hashes of the data
"""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from app import __version__
from app.contracts.events import AdapterSaved
from app.contracts.order import TrainingOrder
from app.contracts.portable import MANIFEST, PortableBase, is_text
from app.contracts.probe import PROBE, Probe
from app.contracts.rows import PREPARED
from app.contracts.spec import JobSpec
from app.hashing import hash_folder
from worker.hashing import version_of
from worker.rendering.renderer import load_renderer

PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft")


def save_bundle(
    model: Any, tokenizer: PreTrainedTokenizerBase, order: TrainingOrder, resolved: dict[str, Any], probe: Probe
) -> AdapterSaved:
    """Write the bundle to `order.adapter_dir`, which must not exist, and return its description."""
    folder = order.adapter_dir
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    folder.mkdir(parents=True)
    is_full = is_whole_model(order.spec)
    if is_full:
        merged(model).save_pretrained(str(folder))
    else:
        model.save_pretrained(str(folder), save_embedding_layers=False)  # trained ones are in modules_to_save
    describe(model, tokenizer, order, resolved, folder)
    (folder / PROBE).write_text(probe.model_dump_json())
    base = loaded_base(model)
    make_portable(folder, base, order.spec.model.model_name)
    sha256 = hash_folder(folder)
    return AdapterSaved(
        path=str(folder),
        version=version_of(sha256),
        sha256=sha256,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        base_model=base,
        base_revision=order.base.revision if base == order.base.source else None,
        adapter_kind="full" if is_full else "lora",
        rank=None if is_full else order.spec.lora.largest_rank,
        trainable_parameters=trainable,
    )


def describe(
    model: Any, tokenizer: PreTrainedTokenizerBase, order: TrainingOrder, resolved: dict[str, Any], folder: Path
) -> None:
    """Write every file of a bundle except the weights and the probe."""
    shutil.copytree(order.tokenizer, folder, dirs_exist_ok=True)
    ends = load_renderer(order.tokenizer).end_tokens
    generation_config(model, tokenizer, ends).save_pretrained(str(folder))
    manifest = {
        "job_id": order.job_id,
        "base_model": loaded_base(model),
        "base_revision": order.base.revision,
        "spec": order.spec.model_dump(mode="json"),
        "resolved": resolved,
        "data": json.loads((order.train_rows.parent / PREPARED).read_text()),
        "versions": {"tunesmith": __version__, **{name: version(name) for name in PACKAGES}},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def make_portable(folder: Path, base: str, name: str) -> None:
    """Let the bundle name a local base as the spec did: its users do not have the folder of this server."""
    portable = PortableBase.of(base, name)
    if portable is None:
        return
    for path in folder.rglob("*"):
        if path.is_file() and is_text(path.name, path.stat().st_size):
            path.write_bytes(portable.rename(path.read_bytes()))


def is_whole_model(spec: JobSpec) -> bool:
    """Whether a complete model is saved and not a LoRA."""
    return spec.model.full_finetuning or spec.lora.loftq_config is not None


def merged(model: Any) -> Any:
    """The complete model, with the LoRA merged if it has one. LoftQ needs this: it changes the base's weights, so its
    LoRA would be wrong on the original base."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def generation_config(model: Any, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str]) -> GenerationConfig:
    """The generation config for serving. The tokens that end an answer are `ends` and those of the model's config."""
    config = model.generation_config
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ids = [*(tokenizer.convert_tokens_to_ids(token) for token in ends), *(token for token in own if token is not None)]
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=list(dict.fromkeys(ids)), pad_token_id=tokenizer.pad_token_id
    )


def loaded_base(model: Any) -> str:
    """The model that was actually loaded: Unsloth may load another repository than the one that was named."""
    return str(model.config._name_or_path)
