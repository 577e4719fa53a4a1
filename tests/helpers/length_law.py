"""A law over lengths can be followed exactly at real lengths, where one over strings cannot be
enumerated: LengthLaw is the posterior of n given (number of tokens, t) when the tokens themselves
say nothing.
"""

import numpy as np
import torch
from exact_posterior import MASK, NUM_TOKENS, PAD

from sampling.flexmdm import generate_flexmdm

COMMON = dict(
    mask_id=MASK, pad_id=PAD, num_tokens=NUM_TOKENS, temperature=1.0, sampler="event_driven"
)
# what there is to lose where many things happen at once: which of two lengths it is
TEN_OR_FORTY = np.zeros(41)
TEN_OR_FORTY[[10, 40]] = 0.5


class LengthLaw(torch.nn.Module):
    """p: probabilities of the lengths 0 ... len(p) - 1. Given m tokens at t, n weighs p(n) C(n, m)
    (1-t)^(n-m); all gaps are alike.
    """

    device = torch.device("cpu")
    supports_logits_mask = True

    def __init__(self, p):
        super().__init__()
        self.log_p = torch.as_tensor(p, dtype=torch.float64).log()
        self.n = torch.arange(len(p), dtype=torch.float64)

    def forward(self, input_ids, timesteps, attention_mask=None, logits_mask=None):
        m = attention_mask.sum(1).double()[:, None]  # (B, 1)
        missing = (self.n - m).clamp(min=0)  # (B, N)
        log_weight = (
            self.log_p
            + torch.lgamma(self.n + 1)
            - torch.lgamma(missing + 1)
            + missing * (1 - timesteps.double()).clamp(min=1e-12).log()[:, None]
        )
        # 0: longer than any n
        weight = torch.softmax(log_weight.masked_fill(self.n < m, -torch.inf), 1).nan_to_num(0)
        total = (weight * missing).sum(1, keepdim=True)  # (B, 1)
        return {
            "logits": torch.zeros(int(logits_mask.sum()), PAD + 1),
            "length": (total / (m + 1)).repeat(1, input_ids.shape[1] + 1),
        }


def lengths_of(p, rows, quiet=False, **settings):
    result = generate_flexmdm(LengthLaw(p), batch_size=rows, max_length=300, **COMMON, **settings)
    per_token = float(result.evaluations.double().mean() / result.lengths.double().mean())
    if not quiet:
        print(
            f"{settings}: {per_token:.2f} evaluations a token, at most"
            f" {int(result.evaluations.max())} a row, mean length"
            f" {float(result.lengths.double().mean()):.1f}, ratios clipped"
            f" {float(result.rate_bound_violations.double().mean()):.2f} a row"
        )
    return result, per_token


def distance_of_lengths(result, p):
    """Total variation of the sampled lengths from p."""
    found = torch.bincount(result.lengths, minlength=len(p)).double() / len(result.lengths)
    return float((found[: len(p)] - torch.as_tensor(p)).abs().sum() + found[len(p) :].sum()) / 2
