"""Finds out which of the fast ways of training a loaded model can take."""

from typing import Any

import torch
from unsloth.models.llama import resolve_logit_transforms
from unsloth.utils import attention_dispatch
from unsloth_zoo.fused_losses import unsloth_fused_ce_loss

from app.contracts.spec import JobSpec
from worker.training.micro_batches.graphs import Body, BodyGraphs

EMBEDDINGS = ("lm_head", "embed_tokens")


def use_flash_over_segments() -> None:
    """Let Unsloth use torch's flash kernel over the segments of a packed row also with a torch older than 2.12.

    Unsloth wants `varlen_attn` to have `enable_gqa`, and otherwise launches attention once a segment, which takes more
    than twice the time of a step. The kernel beneath, which it calls directly, has always taken grouped queries.
    """
    is_missing = getattr(attention_dispatch, "_TORCH_VARLEN_ATTN", None) is None
    if is_missing and torch.cuda.is_available() and torch.backends.cuda.is_flash_attention_available():
        attention_dispatch._TORCH_VARLEN_ATTN = torch.ops.aten._flash_attention_forward
        attention_dispatch._LEAN_VARLEN = True
        attention_dispatch._varlen_can_use_cudnn = lambda *_: False


def body_graphs(model: Any, spec: JobSpec, args: Any, step_rows: int) -> BodyGraphs | None:
    """The graphs of a model, or None if its steps cannot be recorded.

    Recomputation copies activations to the host, dropout and noise draw random numbers whose order a checkpoint
    continues, fp16 scales the loss by a number on the host, and label smoothing needs all logits.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    is_plain = args.bf16 and not args.label_smoothing_factor and not spec.lora.lora_dropout
    is_kept = not args.gradient_checkpointing and not spec.model.full_finetuning
    is_fast = torch.cuda.is_available() and "_fast_forward" in type(causal).forward.__qualname__
    trains_embeddings = any(part in EMBEDDINGS for name, _ in trained for part in name.split("."))
    if not (is_plain and is_kept and is_fast) or trains_embeddings:
        return None
    body = Body(causal, _head_of(causal), torch.bfloat16)
    return BodyGraphs(body, [one for _, one in trained], most_segments=step_rows + 1)


def _head_of(causal: Any) -> Any:
    """The loss that Unsloth's own forward pass computes (`CausalLM_fast_forward`)."""
    softcapping, multiplied, divided = resolve_logit_transforms(causal.config)

    def loss(hidden: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found: torch.Tensor = unsloth_fused_ce_loss(
                trainer=None,
                hidden_states=hidden,
                lm_head_weight=causal.lm_head.weight,
                lm_head_bias=None,
                labels=labels,
                n_items=targets,
                logit_softcapping=softcapping,
                logit_scale_multiply=multiplied,
                logit_scale_divide=divided,
            )
        return found

    return loss
