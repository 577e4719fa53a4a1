"""The baseline's training: plain masked diffusion (LLaDA).

    L = E_r E [ sum over masked answer tokens  1/r * -log p(x[i]) ]
    r = mask ratio = (1 - eps) u + eps
(arXiv 2502.09992). Here `mask_ratio` runs the other way from FlexMDM's t: 1 is all masks. The sum
is divided by a constant. Instruction rows are filled to full length with end-of-text tokens that
belong to the answer: attended to, noised and predicted. This is how LLaDA learns to stop. Text rows
for pretraining are padded instead; padding is neither attended to nor predicted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.infills import LLaDALayout, draw_middle, format_llada_infill
from flexmdm_trainer import held_out_facts
from network.packed_rows import pad_rows
from training.masked_loss import Batch, masked_token_costs, places_of_masks
from training.trainer import DiffusionTrainer


class LLaDACollator:
    """NoiseStream items -> masked batch.

    fill_length: instruction tuning, every row is filled with pad_id (= end of text) to this length
    and all of it is answer;
    None: rows are padded to the batch's longest. infill_layout: None, or the token parts that
    format_llada_infill needs.
    """

    LAST_TIME = 0.0  # the time_uniform at which training's mask ratios end: epsilon

    def __init__(
        self,
        mask_id: int,
        pad_id: int,
        fill_length: int | None = None,
        infill_layout: LLaDALayout | None = None,
        epsilon: float = 1e-3,
    ):
        self.mask_id = mask_id
        self.pad_id = pad_id
        self.fill_length = fill_length
        self.infill_layout = infill_layout
        self.epsilon = epsilon

    def frame(self, item: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        """(ids (n,), number of prompt tokens) of one row."""
        ids = item["input_ids"]
        if self.infill_layout is None:
            return ids, item["prompt_length"]
        start, end = draw_middle(len(ids), item["prompt_length"], *item["random"].random(2))
        framed, prompt_length = format_llada_infill(
            ids[:start], ids[start:end], ids[end:], self.infill_layout
        )
        return np.asarray(framed, dtype=np.int64), prompt_length

    def tokens(self, item: Mapping[str, Any]) -> int:
        """Length of a row as the network sees it."""
        return self.fill_length or len(self.frame(item)[0])

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """One batch: masked rows (B, L) as input_ids, their targets and mask ratios (B,), and the
        facts of `held_out_facts`. Consumes the items' random numbers.
        """
        framed = [self.frame(item) for item in items]
        # (B, L)
        ids = torch.from_numpy(pad_rows([row for row, _ in framed], self.pad_id, self.fill_length))
        # (B,)
        real = torch.tensor(
            [len(row) if self.fill_length is None else self.fill_length for row, _ in framed],
            device="cpu",
        )
        uniforms = torch.from_numpy(
            pad_rows(
                [item["random"].random(int(n)) for item, n in zip(items, real)], 1.0, ids.shape[1]
            )
        )
        time_uniform = torch.tensor(
            [item["time_uniform"] for item in items], dtype=torch.float64, device="cpu"
        )
        mask_ratio = (1 - self.epsilon) * time_uniform + self.epsilon  # (B,)
        position = torch.arange(ids.shape[1], device="cpu")
        attention_mask = position < real[:, None]
        answer = attention_mask & (
            position >= torch.tensor([length for _, length in framed], device="cpu")[:, None]
        )
        masks = answer & (uniforms < mask_ratio[:, None])
        places = {"mask_places": masks.flatten().nonzero()[:, 0]}
        if not attention_mask.all():
            places["token_places"] = attention_mask.flatten().nonzero()[:, 0]
        return {
            "input_ids": torch.where(masks, self.mask_id, ids),
            "attention_mask": attention_mask,
            "mask_indices": masks,
            **places,
            "targets": ids,
            "mask_ratio": mask_ratio.float(),
            "x1_length": torch.tensor([len(row) for row, _ in framed], device="cpu"),
            **held_out_facts(items, [len(row) - prompt for row, prompt in framed]),
        }


def token_costs(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy at every masked position (M,), in fp32, and the row of each (M,)."""
    places = places_of_masks(batch)  # (M,)
    whole = "token_places" not in batch and (
        "mask_places" in batch or bool(batch["attention_mask"].all())
    )
    _, costs = masked_token_costs(
        model,
        batch,
        batch["input_ids"],
        attention_mask=None if whole else batch["attention_mask"],
        mask_places=places,
    )
    return costs, places // batch["input_ids"].shape[1]


def llada_losses(model: Any, batch: Batch) -> Tensor:
    """Loss of each row (B,): cross-entropy over masked answer tokens / mask_ratio, in fp32, not yet
    normalised.
    """
    mask_ratio = batch["mask_ratio"]
    costs, row = token_costs(model, batch)
    weighted = costs / mask_ratio[row]
    return torch.zeros_like(mask_ratio, dtype=weighted.dtype).index_add(0, row, weighted)


class LLaDATrainer(DiffusionTrainer):
    """Hugging Face Trainer on the masked diffusion loss."""

    TERMS = ("unmask",)

    def row_terms(self, model: Any, batch: Batch) -> Batch:
        """{"unmask": (B,)}."""
        losses = llada_losses(model, batch)
        self.note(
            len(losses),
            batch["attention_mask"].sum(),
            unmask_loss=losses.detach(),
            masks=batch["mask_indices"].sum(1),
            tokens=batch["x1_length"],
        )
        return {"unmask": losses}

    def reconstruction_terms(self, model: Any, batch: Batch) -> Tensor:
        """At the smallest mask ratio, all masks are unmasked at once, (B,)."""
        costs, row = token_costs(model, batch)
        return torch.zeros_like(batch["mask_ratio"]).index_add(0, row, costs)
