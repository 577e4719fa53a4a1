"""Leaps by drawn counts: instead of a Poisson number of masks with the right mean, a leap draws for
each gap the number n of tokens missing there from p(n | xt, t), and inserts each of these tokens
with the leap's probability q: a Binomial(n, q) number.

Given that n tokens are missing in a gap, each is inserted within the leap with probability q,
independently. So with an exact p(n) the number that a gap receives has the right law, however large
the leap; of a Poisson number only the mean is right. Several gaps are drawn as if they were
independent of each other, which in the posterior they need not be: there the leap stays an
approximation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sampling.clock import GAP, INSERTIONS, Floats, Rows
from sampling.row_random import RowUniforms
from sampling.sequences import Sequences
from sampling.token_choice import draw_tokens


def refuses_drawn_counts(model: Any) -> str | None:
    """Why a network cannot say how many tokens are missing in a gap at any time, or None."""
    config = getattr(model, "config", None)
    if not getattr(config, "length_distribution", 0):
        return "has no length distribution"
    if getattr(config, "length_distribution_at_start", False):
        return "has a length distribution that was fitted at t = 0 only"
    return None


def draw_counts(
    log_probs: torch.Tensor, random: RowUniforms, rows: Rows, gaps: Rows
) -> torch.Tensor:
    """Numbers of missing tokens, long (m,) on the device of log_probs (m, N + 1), log p(n) of the
    gaps (m,) of rows (m,); -1 where they are not numbers.
    """
    u = torch.from_numpy(random.at(rows, INSERTIONS, gaps))
    return draw_tokens(log_probs, torch.zeros_like(log_probs[0], dtype=torch.bool), 1.0, u)


def leap(
    sequences: Sequences,
    random: RowUniforms,
    rows: Rows,
    gaps: tuple[Rows, Rows],
    missing: Rows,
    share: Floats,
) -> tuple[Rows, Rows]:
    """Insert some of the missing tokens as masks, each with its row's probability `share` (R,).

    rows: (R,); gaps: (index into rows, ascending; gap), (m,) each; missing: (m,), the numbers that
    were drawn for them. Where more tokens are chosen than there is room for, a uniformly random
    subset is kept. Returns how many masks each row received and how many did not fit, (R,) each.
    Raises ValueError for a number of -1.
    """
    if (missing < 0).any():
        raise ValueError("the network's length distribution is not made of finite numbers")
    # (n,) one entry for each missing token
    row, gap = gaps[0].repeat(missing), gaps[1].repeat(missing)
    place = np.arange(len(row)) - np.searchsorted(row, row)  # counted within its row
    u = random.at(rows[row], GAP, place)
    chosen = u < share[row]
    row, gap, u = row[chosen], gap[chosen], u[chosen]
    # below the share u is uniform, so the smallest ones are a random subset; row ascends already
    gap = gap[np.lexsort((u, row))]
    room = sequences.max_length - sequences.lengths[rows]
    fits = np.arange(len(row)) - np.searchsorted(row, row) < room[row]
    count = np.zeros((len(rows), sequences.width(rows) + 1), dtype=np.int64)  # (R, W+1)
    np.add.at(count, (row[fits], gap[fits]), 1)
    received = count.sum(1)
    some = np.flatnonzero(received)
    if len(some):
        sequences.insert_counts(rows[some], count[some])
    return received, np.bincount(row, minlength=len(rows)) - received
