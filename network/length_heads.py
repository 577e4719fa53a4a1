"""Length heads that the paper does not have: how a head for the whole row's missing tokens is
shared out to the gaps, and a distribution p(n tokens are missing) instead of a mean.

The paper's own, a mean for each gap, is ScalarLengthHead in llada_dit.py.
"""

from functools import lru_cache

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig

from network.packed_rows import PackedRows, Places, Rows, at_places


def share_out(z: Tensor, lengths: Tensor) -> Tensor:
    """log g (B, T) of g[j] = N pi[j]: the expected total N, read at each row's end slot, times a
    softmax over the row's gaps; -inf after the end slot.

    z: (B, T, 2), log N and the logit of pi; lengths: long (B,), positions of the end slots.
    """
    log_total, place = z.unbind(-1)  # (B, T) each
    after = torch.arange(z.shape[1], device=z.device) > lengths[:, None]
    log_share = place.masked_fill(after, -torch.inf).log_softmax(1)
    return log_total.gather(1, lengths[:, None]) + log_share


@lru_cache
def count_bins(most: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bins of the numbers 0 ... most: (first number of each (C,), how many numbers each holds
    (C,)), long. Up to 63 a bin is one number; above that every doubling has 16 bins.
    """
    starts, width = list(range(64)), 4
    while starts[-1] + width <= most:
        starts += range(16 * width, 32 * width, width)
        width *= 2
    starts = [start for start in starts if start <= most]
    edges = torch.tensor([*starts, most + 1], device=device)
    return edges[:-1], edges.diff()


class LengthDistribution(nn.Module):
    """p(n tokens are missing in a gap), n = 0 ... most, from a hidden state: a histogram over
    `count_bins`, uniform within a bin. Its mean is what ScalarLengthHead estimates; at t = 0, with
    one gap, it is the distribution of the answer's length.
    """

    def __init__(self, width: int, most: int):
        super().__init__()
        self.most = most
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.proj1 = nn.Linear(width, width)
        self.proj2 = nn.Linear(width, len(count_bins(most, torch.device("cpu"))[0]))

    def start_low(self) -> None:
        """Start with 0 missing tokens nearly everywhere, as is true of most gaps."""
        nn.init.normal_(self.proj2.weight, std=1e-3)
        nn.init.zeros_(self.proj2.bias)
        with torch.no_grad():
            self.proj2.bias[0] = 6.0

    def bins(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d) -> log-probability of every bin (..., C), in fp32."""
        z = self.proj2(F.gelu(self.proj1(self.norm(hidden.to(self.norm.weight.dtype)))))
        return z.float().log_softmax(-1)

    def forward(self, hidden: Tensor, n: Tensor) -> Tensor:
        """log p(n): hidden (..., d), n long (...) from 0 ... most -> (...), in fp32."""
        starts, widths = count_bins(self.most, hidden.device)
        bins = torch.searchsorted(starts, n, right=True) - 1
        return self.bins(hidden).gather(-1, bins[..., None])[..., 0] - widths[bins].log()

    def log_probs(self, hidden: Tensor) -> Tensor:
        """log p(n) of every n: hidden (..., d) -> (..., most + 1), in fp32."""
        _, widths = count_bins(self.most, hidden.device)
        log_probs = self.bins(hidden) - widths.log()
        return log_probs.repeat_interleave(widths, -1, output_size=self.most + 1)


def length_distribution(width: int, config: PreTrainedConfig) -> LengthDistribution | None:
    """The head that a LLaDAConfig or FlexMDMConfig specifies, or None."""
    most = config.length_distribution
    return LengthDistribution(width, most) if most else None


def missing_tokens(
    head: LengthDistribution,
    hidden: Tensor,
    rows: Rows,
    places: Places,
    missing: Tensor | None,
    missing_at: Tensor | None,
) -> dict[str, Tensor]:
    """LLaDADiT.forward's "missing_loss", (B, L+1), where missing is given, and "missing_log_probs",
    (m, most + 1), where missing_at is. hidden: of all tokens; the others as in forward.
    """
    output = {}
    if missing is not None:
        n = missing.clamp(max=head.most)
        if isinstance(rows, PackedRows):
            output["missing_loss"] = rows.pad(-head(hidden, rows.pack(n)))
        else:
            output["missing_loss"] = -head(hidden, n)
    if missing_at is not None:
        chosen = at_places(hidden, rows, places, missing_at)
        output["missing_log_probs"] = head.log_probs(chosen)
    return output
