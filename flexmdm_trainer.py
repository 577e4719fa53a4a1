"""FlexMDM training: the collator that noises rows, the loss (a negative ELBO up to a constant), and
the Trainer around it.

    L = E_t E_xt [ sum over masks  beta'/(1-beta) * -log p(x1[st[i]])
                   + sum over gaps  alpha'/(1-alpha) * phi(gaps[j], g[j]) ]
    phi(x, y) = y - x + x log(x / y)
(arXiv 2509.01025). t = 0 is the empty sequence, t = 1 the clean one. A network with a length
distribution also learns p(gaps[j] | xt, t).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.infills import draw_middle, format_flexmdm_infill
from flexmdm_interpolant import AnyOrderMaskInsertionInterpolant, schedule_from_config
from network.config import FlexMDMConfig
from network.cross_entropy import cross_entropy
from network.packed_rows import pad_rows
from training.masked_loss import Batch, masked_token_costs, places_of_masks, unwrapped
from training.trainer import DiffusionTrainer

# log g is bounded below by log of this: a true gap where the network predicts 0 costs about 14, not
# infinity
SMALLEST_GAP = 1e-6


def gap_loss(gaps: Tensor, log_length: Tensor) -> Tensor:
    """phi(x, y) = y - x + x log(x / y) elementwise, from log y, in fp32. A true gap of 0 costs
    exactly y.
    """
    gaps, log_length = gaps.float(), log_length.float().clamp_min(math.log(SMALLEST_GAP))
    return log_length.exp() - gaps + torch.xlogy(gaps, gaps) - gaps * log_length


def interpolant_of(config: FlexMDMConfig) -> AnyOrderMaskInsertionInterpolant:
    """The joint interpolant that a FlexMDM checkpoint's config names."""
    assert config.insertion_schedule and config.unmask_schedule  # FlexMDMConfig fills them in
    assert config.backbone and config.pad_token_id is not None  # a checkpoint says both
    return AnyOrderMaskInsertionInterpolant(
        schedule_from_config(config.insertion_schedule),
        schedule_from_config(config.unmask_schedule),
        config.backbone["vocab_size"],
        config.mask_token_id,
        config.pad_token_id,
        config.max_length,
    )


