"""The ways to train that `bench.train` compares.

TRL 1.15 always computes the loss by its own fused head, without all logits; its `loss_type="chunked_nll"` is another
name for that. So `stock` has it, and `stock-logits` is transformers' Trainer with PEFT, which computes all logits.
TRL refuses Liger's fused head beside its own: `stock-liger` has Liger's layers, `stock-logits-liger` its head too.
"""

from bench.training.contracts import Rival

RIVALS = {
    rival.name: rival
    for rival in (
        Rival(name="page", runner="page_script", bits=4),
        Rival(name="page-16", runner="page_script", bits=16),
        Rival(name="page-16-wide", runner="page_script", bits=16, batching="wide"),
        Rival(name="stock", runner="stock_script", bits=4),
        Rival(name="stock-16", runner="stock_script", bits=16),
        Rival(name="stock-16-wide", runner="stock_script", bits=16, batching="wide"),
        Rival(name="stock-liger", runner="stock_script", bits=4, has_liger=True),
        Rival(name="stock-logits", runner="stock_script", bits=4, has_fused_head=False),
        Rival(name="stock-logits-liger", runner="stock_script", bits=4, has_liger=True, has_fused_head=False),
        Rival(name="ours-auto-16", runner="own_job", bits=16, layout="auto"),
        Rival(name="ours-auto-4", runner="own_job", bits=4, layout="auto"),
        Rival(name="ours-as-given", runner="own_job", bits=4, layout="as_given"),
    )
}
DEFAULT_RIVALS = ("page", "stock", "stock-liger", "ours-auto-16", "ours-auto-4", "ours-as-given")
# The rival that all others are compared with.
PAGE = "page"
