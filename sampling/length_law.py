"""p(n | given): how many tokens follow a prompt or fill a hole, by a network's length distribution.

A FlexMDM is asked at t = 0 at the gap behind the prefix, where nothing has been inserted yet; a
LLaDA at a single mask that stands for all that is missing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def missing_log_probs(
    model: Any, prefixes: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]]
) -> Tensor:
    """log p(n) for n = 0 ... most, (B, most + 1), in fp32 on the model's device: one network
    evaluation. Raises ValueError for a network without a length distribution.
    """
    config = model.config
    if not getattr(config, "length_distribution", 0):
        raise ValueError("the network has no length distribution (fit_length_distribution.py)")
    flexmdm = config.model_type == "flexmdm"
    middle = [] if flexmdm else [config.mask_token_id]
    rows = [[*before, *middle, *after] for before, after in zip(prefixes, suffixes)]
    lengths = torch.tensor([len(row) for row in rows], device="cpu")
    width = max(1, int(lengths.max())) if rows else 1
    ids = torch.tensor(
        [row + [config.pad_token_id] * (width - len(row)) for row in rows],
        dtype=torch.long,
        device="cpu",
    ).view(len(rows), width)  # (B, L)
    position = torch.arange(width, device="cpu")
    attention_mask = (position < lengths[:, None]).to(model.device)
    at = torch.tensor([len(before) for before in prefixes], device="cpu")
    if flexmdm:
        none = torch.zeros_like(ids, dtype=torch.bool).to(model.device)
        output = model(
            ids.to(model.device),
            torch.zeros(len(rows), device=model.device),
            attention_mask=attention_mask,
            logits_mask=none,
            missing_at=(torch.arange(len(rows), device="cpu") * (width + 1) + at).to(model.device),
        )
        return output["missing_log_probs"]
    return model(
        ids.to(model.device),
        attention_mask=attention_mask,
        logits_mask=(position == at[:, None]).to(model.device),
        missing=True,
    ).logits
