"""From vocabulary logits to tokens: a LLaDA's logits, the network's confidence at a position, and
the token written there.

The latter two work through (n, V) logits in pieces, so that a vocabulary of 126,464 never needs a
second full copy.
"""

from typing import Any

import torch
from torch import Tensor

from network.packed_rows import Places

ELEMENTS_AT_ONCE = 2**23  # 66 positions of LLaDA's vocabulary, 32 MiB in fp32


def own_ids(
    model: Any, mask_id: int | None, pad_id: int | None, num_tokens: int | None
) -> tuple[int, int, int | None]:
    """(mask_id, pad_id, num_tokens) as given, or the model's own: those of its config, and the
    number of ids of the tokenizer beside its weights (None where it was not loaded from a folder
    with one). Raises ValueError where neither has a mask or padding token.
    """
    config = getattr(model, "config", None)
    mask_id = getattr(config, "mask_token_id", None) if mask_id is None else mask_id
    pad_id = getattr(config, "pad_token_id", None) if pad_id is None else pad_id
    if mask_id is None or pad_id is None:
        raise ValueError("give mask_id and pad_id: the model has no config with them")
    if mask_id == pad_id:
        raise ValueError(f"mask_id and pad_id are both {mask_id}")
    folder = getattr(model, "tokenizer_folder", None)
    if num_tokens is None and folder is not None:
        from llada_utils import vocabulary_of

        num_tokens = vocabulary_of(folder)
    return mask_id, pad_id, num_tokens


def evaluate(model: Any, ids: Tensor, real: Tensor, wanted: Tensor) -> Tensor:
    """Logits [n, V] at the wanted places, in row-major order, on the model's device. ids: long [B,
    L]; real (not padding), wanted: bool.
    """
    device = model.device
    options: dict[str, Any] = {"attention_mask": None if real.all() else real.to(device)}
    if not getattr(model, "supports_logits_mask", False):
        return model(ids.to(device), **options).logits[wanted.to(device)]
    if getattr(model, "supports_places", False) and device.type != "cpu":
        tokens, logits = (mask.flatten().nonzero()[:, 0].to(device) for mask in (real, wanted))
        options["places"] = Places(tokens, logits)
    return model(ids.to(device), **options, logits_mask=wanted.to(device)).logits


def excluded_tokens(
    vocabulary: int,
    mask_id: int,
    pad_id: int | None,
    num_tokens: int | None,
    device: torch.device | str,
) -> Tensor:
    """Bool (V,): ids that are never written: mask, padding, and rows of the vocabulary that have no
    token.
    """
    excluded = torch.zeros(vocabulary, dtype=torch.bool, device=device)
    for token in (mask_id, pad_id):
        if token is not None:
            excluded[token] = True
    if num_tokens is not None:
        excluded[num_tokens:] = True
    return excluded


