"""The decoding loop: one sequence, one token at a time."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache

from worker.inference.engine import Token
from worker.inference.text.sampling import TokenChooser


def decode(model: Any, prompt_ids: list[int], chooser: TokenChooser, *, use_cache: bool) -> Iterator[Token]:
    """Yield the tokens that follow the prompt, without end: the caller decides when the answer is complete.

    The next token is computed only when it is requested.
    """
    # Only the scores of the last position: for a long prompt all of them would not fit into memory.
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache = DynamicCache(config=model.config) if use_cache else None
    ids = torch.tensor([prompt_ids], device=model.device)
    unread = ids
    while True:
        with torch.inference_mode():
            output = model(input_ids=unread, past_key_values=cache, use_cache=use_cache, **options)
            token = chooser.choose(ids, output.logits[:, -1])
            ids = torch.cat([ids, ids.new_tensor([[token.id]])], dim=-1)
        unread = ids if cache is None else ids[:, -1:]
        yield token
