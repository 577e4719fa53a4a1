"""FlexMDM training: the collator that noises rows, the loss (a negative ELBO up to a constant), and the Trainer around it.

    L = E_t E_xt [ sum over masks beta'/(1-beta) * -log p(x1[st[i]]) + sum over gaps alpha'/(1-alpha) * phi(gaps[j], g[j]) ]
    phi(x, y) = y - x + x log(x / y)
(arXiv 2509.01025). t = 0 is the empty sequence, t = 1 the clean one.
"""
import torch
import torch.nn.functional as F

from flexmdm_interpolant import AnyOrderMaskInsertionInterpolant, schedule_from_config
from noise_stream import pad_rows
from preprocess_code_infilling import draw_middle, frame_flexmdm
from training_run import DiffusionTrainer

SMALLEST_GAP = 1e-6         # log g is bounded below by log of this: a true gap where the network says 0 costs about 14, not infinity


def gap_loss(gaps, log_length):
    """phi(x, y) = y - x + x log(x / y) elementwise, from log y, in fp32. A true gap of 0 costs exactly y."""
    gaps, log_length = gaps.float(), log_length.float().clamp_min(torch.log(torch.tensor(SMALLEST_GAP)))
    return log_length.exp() - gaps + torch.xlogy(gaps, gaps) - gaps * log_length


def unmask_loss(logits, targets):
    """-log p(target) at every masked position, in fp32: logits (M, V), targets (M,) -> (M,)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def interpolant_of(config):
    """The joint interpolant that a FlexMDM checkpoint's config names."""
    return AnyOrderMaskInsertionInterpolant(
        schedule_from_config(config.insertion_schedule), schedule_from_config(config.unmask_schedule),
        config.backbone["vocab_size"], config.mask_token_id, config.pad_token_id, config.max_length)


class FlexMDMCollator:
    """NoiseStream items -> one noised batch, trimmed to its longest xt.

    boundary_ids: None for text and question rows (the first prompt_length tokens stay clean); for infilling the tokens of the
    boundary marker: a random middle of the answer is framed, prefix and suffix stay clean.
    With attend_to_padding (the paper's code) nothing is trimmed: every call is max_length long.
    """

    def __init__(self, config, boundary_ids=None):
        self.config, self.interpolant, self.boundary_ids = config, interpolant_of(config), boundary_ids

    def expected_cost(self, lengths, times):
        """Expected length of xt, what a row costs the network (prompts apart)."""
        alpha = self.interpolant.insertion_schedule.at(torch.from_numpy((1 - self.config.time_epsilon) * times)).numpy()
        return lengths * alpha

    def frame(self, item):
        """(x1 (n,), which of it stay clean (n,)) of one row."""
        ids, random = item["input_ids"], item["random"]
        if self.boundary_ids is None:
            keep = torch.arange(len(ids)).numpy() < item["prompt_length"]
            return ids, keep
        start, end = draw_middle(len(ids), item["prompt_length"], *random.random(2))
        x1, first, last = frame_flexmdm(ids[:start], ids[start:end], ids[end:], self.boundary_ids)
        position = torch.arange(len(x1)).numpy()
        return torch.as_tensor(x1).numpy(), (position < first) | (position >= last)

    def __call__(self, items):
        config = self.config
        framed = [self.frame(item) for item in items]
        width = config.max_length if config.attend_to_padding else None
        x1 = torch.from_numpy(pad_rows([ids for ids, _ in framed], config.pad_token_id, width))
        keep = torch.from_numpy(pad_rows([kept for _, kept in framed], False, width))
        draws = [item["random"].random((2, len(ids))) for item, (ids, _) in zip(items, framed)]
        uniforms = [torch.from_numpy(pad_rows([draw[which] for draw in draws], 0.0, width)) for which in (0, 1)]
        t = (1 - config.time_epsilon) * torch.tensor([item["time_uniform"] for item in items], dtype=torch.float64)    # (B,)
        result = self.interpolant.sample_interpolant(t, x1, keep, torch.tensor([len(ids) for ids, _ in framed]), uniforms)
        if not config.attend_to_padding:
            result = result.trim()
        gaps, gaps_mask = result.gaps_and_mask
        return {"input_ids": result.xt, "timesteps": t.float(), "x1_length": result.x1_length, "xt_length": result.xt_length,
                "mask_indices": result.mask_indices, "targets": result.unmasked, "gaps": gaps, "gaps_mask": gaps_mask}


def flexmdm_losses(model, batch, interpolant):
    """Both terms of the loss of every row, weighted, not yet divided by anything.

    batch: what FlexMDMCollator makes. Returns {"unmask": (B,), "insertion": (B,), "gap_error": (B,) sum |g - gap|}, fp32.
    """
    xt, t, masks = batch["input_ids"], batch["timesteps"], batch["mask_indices"]
    attention_mask = torch.arange(xt.shape[1], device=xt.device) < batch["xt_length"][:, None]
    output = model(xt, t, attention_mask=attention_mask, logits_mask=masks)
    unmask_weight, insert_weight = interpolant.elbo_weight(t, xt)               # (B, L), (B, L+1)
    row = masks.nonzero()[:, 0]                                                 # (M,)
    costs = unmask_loss(output["logits"], batch["targets"][masks]) * unmask_weight[masks]
    unmask = torch.zeros_like(t).index_add(0, row, costs)
    gaps, gaps_mask = batch["gaps"], batch["gaps_mask"]
    insertion = (gap_loss(gaps, output["log_length"]) * insert_weight * gaps_mask).sum(1)
    gap_error = ((output["length"].detach() - gaps).abs() * gaps_mask).sum(1)
    return {"unmask": unmask, "insertion": insertion, "gap_error": gap_error}


class FlexMDMTrainer(DiffusionTrainer):
    """Hugging Face Trainer on the FlexMDM loss."""

    def row_losses(self, model, batch):
        losses = flexmdm_losses(model, batch, self.data_collator.interpolant)
        with torch.no_grad():
            self.note(len(batch["timesteps"]), unmask_loss=losses["unmask"], insertion_loss=losses["insertion"],
                      gap_error=losses["gap_error"], masks=batch["mask_indices"].sum(1), xt_length=batch["xt_length"],
                      tokens=batch["x1_length"])
        return losses["unmask"] + losses["insertion"]