class FlexMDMCollator:
    """NoiseStream items -> one noised batch, trimmed to its longest xt.

    boundary_ids: None for text and question rows (the first prompt_length tokens stay clean); for
    infilling the tokens of the boundary marker: a random middle of the answer is put between
    markers, prefix and suffix stay clean. With attend_to_padding (the paper's code) nothing is
    trimmed: every batch is max_length long.
    """

    LAST_TIME = 1.0  # the time_uniform at which training's times end: t = 1 - time_epsilon

    def __init__(self, config: FlexMDMConfig, boundary_ids: Sequence[int] | None = None):
        self.config = config
        self.interpolant = interpolant_of(config)
        self.boundary_ids = boundary_ids

    def expected_cost(self, lengths: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Expected length of xt, the cost of a row for the network (ignoring prompts), (n,).
        lengths, times: (n,), tokens and time_uniform of each row.
        """
        alpha = self.interpolant.insertion_schedule.at(
            torch.from_numpy((1 - self.config.time_epsilon) * times)
        ).numpy()
        return lengths * alpha

    def frame(self, item: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(x1 (n,), which of its tokens stay clean (n,)) of one row."""
        ids, random = item["input_ids"], item["random"]
        if self.boundary_ids is None:
            keep = torch.arange(len(ids), device="cpu").numpy() < item["prompt_length"]
            return ids, keep
        start, end = draw_middle(len(ids), item["prompt_length"], *random.random(2))
        x1, first, last = format_flexmdm_infill(
            ids[:start], ids[start:end], ids[end:], self.boundary_ids
        )
        position = torch.arange(len(x1), device="cpu").numpy()
        return torch.as_tensor(x1).numpy(), (position < first) | (position >= last)

    def time(self, item: Mapping[str, Any]) -> float:
        """t of a row, float64, in [0, 1 - time_epsilon]."""
        return (1 - self.config.time_epsilon) * item["time_uniform"]

    def tokens(self, item: Mapping[str, Any]) -> int:
        """Exact length of a row's xt with its end slot. Consumes the item's random numbers."""
        ids, keep = self.frame(item)
        if self.config.attend_to_padding:
            return self.config.max_length + 1
        u_insert = torch.from_numpy(item["random"].random((2, len(ids)))[0])
        kept = self.time(item) >= self.interpolant.insertion_schedule.inv(u_insert)
        return int((kept.numpy() | keep).sum()) + 1

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """One batch: xt (B, L) as input_ids, timesteps (B,), the other inputs of the losses, and
        the facts of `held_out_facts`. Consumes the items' random numbers.
        """
        config = self.config
        framed = [self.frame(item) for item in items]
        width = config.max_length if config.attend_to_padding else None
        pad_id = self.interpolant.pad_token
        x1 = torch.from_numpy(pad_rows([ids for ids, _ in framed], pad_id, width))
        keep = torch.from_numpy(pad_rows([kept for _, kept in framed], False, width))
        draws = [item["random"].random((2, len(ids))) for item, (ids, _) in zip(items, framed)]
        uniforms = [
            torch.from_numpy(pad_rows([draw[which] for draw in draws], 0.0, width))
            for which in (0, 1)
        ]
        # (B,)
        t = torch.tensor([self.time(item) for item in items], dtype=torch.float64, device="cpu")
        result = self.interpolant.sample_interpolant(
            t, x1, keep, torch.tensor([len(ids) for ids, _ in framed], device="cpu"), uniforms
        )
        if not config.attend_to_padding:
            result = result.trim()
        gaps, gaps_mask = result.gaps_and_mask
        hidden = torch.arange(x1.shape[1], device="cpu") < result.x1_length[:, None]  # (B, N)
        row, place = (
            (
                (result.xt != config.mask_token_id)
                & (torch.arange(result.xt.shape[1], device="cpu") < result.xt_length[:, None])
            )
            .nonzero()
            .T
        )
        hidden[row, result.st[row, place]] = False
        places = {"mask_places": result.mask_indices.flatten().nonzero()[:, 0]}
        if not config.attend_to_padding:
            # the text and one end slot a row
            places["token_places"] = gaps_mask.flatten().nonzero()[:, 0]
        return {
            "x1": x1,
            "x1_hidden": hidden,
            "input_ids": result.xt,
            "timesteps": t.float(),
            "x1_length": result.x1_length,
            "xt_length": result.xt_length,
            "mask_indices": result.mask_indices,
            "targets": result.unmasked,
            "gaps": gaps,
            "gaps_mask": gaps_mask,
            "weight": torch.tensor([item.get("weight", 1.0) for item in items], device="cpu"),
            **places,
            **held_out_facts(items, [len(ids) - int(kept.sum()) for ids, kept in framed]),
        }


def held_out_facts(items: Sequence[Mapping[str, Any]], answer_tokens: Sequence[int]) -> Batch:
    """What an evaluation needs to know about each row, each (B,): its time_uniform, its number, the
    number of its tokens that are not given.
    """
    return {
        "time_uniform": torch.tensor(
            [item["time_uniform"] for item in items], dtype=torch.float64, device="cpu"
        ),
        "row": torch.tensor(
            [item.get("row", place) for place, item in enumerate(items)], device="cpu"
        ),
        "answer_tokens": torch.tensor(answer_tokens, device="cpu"),
    }


def flexmdm_losses(
    model: Any, batch: Batch, interpolant: AnyOrderMaskInsertionInterpolant
) -> Batch:
    """Both terms of the loss of each row, weighted, not yet normalised.

    batch: from FlexMDMCollator. Returns {"unmask": (B,), "insertion": (B,), "gap_error": (B,) sum
    |g - gap|}, fp32; with a length distribution also "missing" (B,), the sum over gaps of -log
    p(gaps[j]), which is not part of the negative ELBO.
    """
    xt, t = batch["input_ids"], batch["timesteps"]
    attention_mask = torch.arange(xt.shape[1], device=xt.device) < batch["xt_length"][:, None]
    places = places_of_masks(batch)  # (M,)
    config = getattr(unwrapped(model), "config", None)
    with_count = bool(getattr(config, "length_distribution", 0))
    output, costs = masked_token_costs(
        model,
        batch,
        xt,
        t,
        attention_mask=attention_mask,
        mask_places=places,
        **({"missing": batch["gaps"]} if with_count else {}),
    )
    unmask_weight, insert_weight = interpolant.elbo_weight(t, xt)  # (B, L), (B, L+1)
    row = places // xt.shape[1]  # (M,)
    weighted = costs * unmask_weight[row, places % xt.shape[1]]
    unmask = torch.zeros_like(t, dtype=weighted.dtype).index_add(0, row, weighted)
    gaps, gaps_mask = batch["gaps"], batch["gaps_mask"]
    insertion = (gap_loss(gaps, output["log_length"]) * insert_weight * gaps_mask).sum(1)
    gap_error = ((output["length"].detach() - gaps).abs() * gaps_mask).sum(1)
    losses = {"unmask": unmask, "insertion": insertion, "gap_error": gap_error}
    if with_count:
        losses["missing"] = (output["missing_loss"] * gaps_mask).sum(1)
    return losses


def flexmdm_reconstruction(model: Any, batch: Batch, x1: tuple[Tensor, Tensor, int]) -> Tensor:
    """The reconstruction term of the NLL bound at t = 1 - time_epsilon, (B,): -log of a Poisson
    number of masks in each gap, then of all masks at once when nothing is missing any more. batch:
    made at LAST_TIME; x1: (B, N), bool (B, N) where its tokens are still hidden, and the mask
    token.
    """
    xt, t = batch["input_ids"], batch["timesteps"]
    attention_mask = torch.arange(xt.shape[1], device=xt.device) < batch["xt_length"][:, None]
    none = torch.zeros_like(batch["mask_indices"])
    log_length = model(xt, t, attention_mask=attention_mask, logits_mask=none)["log_length"].float()
    gaps = batch["gaps"].float()
    # (B, L+1)
    poisson = (
        log_length.exp()
        - gaps * log_length.clamp_min(math.log(SMALLEST_GAP))
        + torch.lgamma(gaps + 1)
    )
    tokens, hidden, mask_id = x1
    attention_mask = torch.arange(tokens.shape[1], device=xt.device) < batch["x1_length"][:, None]
    output = model(
        torch.where(hidden, mask_id, tokens), t, attention_mask=attention_mask, logits_mask=hidden
    )
    costs = cross_entropy(output["logits"], tokens[hidden])
    return (poisson * batch["gaps_mask"]).sum(1).index_add(0, hidden.nonzero()[:, 0], costs)


class FlexMDMTrainer(DiffusionTrainer):
    """Hugging Face Trainer on the FlexMDM loss. Training adds the length distribution's loss, which
    is not part of the NLL bound.
    """

    TERMS = ("unmask", "insertion")

    def row_terms(self, model: Any, batch: Batch) -> Batch:
        """{"unmask", "insertion", in training "missing_loss" with a length distribution: (B,)}."""
        losses = flexmdm_losses(model, batch, self.data_collator.interpolant)
        terms = {term: losses[term] for term in self.TERMS}
        if not self.model.training:
            return terms
        terms = {term: loss * batch["weight"] for term, loss in terms.items()}
        counted = {} if "missing" not in losses else {"missing_loss": losses["missing"]}
        with torch.no_grad():
            self.note(
                len(batch["timesteps"]),
                batch["xt_length"].sum() + len(batch["timesteps"]),
                unmask_loss=terms["unmask"],
                insertion_loss=terms["insertion"],
                gap_error=losses["gap_error"],
                **counted,
                masks=batch["mask_indices"].sum(1),
                xt_length=batch["xt_length"],
                tokens=batch["x1_length"],
            )
        return terms | counted

    def reconstruction_terms(self, model: Any, batch: Batch) -> Tensor:
        """`flexmdm_reconstruction` of a batch at LAST_TIME."""
        return flexmdm_reconstruction(
            model, batch, (batch["x1"], batch["x1_hidden"], self.data_collator.config.mask_token_id)
        )
