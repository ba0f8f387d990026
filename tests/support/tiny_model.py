"""A chat model that is small enough to train and to serve on any CPU within a second, with weights of a fixed seed."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

MOST_TOKENS = 600
CONTEXT_TOKENS = 2048
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog while the sun is shining on the old river bank.",
    "What is the next number of the Fibonacci sequence after eighty nine? It is one hundred and forty four.",
    "A teacher asks a question and the students answer it, one after another, until all of them have spoken.",
    "You are a helpful assistant. Write a short story about a house in which nobody has lived for many years.",
    "The price of bread has risen again, and the people in the city want to know what the government will do.",
    "Every morning she walks to the station, buys a newspaper, and waits for the train that comes from the north.",
)


def build_tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    heads: int = 4,
    family: str = "Llama",
    layers: int = 2,
    vocabulary: int | None = None,
    spread: float = 0.02,
) -> Path:
    """Write a random two-layer model with a byte-level ChatML tokenizer into the folder, as float32 safetensors.

    `family` is the beginning of the names of transformers' classes; a Qwen2 has biases. `vocabulary`: more tokens than
    the tokenizer has. `spread` is the standard deviation of the weights.
    """
    tokenizer = _tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=vocabulary or len(tokenizer),
        initializer_range=spread,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        bos_token_id=None,
        dtype="float32",
        **ends,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        min_frequency=1,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_TOKENS,
    )
    fast.chat_template = CHATML
    return fast
