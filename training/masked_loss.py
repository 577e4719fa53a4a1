"""What both losses have in common: -log p(target) at every mask, from a network that computes it
chunk by chunk (network/cross_entropy.py) or from the logits of any other.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from network.cross_entropy import cross_entropy
from network.packed_rows import Places

Batch: TypeAlias = dict[str, Tensor]  # what a collator makes of B rows


def unwrapped(model: Any) -> Any:
    """The model inside DDP or DeepSpeed, or the model itself."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model


def supports(model: Any, what: str) -> bool:
    """Whether a model, or the one inside DDP or DeepSpeed, has the `supports_...` attribute of this
    name set.
    """
    return getattr(unwrapped(model), f"supports_{what}", False)


def places_of_masks(batch: Mapping[str, Tensor]) -> Tensor:
    """Flat positions (M,) of a batch's masks, from its collator if it gives them, which avoids a
    synchronisation with the device.
    """
    return (
        batch["mask_places"]
        if "mask_places" in batch
        else batch["mask_indices"].flatten().nonzero()[:, 0]
    )


def masked_token_costs(
    model: Any,
    batch: Mapping[str, Tensor],
    *arguments: Tensor,
    attention_mask: Tensor | None,
    mask_places: Tensor,
    **options: Any,
) -> tuple[Any, Tensor]:
    """(what the model returns, -log p(target) at every mask (M,) in fp32 or higher precision).
    batch: mask_indices and targets (B, L), and token_places if rows are to be packed; mask_places:
    long (M,), from `places_of_masks`; options: passed to the model."""
    targets = batch["targets"].flatten().index_select(0, mask_places)
    options |= {"attention_mask": attention_mask, "logits_mask": batch["mask_indices"]}
    if supports(model, "places") and (attention_mask is None or "token_places" in batch):
        options["places"] = Places(batch.get("token_places"), mask_places)
    if supports(model, "targets"):
        output = model(*arguments, **options, targets=targets)
        return output, output["token_loss" if "token_loss" in output else "loss"]
    output = model(*arguments, **options)
    return output, cross_entropy(
        output["logits"] if isinstance(output, dict) else output.logits, targets
    )
