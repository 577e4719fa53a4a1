"""The cross-entropy of a vocabulary head, chunk by chunk: all logits never exist at once, neither
in the forward nor in the backward pass.

    loss[i] = -log softmax(head(hidden[i]))[target[i]]
Each chunk's logits are computed, reduced to losses and dropped; the backward pass recomputes them
(activation checkpointing), with the same dropout. `head` is called as a module: LoRA on it,
autocast and ZeRO-3's or FSDP's hooks work as usual.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# of one chunk's logits in fp32, 265 positions at V = 126,464; about five such arrays live in its
# backward
CHUNK_BYTES = 2**27


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target), in fp32 or higher precision: logits (M, V), targets (M,) -> (M,)."""
    return F.cross_entropy(
        logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none"
    )


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> Tensor:
    """cross_entropy(head(hidden), targets), (M,), at most CHUNK_BYTES of logits at a time.

    head: (m, d) -> (m, V); hidden: (M, d); targets: long (M,), M may be 0; vocabulary: V.
    """

    def costs(hidden, targets):
        return cross_entropy(head(hidden), targets)

    rows = max(1, CHUNK_BYTES // (4 * vocabulary))
    if len(hidden) <= rows:
        return costs(hidden, targets)
    chunks = zip(hidden.split(rows), targets.split(rows))
    if not torch.is_grad_enabled():
        return torch.cat([costs(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(costs, *chunk, use_reentrant=False) for chunk in chunks])
