"""p(n | given): how many tokens follow a prompt or fill a hole, by a network's length distribution.

A FlexMDM is asked at t = 0 at the gap behind the prefix, where nothing has been inserted yet; a
LLaDA at a single mask that stands for all that is missing.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from common.errors import InputError
from sampling.drawn_counts import refuses_drawn_counts
from sampling.options import SharedOptions
from sampling.prefix_cache import refuses_cache

Ids: TypeAlias = Sequence[Sequence[int]]


def missing_log_probs(model: Any, prefixes: Ids, suffixes: Ids) -> Tensor:
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


def check_network_serves(model: Any, options: SharedOptions, checkpoint: str) -> None:
    """Refuse options of either sampler that the checkpoint's network cannot serve: to count without
    a length distribution, to cache the prompt where it must be computed every time. Raises
    InputError naming the flag.
    """
    counting = [
        f"--{name} {value}"
        for name, value in (("sampler", "count_first"), ("llada_length", "counted"))
        if getattr(options, name, None) == value
    ]
    share = getattr(options, "placed_share", None)
    counting += [] if share is None else [f"--placed_share {share:g}"]
    if counting and not getattr(model.config, "length_distribution", 0):
        raise InputError(
            f"{counting[0]}: {checkpoint} has no length distribution;"
            " scripts/fit_length_distribution.py fits one"
        )
    reason = getattr(options, "leap_counts", None) == "drawn" and refuses_drawn_counts(model)
    if reason:
        raise InputError(f"--leap_counts drawn: {checkpoint} {reason}")
    reason = options.cache_refresh is not None and refuses_cache(model)
    if reason:
        raise InputError(f"--cache_refresh {options.cache_refresh}: {checkpoint} {reason}")


@torch.no_grad()
def likeliest_lengths(
    model: Any, prefixes: Ids, suffixes: Ids, max_length: int, rows_at_once: int | None = None
) -> list[int]:
    """The likeliest number of tokens for each row that fits into max_length together with what is
    given: one network evaluation per row.
    """
    found: list[int] = []
    at_once = rows_at_once or max(1, len(prefixes))
    for start in range(0, len(prefixes), at_once):
        before, after = prefixes[start : start + at_once], suffixes[start : start + at_once]
        log_p = missing_log_probs(model, before, after).cpu()  # (B, most + 1)
        room = [max_length - len(a) - len(b) for a, b in zip(before, after)]
        n = torch.arange(log_p.shape[1], device="cpu")
        log_p[n > torch.tensor(room, device="cpu")[:, None]] = -torch.inf
        found += log_p.argmax(1).tolist()
    return found
