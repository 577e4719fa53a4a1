"""LLaDA-8B's shapes with random weights, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpu_benchmark.bench import CANVAS, Bench

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LORA = {"r": 128, "lora_alpha": 128, "lora_dropout": 0.0}


def fill(bench: Bench, model: nn.Module, base_dtype: torch.dtype) -> nn.Module:
    """Random numbers for a model built on the meta device: base in base_dtype, everything that
    trains in fp32.
    """
    torch = bench.torch
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = torch.empty_like(
                    parameter,
                    dtype=torch.float32 if parameter.requires_grad else base_dtype,
                    device=bench.device,
                )
                (
                    made.normal_(std=0.02)
                    if made.ndim > 1
                    else made.fill_(1.0 if "weight" in name else 0.0)
                )
                module._parameters[name] = torch.nn.Parameter(
                    made, requires_grad=parameter.requires_grad
                )
    return model


def flexmdm(bench: Bench, lora: dict[str, Any] | None = None) -> Any:
    """A FlexMDM with random weights, on the device; without lora everything but the newly
    initialised modules is frozen.
    """
    from llada_utils import build_flexmdm
    from network.config import FlexMDMConfig, LLaDAConfig

    v, size = bench.vocabulary, bench.size
    backbone = LLaDAConfig(
        **size,
        n_kv_heads=size["n_heads"],
        embedding_size=v,
        mask_token_id=v - 1,
        pad_token_id=v - 2,
        eos_token_id=v - 2,
    )
    model = build_flexmdm(
        FlexMDMConfig(
            backbone=backbone.to_json(),
            mask_token_id=v - 1,
            pad_token_id=v - 2,
            lora=lora,
            max_length=CANVAS,
        )
    )
    if lora is None:
        model.backbone.requires_grad_(False)
    return fill(bench, model, bench.torch.bfloat16)


def batch_of(bench: Bench, lengths: Sequence[int]) -> dict[str, Tensor]:
    """Rows of CANVAS tokens of which noising left that many, as FlexMDMCollator gives them; the
    share of masks is the linear schedules'.
    """
    torch, v = bench.torch, bench.vocabulary
    random = torch.Generator().manual_seed(1)
    left = torch.tensor(lengths)
    width, t = int(left.max()), left / CANVAS
    masked = torch.where(t < 1, -(1 - t) * torch.log1p(-t) / t, 0.0)  # P(mask | kept)
    kept = torch.arange(width) < left[:, None]
    masks = kept & (torch.rand(len(left), width, generator=random) < masked[:, None])
    targets = torch.randint(0, v - 2, (len(left), width), generator=random)
    gaps = torch.zeros(len(left), width + 1, dtype=torch.long).scatter(
        1, left[:, None], (CANVAS - left)[:, None]
    )
    gaps_mask = torch.arange(width + 1) <= left[:, None]
    batch = {
        "input_ids": torch.where(kept, torch.where(masks, v - 1, targets), v - 2),
        "timesteps": t.clamp(max=0.999),
        "xt_length": left,
        "mask_indices": masks,
        "targets": targets,
        "gaps": gaps,
        "gaps_mask": gaps_mask,
        "mask_places": masks.flatten().nonzero()[:, 0],
        "token_places": gaps_mask.flatten().nonzero()[:, 0],
    }
    return {name: value.to(bench.device) for name, value in batch.items()}


def batches(bench: Bench) -> dict[str, tuple[int, ...]]:
    """{name: lengths}: the small micro-batch of earlier measurements, and one of 16,384
    tokens.
    """
    if bench.small:
        return {"2 rows": (3, 20), "4 rows": (5, 10, 15, 20)}
    return {
        "4 x 1,024, 2,391 tokens": (10, 475, 901, 1005),
        "32 x 1,024, 16,384 tokens": tuple(range(16, 1024, 32)),
    }