def _pieces(logits: Tensor) -> tuple[Tensor, ...]:
    # there many small kernels cost more than 512 MiB
    at_once = ELEMENTS_AT_ONCE * (16 if logits.is_cuda else 1)
    return logits.split(max(1, at_once // logits.shape[-1]))


def confidence(logits: Tensor, excluded: Tensor, method: str) -> Tensor:
    """The confidence at each position, larger is more confident; the same dtype as logits, at least
    fp32.

    logits: (n, V); excluded: bool (V,); method: "top_prob" (largest probability), "prob_diff"
    (largest minus second), "entropy" (negative entropy, in nats). Returns (n,).
    """
    result = [_confidence(part, excluded, method) for part in _pieces(logits)]
    return torch.cat(result) if result else logits.new_zeros(0)


def _confidence(part: Tensor, excluded: Tensor, method: str) -> Tensor:
    # (n', V)
    part = part.to(torch.promote_types(part.dtype, torch.float32)).masked_fill(excluded, -torch.inf)
    log_total = part.logsumexp(-1)  # (n',)
    if method == "top_prob":
        return (part.amax(-1) - log_total).exp()
    if method == "prob_diff":
        first, index = part.max(-1)
        second = part.scatter_(-1, index[:, None], -torch.inf).amax(-1)
        return (first - log_total).exp() - (second - log_total).exp()
    log_p = part.sub_(log_total[:, None])
    return (log_p.exp() * log_p.clamp_min_(torch.finfo(log_p.dtype).min)).sum(-1)  # 0 log 0 = 0


def draw_tokens(logits: Tensor, excluded: Tensor, temperature: float, uniforms: Tensor) -> Tensor:
    """One token for each position, long (n,), -1 where the logits are not numbers or no token can
    be chosen (`check_tokens`).

    logits: (n, V); excluded: bool (V,); temperature: 0 takes the most probable token (the first of
    equals), T > 0 draws from softmax(logits / T) by inverting its distribution function; uniforms:
    float64 (n,) in (0, 1). Does not wait for the device.
    """
    exact = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    if temperature > 0:
        uniforms = uniforms.to(exact).to(logits.device, non_blocking=True)
    pieces = _pieces(logits)
    tokens = [
        _tokens(part, excluded, temperature, u)
        for part, u in zip(pieces, uniforms.split(len(pieces[0]) or 1))
    ]
    return torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.long, device=logits.device)


def _tokens(part: Tensor, excluded: Tensor, temperature: float, u: Tensor) -> Tensor:
    part = part.masked_fill(excluded, -torch.inf)  # (n', V)
    top, token = part.max(-1)
    if temperature > 0:
        exact = u.dtype
        cumulative = torch.softmax(part.to(exact) / temperature, -1).cumsum_(-1)  # (n', V)
        total = cumulative[:, -1:]
        # u * total may round up to total: the last token with a share
        last = (cumulative < total).sum(-1)
        token = torch.searchsorted(cumulative, u[:, None] * total, right=True)[:, 0].minimum(last)
    return torch.where(torch.isfinite(top), token, -1)


def log_probability(logits: Tensor, tokens: Tensor, excluded: Tensor) -> Tensor:
    """The network's own log probability of a token at each of n places (without temperature, as in
    LLaDA's code), float64 [n].

    logits: [n, V]; tokens: long [n]; excluded: bool [V], tokens that are never drawn.
    """
    if logits.device.type == "mps":  # has no float64
        logits, tokens, excluded = logits.cpu(), tokens.cpu(), excluded.cpu()
    at_once = max(1, ELEMENTS_AT_ONCE // logits.shape[1])
    parts = [
        part.double()
        .masked_fill(excluded, -torch.inf)
        .log_softmax(-1)
        .gather(-1, token[:, None])[:, 0]
        for part, token in zip(logits.split(at_once), tokens.clamp(min=0).split(at_once))
    ]
    return torch.cat(parts)


def check_tokens(tokens: Tensor) -> None:
    """Raises ValueError if draw_tokens had no token to choose. tokens: long (n,), on the CPU."""
    if bool((tokens < 0).any()):
        raise ValueError(
            "the network's logits leave no token to choose (not a number, infinite, or all"
            " excluded)"
        )


def to_cpu(*parts: Tensor | None) -> list[Any]:
    """The same tensors (or None) on the CPU, all of them in one transfer: values, at least fp32,
    and token ids below 2^24, which fp32 holds.
    """
    there = [part for part in parts if part is not None]
    if any(part.device.type != "cuda" for part in there):
        return [None if part is None else part.cpu() for part in parts]
    wide = torch.float64 if any(part.dtype == torch.float64 for part in there) else torch.float32
    flat = iter(
        torch.cat([part.flatten().to(wide) for part in there])
        .cpu()
        .split([part.numel() for part in there])
    )
    return [
        (
            None
            if part is None
            else next(flat)
            .view(part.shape)
            .to(
                torch.promote_types(part.dtype, torch.float32)
                if part.is_floating_point()
                else part.dtype
            )
        )
        for part in parts
    ]
